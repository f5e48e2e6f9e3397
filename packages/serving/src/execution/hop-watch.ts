import type { ExecutionHost } from './execution-host.ts';

/** Times the hops of one attempt for the policies that predict them. */
export class HopWatch {
  readonly #host: ExecutionHost;
  #predictedMs = NaN;
  #isLocal = false;
  #queuedTokens = 0;
  #dispatchedAtMs = 0;
  #prefillEndedAtMs = NaN;

  constructor(host: ExecutionHost) {
    this.#host = host;
  }

  /** The prompt goes to a worker that has `queuedTokens` to compute, its own included. */
  dispatched(queuedTokens: number): void {
    this.#queuedTokens = queuedTokens;
    this.#dispatchedAtMs = this.#host.clock.nowMs();
  }

  /** The worker that decodes computes the prompt. */
  local(predictedMs: number): void {
    this.#predictedMs = predictedMs;
    this.#isLocal = true;
  }

  remote(predictedMs: number): void {
    this.#predictedMs = predictedMs;
  }

  /** The first token has come from there. */
  localDone(atMs: number): void {
    const { hopTimes } = this.#host;
    if (!this.#isLocal || hopTimes === undefined) return;
    const tookMs = atMs - this.#dispatchedAtMs;
    hopTimes.localPrefill(this.#queuedTokens, tookMs);
    hopTimes.settled(this.#predictedMs, tookMs);
  }

  /** The prompt is with the prefill worker. */
  prefillEnded(atMs: number): void {
    this.#prefillEndedAtMs = atMs;
    this.#host.hopTimes?.remotePrefill(this.#queuedTokens, atMs - this.#dispatchedAtMs);
  }

  /** What comes is no measure of a transfer: it begins anew. */
  disturbed(): void {
    this.#prefillEndedAtMs = NaN;
  }

  /** The last block is with the decode worker: there the answer goes on. */
  transferred(blocks: number, atMs: number): void {
    const { hopTimes } = this.#host;
    if (hopTimes === undefined || Number.isNaN(this.#prefillEndedAtMs)) return;
    hopTimes.transfer(blocks, atMs - this.#prefillEndedAtMs);
    hopTimes.settled(this.#predictedMs, atMs - this.#dispatchedAtMs);
  }
}
