/** How far back the rate looks: e^-1 of what drained this long ago still counts. */
const MEMORY_MS = 30_000;
const MIN_RETRY_MS = 1_000;

/** Tokens per millisecond that leave the queue, measured while there is a backlog: an empty queue says nothing about capacity. */
export class DrainRate {
  readonly #maxRetryMs: number;
  /** Tokens drained and time watched, both fading at the same pace: their quotient is unbiased from the first moment. */
  #tokens = 0;
  #watchedMs = 0;
  #lastMs = 0;

  constructor(maxRetryMs: number) {
    this.#maxRetryMs = maxRetryMs;
  }

  /** Time has come to `nowMs`; call before the backlog changes. */
  advance(nowMs: number, hasBacklog: boolean): void {
    const elapsedMs = nowMs - this.#lastMs;
    this.#lastMs = nowMs;
    if (!hasBacklog || elapsedMs <= 0) return;
    const kept = Math.exp(-elapsedMs / MEMORY_MS);
    this.#tokens *= kept;
    this.#watchedMs = this.#watchedMs * kept + MEMORY_MS * (1 - kept);
  }

  drained(tokens: number): void {
    this.#tokens += tokens;
  }

  /** When `tokens` ahead will have drained. Nothing drained yet: as long as has been watched without. At least 1 s, at most the limit. */
  retryAfterMs(tokens: number): number {
    const estimateMs = this.#tokens > 0 ? (tokens * this.#watchedMs) / this.#tokens : this.#watchedMs;
    return Math.round(Math.min(this.#maxRetryMs, Math.max(MIN_RETRY_MS, estimateMs)));
  }

  /** For people; 0 = nothing drained. */
  get tokensPerSecond(): number {
    return this.#watchedMs > 0 ? (1000 * this.#tokens) / this.#watchedMs : 0;
  }
}
