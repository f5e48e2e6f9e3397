import { TimeEstimate } from './time-estimate.ts';

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
  #underWayBytes = 0;
  #lastEndMs = -Infinity;

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

  /** From now until `bytes` more have come: one standard deviation on the safe side. */
  predictMs(bytes: number): number {
    const all = bytes + this.#underWayBytes;
    if (this.#estimate.count === 0) return this.#prior.latencyMs + all / this.#prior.bytesPerMs;
    return this.#estimate.expectedMs(all) * (1 + Math.min(1, this.#estimate.deviation));
  }

  begin(bytes: number): void {
    this.#underWayBytes += bytes;
  }

  /**
   * The medium works in order, so the time counts from the end of what was ahead. One that came too late or failed took at least so long: it is believed to be slow
   * (twice what was expected) unless it was slower.
   */
  end(bytes: number, startMs: number, nowMs: number, verdict: LoadVerdict): void {
    this.#underWayBytes -= bytes;
    const tookMs = nowMs - Math.max(startMs, Math.min(this.#lastEndMs, nowMs));
    this.#lastEndMs = nowMs;
    if (verdict === 'done') this.#estimate.sample(bytes, tookMs, nowMs);
    else this.#estimate.sample(bytes, Math.max(tookMs, 2 * this.#expected(bytes)), nowMs);
  }

  /** Bytes that were asked for and are not coming, without a word on the source: the request went away. */
  forget(bytes: number): void {
    this.#underWayBytes -= bytes;
  }

  #expected(bytes: number): number {
    return this.#estimate.count === 0 ? this.#prior.latencyMs + bytes / this.#prior.bytesPerMs : this.#estimate.expectedMs(bytes);
  }
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
