import type { Downstream } from './frames.ts';

interface Held {
  readonly frame: Downstream;
  readonly bytes: number;
}

/** Frames that wait for a replay, bounded in bytes; the oldest go first and show as a gap afterwards. */
export class HeldFrames {
  readonly #capacityBytes: number;
  #frames: Held[] = [];
  #first = 0;
  #bytes = 0;

  constructor(capacityBytes: number) {
    this.#capacityBytes = capacityBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  push(frame: Downstream, bytes: number): void {
    this.#frames.push({ frame, bytes });
    this.#bytes += bytes;
    while (this.#bytes > this.#capacityBytes && this.#frames.length - this.#first > 1) this.shift();
  }

  peek(): Held | undefined {
    return this.#frames[this.#first];
  }

  shift(): Downstream | undefined {
    const entry = this.#frames[this.#first];
    if (entry === undefined) return undefined;
    this.#bytes -= entry.bytes;
    this.#first++;
    if (this.#first === this.#frames.length || this.#first > 1024) {
      this.#frames = this.#frames.slice(this.#first);
      this.#first = 0;
    }
    return entry.frame;
  }

  clear(): void {
    this.#frames = [];
    this.#first = 0;
    this.#bytes = 0;
  }
}
