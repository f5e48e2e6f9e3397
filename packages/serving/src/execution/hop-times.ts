import { FadingLine } from './fading-line.ts';

/**
 * What the hops of a model's requests have taken lately, for policies that compare them. Prefill times are lines over the prompt tokens that a worker had to
 * compute when the request came: those before it and its own.
 */
export class HopTimes {
  readonly #local = new FadingLine();
  readonly #remote = new FadingLine();
  readonly #transfer = new FadingLine();
  readonly #wrong = new FadingLine(0.99);

  /** A decode worker (or one with both roles) has computed a prompt: from dispatch to the first token. */
  localPrefill(queuedTokens: number, milliseconds: number): void {
    this.#local.observe(queuedTokens, milliseconds);
  }

  /** A prefill worker has: from dispatch to its end. */
  remotePrefill(queuedTokens: number, milliseconds: number): void {
    this.#remote.observe(queuedTokens, milliseconds);
  }

  /** From the end of prefill to the arrival of the last block; what moved meanwhile costs nothing. */
  transfer(blocks: number, milliseconds: number): void {
    this.#transfer.observe(blocks, milliseconds);
  }

  /** A prediction and what came of it, as a share of what came. */
  settled(predictedMs: number, actualMs: number): void {
    if (actualMs > 0) this.#wrong.observe(0, Math.abs(predictedMs - actualMs) / actualMs);
  }

  localMs(queuedTokens: number): number {
    return this.#local.at(queuedTokens);
  }

  remoteMs(queuedTokens: number, blocks: number): number {
    return this.#remote.at(queuedTokens) + this.#transfer.at(blocks);
  }

  /** For the admin listener: observations, and the mean error of predictions of the first token. */
  report(): { readonly local: number; readonly remote: number; readonly transfers: number; readonly meanRelativeError: number | undefined } {
    const error = this.#wrong.at(0);
    return { local: this.#local.count, remote: this.#remote.count, transfers: this.#transfer.count, meanRelativeError: Number.isNaN(error) ? undefined : error };
  }
}
