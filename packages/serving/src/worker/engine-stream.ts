import type { EngineHandle, EngineSink, InferenceEnd, PlaneStream, PrefillHandover, TokenBatch } from '@armature/contracts';
import { handoverMessage, tokensMessage } from '../messages.ts';
import type { PrefillTiming } from './prefill-watch.ts';

export interface EngineStreamOptions {
  readonly stream: PlaneStream;
  readonly onEnd: () => void;
  /** Number of an engine's event in the worker's sequence. */
  readonly eventIdOf: (engineEventId: number) => number;
  readonly timing?: PrefillTiming | undefined;
}

/** An engine's sink that writes to a plane stream: tokens as they come, one end. */
export class EngineStream implements EngineSink {
  readonly #options: EngineStreamOptions;
  readonly #stream: PlaneStream;
  readonly #timing: PrefillTiming | undefined;
  #handle: EngineHandle | undefined;
  #hasEnded = false;

  constructor(options: EngineStreamOptions) {
    this.#options = options;
    this.#stream = options.stream;
    this.#timing = options.timing;
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
    this.#timing?.computed();
    if (!this.#hasEnded) this.#stream.send(tokensMessage(batch));
  }

  end(end: InferenceEnd, eventId = 0): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#timing?.ended(end.type === 'finished' ? end.usage.cachedTokens : Infinity);
    if (end.type === 'finished') {
      this.#stream.send({ type: 'end', ...end.usage, eventId: this.#options.eventIdOf(eventId) });
      this.#stream.close();
    } else if (end.type === 'failed') {
      this.#stream.close(end.error);
    } else {
      this.#stream.close({ code: 'SERVING_CANCELLED', message: 'the request was cancelled' });
    }
    this.#options.onEnd();
  }
}
