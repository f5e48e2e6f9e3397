import type { Candidates, Random, RouterPolicy, RoutingRequest } from '@armature/contracts';

/** Keeps the order of the candidates that were not drawn, behind those that were. */
const NOT_DRAWN = 1e9;

/** A uniformly random worker. */
export class RandomPolicy implements RouterPolicy {
  readonly name = 'random';
  readonly supports = { deterministic: false };
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  score(_request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    for (let i = 0; i < candidates.count; i++) costs[i] += this.#random.next();
  }
}

/** The worker whose last turn is longest ago, so that every worker gets its turn whatever the candidate sets are. */
export class RoundRobinPolicy implements RouterPolicy {
  readonly name = 'round-robin';
  readonly supports = { deterministic: false };
  /** Turn number of each slot's last request, 0 = none yet. */
  #lastTurn: Float64Array;
  #turn: number;

  constructor() {
    this.#lastTurn = new Float64Array(64);
    this.#turn = 0;
  }

  /** Cost = turns since the candidate longest waiting had its turn. */
  score(_request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    const { count, slots } = candidates;
    let oldest = Number.POSITIVE_INFINITY;
    for (let i = 0; i < count; i++) {
      if (slots[i] >= this.#lastTurn.length) this.#grow(slots[i]);
      oldest = Math.min(oldest, this.#lastTurn[slots[i]]);
    }
    for (let i = 0; i < count; i++) costs[i] += this.#lastTurn[slots[i]] - oldest;
  }

  /** Lowest cost, first of equals; that worker has had its turn. -1 when every candidate is excluded. */
  pick(_request: RoutingRequest, candidates: Candidates, costs: Float64Array): number {
    let best = -1;
    for (let i = 0; i < candidates.count; i++) {
      if (costs[i] < (best === -1 ? Number.POSITIVE_INFINITY : costs[best])) best = i;
    }
    if (best !== -1) {
      const slot = candidates.slots[best];
      if (slot >= this.#lastTurn.length) this.#grow(slot);
      this.#lastTurn[slot] = ++this.#turn;
    }
    return best;
  }

  #grow(slot: number): void {
    const grown = new Float64Array((slot + 1) * 2);
    grown.set(this.#lastTurn);
    this.#lastTurn = grown;
  }
}

/** The worker with the fewest running requests. */
export class LeastLoadedPolicy implements RouterPolicy {
  readonly name = 'least-loaded';
  readonly supports = { deterministic: true };

  score(_request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    for (let i = 0; i < candidates.count; i++) costs[i] += candidates.activeRequests[i];
  }
}

/** Draws two workers and takes the one with fewer running requests. */
export class PowerOfTwoPolicy implements RouterPolicy {
  readonly name = 'power-of-two';
  readonly supports = { deterministic: false };
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  score(_request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    const { count, activeRequests } = candidates;
    let eligible = 0;
    for (let i = 0; i < count; i++) if (costs[i] !== Number.POSITIVE_INFINITY) eligible++;
    // Two distinct ordinals among the candidates nobody excluded, every pair equally likely.
    const first = eligible > 0 ? this.#random.below(eligible) : -1;
    let second = eligible > 1 ? this.#random.below(eligible - 1) : -1;
    if (second >= first) second++;
    let ordinal = 0;
    for (let i = 0; i < count; i++) {
      if (costs[i] === Number.POSITIVE_INFINITY) continue;
      costs[i] += activeRequests[i] + (ordinal === first || ordinal === second ? 0 : NOT_DRAWN);
      ordinal++;
    }
  }
}
