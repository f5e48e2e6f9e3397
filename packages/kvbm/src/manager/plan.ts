import type { KvFetchSource, KvPeer } from './face.ts';
import type { SourceCost } from './source-cost.ts';

/** A place that may hold blocks of the prompt. */
export interface FetchCandidate {
  readonly source: Exclude<KvFetchSource, 'device' | 'recompute'>;
  readonly cost: SourceCost;
  readonly peer?: KvPeer;
  /** Rows from `row` on that it holds without a break. */
  held(row: number): number;
}

export interface PlanInput {
  /** Rows that the device holds. */
  readonly firstRow: number;
  /** Complete blocks of the prompt. */
  readonly rows: number;
  readonly blockBytes: number;
  readonly batchBlocks: number;
  readonly candidates: readonly FetchCandidate[];
  /** Host memory to device. */
  readonly copy: SourceCost;
  /** Time for which fetching is free: the engine computes for others. */
  readonly queueMs: number;
  /** Of computing the prompt when its first `row` blocks are there. */
  computeMs(row: number): number;
  readonly maxSlowdown: number;
  /** No fetch may take longer, whatever it would save. */
  readonly longestMs: number;
}

/** Rows that come together from one source. */
export interface PlannedBatch {
  readonly candidate: FetchCandidate;
  readonly from: number;
  readonly to: number;
  /** When they are expected on the device, in milliseconds from now. */
  readonly landsMs: number;
}

export interface FetchPlan {
  readonly batches: readonly PlannedBatch[];
  /** What was not taken, though its source holds the next rows: for the record and for probes. */
  readonly declined: { readonly candidate: FetchCandidate; readonly from: number; readonly to: number; readonly estimatedMs: number } | undefined;
}

/** How long a request may wait, counted from its start, when its first `row` blocks have landed: so that computing the rest still ends in time. */
export function waitLimitMs({ firstRow, queueMs, computeMs, maxSlowdown, longestMs }: Pick<PlanInput, 'firstRow' | 'queueMs' | 'computeMs' | 'maxSlowdown' | 'longestMs'>, row: number): number {
  return Math.min(longestMs, (1 + maxSlowdown) * (queueMs + computeMs(firstRow)) - computeMs(row));
}

/**
 * Walks the prompt batch by batch, each from the source that would have it on the device first per block, and cuts where waiting and computing the rest are shortest
 * together. A batch that would land after the limit with what has landed before is not begun: it would be cancelled.
 */
export function planFetch(input: PlanInput): FetchPlan {
  const { firstRow, rows, queueMs, computeMs } = input;
  const walk = new Walk(input);
  let bestMs = queueMs + computeMs(firstRow);
  let best = 0;
  const batches: PlannedBatch[] = [];
  for (let row = firstRow; row < rows; ) {
    const batch = walk.next(row);
    if (batch === undefined) break;
    batches.push(batch);
    row = batch.to;
    const totalMs = Math.max(queueMs, batch.landsMs) + computeMs(row);
    if (totalMs >= bestMs) continue;
    bestMs = totalMs;
    best = batches.length;
  }
  const dropped = batches[best];
  const declined = dropped === undefined ? walk.refused : { candidate: dropped.candidate, from: dropped.from, to: dropped.to, estimatedMs: dropped.landsMs };
  return { batches: batches.slice(0, best), declined };
}

/** Where each source stands after the batches chosen so far. */
class Walk {
  readonly #input: PlanInput;
  readonly #heldTo: number[];
  readonly #takenBytes: number[];
  #copiedBytes = 0;
  #landedMs = 0;
  refused: FetchPlan['declined'] = undefined;

  constructor(input: PlanInput) {
    this.#input = input;
    this.#heldTo = input.candidates.map(() => -1);
    this.#takenBytes = input.candidates.map(() => 0);
  }

  next(row: number): PlannedBatch | undefined {
    const { candidates, batchBlocks, blockBytes } = this.#input;
    let chosen = -1;
    let chosenTo = row;
    let chosenMs = 0;
    for (let i = 0; i < candidates.length; i++) {
      let to = Math.min(this.#heldUntil(i, row), row + batchBlocks);
      if (to <= row) continue;
      let landsMs = this.#landsMs(i, to - row);
      const limitMs = waitLimitMs(this.#input, row);
      if (landsMs > limitMs) {
        this.refused ??= { candidate: candidates[i], from: row, to, estimatedMs: landsMs };
        // What lands of a smaller batch in time buys the time to wait for the next one.
        while (landsMs > limitMs && to - row > 1) {
          to = row + ((to - row) >> 1);
          landsMs = this.#landsMs(i, to - row);
        }
        if (landsMs > limitMs) continue;
      }
      if (chosen !== -1 && (landsMs - this.#landedMs) * (chosenTo - row) >= (chosenMs - this.#landedMs) * (to - row)) continue;
      chosen = i;
      chosenTo = to;
      chosenMs = landsMs;
    }
    if (chosen === -1) return undefined;
    const bytes = (chosenTo - row) * blockBytes;
    this.#takenBytes[chosen] += bytes;
    this.#copiedBytes += bytes;
    this.#landedMs = chosenMs;
    this.refused = undefined;
    return { candidate: candidates[chosen], from: row, to: chosenTo, landsMs: chosenMs };
  }

  #heldUntil(i: number, row: number): number {
    if (this.#heldTo[i] <= row) this.#heldTo[i] = Math.min(this.#input.rows, row + this.#input.candidates[i].held(row));
    return this.#heldTo[i];
  }

  /** Sources work beside each other; the copies to the device follow in order. */
  #landsMs(i: number, blocks: number): number {
    const { candidates, copy, blockBytes } = this.#input;
    const bytes = blocks * blockBytes;
    const { cost, source } = candidates[i];
    const copyMs = Math.max(0, copy.predictMs(this.#copiedBytes + bytes) - (this.#copiedBytes === 0 ? 0 : copy.predictMs(this.#copiedBytes)));
    const loadedMs = source === 'host' ? 0 : cost.predictMs(this.#takenBytes[i] + bytes);
    return Math.max(this.#landedMs, loadedMs) + copyMs;
  }
}
