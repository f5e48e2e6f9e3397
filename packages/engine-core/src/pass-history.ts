// @hot
import type { PassColumns } from '@armature/contracts';
import type { StepColumns } from './step-columns.ts';

const CAPACITY = 64;

/** What the last passes had to compute and how long they took. Counts nothing before the first `take`. */
export class PassHistory {
  readonly #prefillTokens: Float64Array;
  readonly #decodeSequences: Float64Array;
  readonly #contextTokens: Float64Array;
  readonly #ms: Float64Array;
  #isWatched: boolean;
  #isRunning: boolean;
  /** Passes since the last `take`; of more than there is room for the newest are kept. */
  #count: number;
  #beganMs: number;

  constructor() {
    this.#prefillTokens = new Float64Array(CAPACITY);
    this.#decodeSequences = new Float64Array(CAPACITY);
    this.#contextTokens = new Float64Array(CAPACITY);
    this.#ms = new Float64Array(CAPACITY);
    this.#isWatched = false;
    this.#isRunning = false;
    this.#count = 0;
    this.#beganMs = 0;
  }

  begin({ sequenceCount, queryLengths, contextLengths }: StepColumns, nowMs: number): void {
    if (!this.#isWatched) return;
    const at = this.#count % CAPACITY;
    let prefill = 0;
    let decode = 0;
    let context = 0;
    for (let i = 0; i < sequenceCount; i++) {
      if (queryLengths[i] > 1 || contextLengths[i] === 0) prefill += queryLengths[i];
      else {
        decode++;
        context += contextLengths[i];
      }
    }
    this.#prefillTokens[at] = prefill;
    this.#decodeSequences[at] = decode;
    this.#contextTokens[at] = context;
    this.#beganMs = nowMs;
    this.#isRunning = true;
  }

  /** `passes` done at once count as one of their mean. */
  end(passes: number, nowMs: number): void {
    if (!this.#isRunning) return;
    const at = this.#count % CAPACITY;
    this.#contextTokens[at] += (this.#decodeSequences[at] * (passes - 1)) / 2;
    this.#ms[at] = (nowMs - this.#beganMs) / passes;
    this.#count++;
    this.#isRunning = false;
  }

  /** Oldest first. */
  take(): PassColumns {
    this.#isWatched = true;
    const rows = Math.min(this.#count, CAPACITY);
    const first = this.#count - rows;
    const column = (of: Float64Array): Float64Array => Float64Array.from({ length: rows }, (_value, i) => of[(first + i) % CAPACITY]);
    const taken = { prefillTokens: column(this.#prefillTokens), decodeSequences: column(this.#decodeSequences), contextTokens: column(this.#contextTokens), ms: column(this.#ms) };
    // A pass that runs is counted from its row on.
    const at = this.#count % CAPACITY;
    if (this.#isRunning && at !== 0) {
      this.#prefillTokens[0] = this.#prefillTokens[at];
      this.#decodeSequences[0] = this.#decodeSequences[at];
      this.#contextTokens[0] = this.#contextTokens[at];
    }
    this.#count = 0;
    return taken;
  }
}
