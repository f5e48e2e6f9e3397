import { MemoryRequestPlane, SystemClock } from '@armature/core';
import type { ErrorData, Logger, PlaneMessage, PlaneStream, RequestPlane, StreamHandler, StreamOpen, StreamSink } from '@armature/contracts';

const nothing = (): void => undefined;
const silent: Logger = { debug: nothing, info: nothing, warn: nothing, error: nothing, child: () => silent, isEnabled: () => false };
const lost: ErrorData = { code: 'PLANE_DISCONNECTED', message: 'cut by the test', retryable: true };

/** Whether a stream is cut before the message is delivered to its caller (`from: worker`) or sent to its worker (`from: caller`). */
export type Cut = (open: StreamOpen, message: PlaneMessage, from: 'worker' | 'caller') => boolean;

/** The memory plane with connections that break where told: both sides learn of it as of a lost peer. */
export class CutPlane implements RequestPlane {
  readonly #inner = new MemoryRequestPlane({ encode: false, codec: undefined as never, clock: new SystemClock(), log: silent, highWaterMessages: 1_000, maxBufferedMessages: 100_000 });
  readonly supports = this.#inner.supports;
  cut: Cut = () => false;
  cuts = 0;

  serve(name: string, handler: StreamHandler): ReturnType<RequestPlane['serve']> {
    return this.#inner.serve(name, handler);
  }

  close(): void {
    this.#inner.close();
  }

  open(address: string, open: StreamOpen, sink: StreamSink): PlaneStream {
    let isCut = false;
    const breaks = (message: PlaneMessage, from: 'worker' | 'caller'): boolean => {
      if (isCut || !this.cut(open, message, from)) return isCut;
      isCut = true;
      this.cuts++;
      stream.close(lost);
      sink.closed(lost);
      return true;
    };
    const stream = this.#inner.open(address, open, {
      message: (message) => {
        if (!breaks(message, 'worker')) sink.message(message);
      },
      closed: (error) => {
        if (!isCut) sink.closed(error);
      },
    });
    return { send: (message) => breaks(message, 'caller') || stream.send(message), close: (error) => stream.close(error) };
  }
}
