import type { EngineHandle, EngineSink, InferenceEnd, PlaneStream, PrefillHandover, TokenBatch } from '@armature/contracts';
import { handoverMessage, tokensMessage } from '../messages.ts';

/** An engine's sink that writes to a plane stream: tokens as they come, one end. */
export class EngineStream implements EngineSink {
  readonly #stream: PlaneStream;
  readonly #onEnd: () => void;
  #handle: EngineHandle | undefined;
  #hasEnded = false;

  constructor(stream: PlaneStream, onEnd: () => void) {
    this.#stream = stream;
    this.#onEnd = onEnd;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  get handle(): EngineHandle | undefined {
    return this.#handle;
  }

  set handle(handle: EngineHandle) {
    this.#handle = handle;
  }

  prefilled(handover: PrefillHandover): void {
    if (!this.#hasEnded) this.#stream.send(handoverMessage(handover));
  }

  tokens(batch: TokenBatch): void {
    if (!this.#hasEnded) this.#stream.send(tokensMessage(batch));
  }

  end(end: InferenceEnd, eventId = 0): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    if (end.type === 'finished') {
      this.#stream.send({ type: 'end', ...end.usage, eventId });
      this.#stream.close();
    } else if (end.type === 'failed') {
      this.#stream.close(end.error);
    } else {
      this.#stream.close({ code: 'SERVING_CANCELLED', message: 'the request was cancelled' });
    }
    this.#onEnd();
  }
}
