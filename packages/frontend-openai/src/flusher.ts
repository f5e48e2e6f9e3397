// @hot
import type { Clock } from '@armature/contracts';

/** Something with output to write at the end of the tick. */
export interface Flushable {
  /** Set by the flusher: already in the list of this tick. */
  dirty: boolean;
  flush(): void;
  /** `flush` threw. */
  failed(error: unknown): void;
}

/**
 * Gathers the streams that got tokens in one turn of the event loop and writes each once when the turn is over:
 * a socket write costs far more than the text in it.
 */
export class Flusher {
  readonly #clock: Clock;
  #dirty: Flushable[] = [];
  #spare: Flushable[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  mark(stream: Flushable): void {
    if (stream.dirty) return;
    stream.dirty = true;
    if (this.#dirty.push(stream) === 1) this.#clock.defer(this.#run);
  }

  readonly #run = (): void => {
    const streams = this.#dirty;
    this.#dirty = this.#spare;
    for (let i = 0; i < streams.length; i++) {
      const stream = streams[i]!;
      stream.dirty = false;
      try {
        stream.flush();
      } catch (error) {
        // One stream's failure must not keep the others of this tick unwritten.
        stream.failed(error);
      }
    }
    streams.length = 0;
    this.#spare = streams;
  };
}
