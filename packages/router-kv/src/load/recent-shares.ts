// @hot
import type { Candidates, WorkerRole } from '@armature/contracts';

/** Requests per worker that are remembered: their weight falls to 1/e over so many. */
const WINDOW = 64;
/** As if each worker had had this many more: the first requests of a pool say little about shares. */
const DAMPING = 2;

/** How the latest requests were spread over the workers; forgets by count, not by time, so that a quiet night changes nothing. */
export class RecentShares {
  /** By slot: requests, older ones counting less. -1 = no such worker. */
  #counts: Float64Array;
  readonly #roles: (WorkerRole | undefined)[];
  #workers: number;

  constructor() {
    this.#counts = new Float64Array(32).fill(-1);
    this.#roles = [];
    this.#workers = 0;
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

  dispatched(slot: number): void {
    if (this.#roles[slot] === undefined) return;
    const kept = 1 - 1 / (WINDOW * this.#workers);
    for (let other = 0; other < this.#roles.length; other++) if (this.#counts[other] > 0) this.#counts[other] *= kept;
    this.#counts[slot]++;
  }

  /** For each candidate how far its share lies above (below: negative) the mean of the candidates: 0.1 = 10 % more than its share. */
  fill(candidates: Candidates, excessShare: Float64Array): void {
    const { count, slots } = candidates;
    let sum = 0;
    for (let i = 0; i < count; i++) sum += this.#count(slots[i]);
    const mean = count === 0 ? 0 : sum / count;
    for (let i = 0; i < count; i++) excessShare[i] = (this.#count(slots[i]) - mean) / (mean + DAMPING);
  }

  #count(slot: number): number {
    return slot < this.#counts.length ? Math.max(0, this.#counts[slot]) : 0;
  }
}
