// @hot
import type { Candidates, WorkerRole } from '@armature/contracts';

/** Requests per worker that are remembered: their weight falls to 1/e over so many. */
const WINDOW = 64;
/** As if each worker had had this many more: the first requests of a pool say little about shares. */
const DAMPING = 2;
/**
 * Requests per worker at which their spread counts by half. A few requests more are no imbalance: a chat that is alone in the pool stays with the
 * worker that has its KV, for some turns; under load even spacing is worth having.
 */
const CONFIDENT_AT = 16;
/** Requests are forgotten by time, too: who had more a few minutes ago does not matter now. */
const TIME_CONSTANT_MS = 60_000;

/** How the latest requests were spread over the workers. */
export class RecentShares {
  /** By slot: requests, older ones counting less. -1 = no such worker. */
  #counts: Float64Array;
  readonly #roles: (WorkerRole | undefined)[];
  #workers: number;
  #decayedAtMs: number;

  constructor() {
    this.#counts = new Float64Array(32).fill(-1);
    this.#roles = [];
    this.#workers = 0;
    this.#decayedAtMs = 0;
  }

  /** A new worker starts with what the others of its role have on average: it gets its share, not everything until it has caught up. */
  joined(slot: number, role: WorkerRole): void {
    this.left(slot);
    if (slot >= this.#counts.length) {
      const grown = new Float64Array((slot + 1) * 2).fill(-1);
      grown.set(this.#counts);
      this.#counts = grown;
    }
    let sum = 0;
    let peers = 0;
    for (let other = 0; other < this.#roles.length; other++) {
      if (this.#roles[other] !== role) continue;
      sum += this.#counts[other];
      peers++;
    }
    this.#counts[slot] = peers === 0 ? 0 : sum / peers;
    this.#roles[slot] = role;
    this.#workers++;
  }

  left(slot: number): void {
    if (this.#roles[slot] === undefined) return;
    this.#roles[slot] = undefined;
    this.#counts[slot] = -1;
    this.#workers--;
  }

  dispatched(slot: number, nowMs: number): void {
    if (this.#roles[slot] === undefined) return;
    const kept = (1 - 1 / (WINDOW * this.#workers)) * this.#fading(nowMs);
    this.#decayedAtMs = nowMs;
    const counts = this.#counts;
    const slots = this.#roles.length;
    for (let other = 0; other < slots; other++) if (counts[other] > 0) counts[other] *= kept;
    counts[slot]++;
  }

  /** For each candidate how far its share lies above (below: negative) the mean of the candidates: 0.1 = 10 % more than its share. */
  fill(candidates: Candidates, excessShare: Float64Array, nowMs: number): void {
    const { count, slots } = candidates;
    const fading = this.#fading(nowMs);
    let sum = 0;
    for (let i = 0; i < count; i++) sum += excessShare[i] = this.#count(slots[i]);
    const mean = count === 0 ? 0 : (fading * sum) / count;
    const scale = mean / (mean + CONFIDENT_AT) / (mean + DAMPING);
    for (let i = 0; i < count; i++) excessShare[i] = scale * (fading * excessShare[i] - mean);
  }

  #fading(nowMs: number): number {
    return Math.exp((this.#decayedAtMs - nowMs) / TIME_CONSTANT_MS);
  }

  #count(slot: number): number {
    return slot < this.#counts.length ? Math.max(0, this.#counts[slot]) : 0;
  }
}
