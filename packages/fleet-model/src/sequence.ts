/** One request on its way through the model. Tokens are counts, not contents. */
export interface Sequence {
  readonly arrivedMs: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
  /** Prompt tokens still to be computed. */
  toPrefill: number;
  /** Of this life: KV tokens held when decoding began, and the worker's pass count then. */
  baseTokens: number;
  /** Pass count of its worker at which it gets its last token. */
  endsAtPass: number;
  /** Output tokens it has. */
  produced: number;
  firstTokenMs: number;
  /** Its latencies are measured. */
  isCounted: boolean;
}

export function newSequence(arrivedMs: number, promptTokens: number, cachedTokens: number, outputTokens: number): Sequence {
  const cached = Math.max(0, Math.min(cachedTokens, promptTokens - 1));
  return { arrivedMs, promptTokens, cachedTokens: cached, outputTokens: Math.max(1, outputTokens), toPrefill: promptTokens - cached, baseTokens: 0, endsAtPass: 0, produced: 0, firstTokenMs: NaN, isCounted: true };
}
