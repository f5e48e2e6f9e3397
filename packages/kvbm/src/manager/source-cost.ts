import { TimeEstimate } from './time-estimate.ts';
import type { PriorLine } from './time-estimate.ts';

/** Measured writes before they say something of reads. */
const ENOUGH_WRITES = 3;
/** A source that was declined is tried off the path of requests, not more often than this: so that one that has recovered is noticed. */
const PROBE_INTERVAL_MS = 1_000;
/** While little is known, after one bad sample, and for the first good ones after it; twice as long after each further bad one in a row. */
const QUICK_PROBE_MS = 50;
/** Good samples in a row after which a source counts as known. */
const SETTLED = 4;

/** What a source is taken to be before it was measured: first fetches are tried at these, and are bounded by their deadlines. */
export interface SourcePrior {
  readonly latencyMs: number;
  readonly bytesPerMs: number;
}

export const sourcePriors = {
  host: { latencyMs: 0.1, bytesPerMs: 2_000_000 },
  disk: { latencyMs: 2, bytesPerMs: 300_000 },
  object: { latencyMs: 40, bytesPerMs: 60_000 },
  peer: { latencyMs: 3, bytesPerMs: 300_000 },
} as const satisfies Record<string, SourcePrior>;

export type LoadVerdict = 'done' | 'late' | 'failed';

/** What fetching from one source takes: measured service times, with what is under way there ahead of us. */
export class SourceCost {
  readonly #prior: SourcePrior;
  readonly #estimate = new TimeEstimate();
  /** Of the medium's writes: until it has been read, reading is taken to be like writing. */
  readonly #writes = new TimeEstimate();
  /** Samples in a row that came late, failed, or were much slower than expected. */
  #bad = 0;
  /** And those since that did not. */
  #good = 0;
  #underWayBytes = 0;
  #lastEndMs = -Infinity;
  /** Loads that were told to stop and do not end. */
  #stuck = 0;

  constructor(prior: SourcePrior) {
    this.#prior = prior;
  }

  get samples(): number {
    return this.#estimate.count;
  }

  get lastSampleMs(): number {
    return this.#estimate.lastMs;
  }

  get underWayBytes(): number {
    return this.#underWayBytes;
  }

  /** It does not even stop what it is told to stop: whatever is begun there now keeps its host blocks for as long. */
  get isStuck(): boolean {
    return this.#stuck > 0;
  }

  /** From now until `bytes` more have come: one standard deviation on the safe side. */
  predictMs(bytes: number): number {
    const all = bytes + this.#underWayBytes;
    if (this.#estimate.count === 0) return this.#priorMs(all);
    return this.#estimate.expectedMs(all) * (1 + Math.min(1, this.#estimate.deviation));
  }

  /** How long after the latest sample a declined source may be tried in the background: soon after a single bad one, which may have had its reasons elsewhere. */
  get probeIntervalMs(): number {
    if (this.#bad > 0) return Math.min(PROBE_INTERVAL_MS, QUICK_PROBE_MS * 2 ** (this.#bad - 1));
    return this.#good < SETTLED ? QUICK_PROBE_MS : PROBE_INTERVAL_MS;
  }

  /** The medium wrote so much in that time. */
  wrote(bytes: number, milliseconds: number, nowMs: number): void {
    if (this.#estimate.count === 0 && bytes > 0) this.#writes.sample(bytes, milliseconds, nowMs, priorLine(this.#prior));
  }

  begin(bytes: number): void {
    this.#underWayBytes += bytes;
  }

  /**
   * The medium works in order, so the time counts from the end of what was ahead. One that came too late or failed took at least so long: it is believed to be slow
   * (twice what was expected) unless it was slower. One that was stopped before its turn says nothing: all batches of a late fetch end together, and are one bad sample.
   */
  end(bytes: number, startMs: number, nowMs: number, verdict: LoadVerdict): void {
    this.#underWayBytes -= bytes;
    const tookMs = nowMs - Math.max(startMs, Math.min(this.#lastEndMs, nowMs));
    this.#lastEndMs = nowMs;
    if (verdict === 'late' && tookMs < this.#expected(bytes) / 2) return;
    const countedMs = verdict === 'done' ? tookMs : Math.max(tookMs, 2 * this.#expected(bytes));
    this.#estimate.sample(bytes, countedMs, nowMs, { latencyMs: this.#priorMs(0), msPerUnit: this.#priorMs(1) - this.#priorMs(0) });
    const isBad = verdict !== 'done' || this.#estimate.outliers > 0;
    this.#bad = isBad ? this.#bad + 1 : 0;
    this.#good = isBad ? 0 : this.#good + 1;
  }

  /** A load that was told to stop has not ended: counted as late now, `unstuck` when it ends after all. */
  stuck(bytes: number, startMs: number, nowMs: number): void {
    this.#stuck++;
    this.end(bytes, startMs, nowMs, 'late');
    this.#underWayBytes += bytes;
  }

  unstuck(bytes: number): void {
    this.#stuck--;
    this.#underWayBytes -= bytes;
  }

  /** Bytes that were asked for and are not coming, without a word on the source: the request went away. */
  forget(bytes: number): void {
    this.#underWayBytes -= bytes;
  }

  #expected(bytes: number): number {
    return this.#estimate.count === 0 ? this.#priorMs(bytes) : this.#estimate.expectedMs(bytes);
  }

  #priorMs(bytes: number): number {
    return this.#writes.count >= ENOUGH_WRITES ? this.#writes.expectedMs(bytes) : this.#prior.latencyMs + bytes / this.#prior.bytesPerMs;
  }
}

function priorLine({ latencyMs, bytesPerMs }: SourcePrior): PriorLine {
  return { latencyMs, msPerUnit: 1 / bytesPerMs };
}

/** Peers whose cost is remembered; the one not used for longest goes. */
const MAX_PEERS = 256;

export class SourceCosts {
  /** From host memory to the device, with the check. */
  readonly host = new SourceCost(sourcePriors.host);
  readonly disk = new SourceCost(sourcePriors.disk);
  readonly object = new SourceCost(sourcePriors.object);
  readonly #peers = new Map<string, SourceCost>();

  peer(instanceId: string): SourceCost {
    const cost = this.#peers.get(instanceId) ?? new SourceCost(sourcePriors.peer);
    this.#peers.delete(instanceId);
    this.#peers.set(instanceId, cost);
    if (this.#peers.size > MAX_PEERS) this.#peers.delete(this.#peers.keys().next().value as string);
    return cost;
  }
}
