import type { Lifecycle } from './plugin.ts';
import type { Candidates, RoutingRequest } from './router-policy.ts';

/**
 * Pieces of which router policies are composed: filters exclude, scorers add costs, one picker chooses. All are hot and synchronous: they MUST NOT
 * allocate per candidate or keep their arguments. The composing policy isolates a piece that throws or writes NaN: it is left out of that
 * decision, counted, and named in the decision record.
 */

/** Says which workers may not take a request. */
export interface RouterFilter extends Lifecycle {
  readonly name: string;
  /** False: `filter` would exclude nobody for this request, and is not called. Left out: it always is. */
  applies?(request: RoutingRequest): boolean;
  /** Sets `excluded[i] = 1` for candidates that must not get the request. Never resets it. */
  filter(request: RoutingRequest, candidates: Candidates, excluded: Uint8Array): void;
}

/** One addend of the cost of sending a request to a worker. */
export interface RouterScorer extends Lifecycle {
  readonly name: string;
  /** False: `score` would add nothing to any cost for this request, and is not called. Left out: it always is. */
  applies?(request: RoutingRequest): boolean;
  /**
   * Adds to `costs[i]`, in blocks (one block of prefill is 1); lower wins; +Infinity excludes. What earlier scorers added is there to read. The
   * composing policy multiplies what was added by the weight of this scorer. Facts are in the columns of `candidates`.
   */
  score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void;
  /** Named terms behind the cost of one candidate, from the columns alone. Not hot. */
  explain?(request: RoutingRequest, candidates: Candidates, index: number): Readonly<Record<string, number>>;
}

/** Chooses one of the candidates that are left. */
export interface RouterPicker extends Lifecycle {
  readonly name: string;
  /** Index of the chosen candidate; -1 when every cost is +Infinity. */
  pick(request: RoutingRequest, candidates: Candidates, costs: Float64Array): number;
}
