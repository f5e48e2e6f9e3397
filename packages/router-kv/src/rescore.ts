import type { Candidates, RouterScorer, RoutingRequest } from '@armature/contracts';
import type { KvPolicyConfig } from './config.ts';
import { kvPolicyDefaults } from './config.ts';
import { ExpectedWorkScorer } from './scorers/expected-work.ts';
import { KvCostScorer } from './scorers/kv-cost.ts';
import { SessionScorer } from './scorers/session.ts';
import { PreferredTaintsScorer } from './scorers/taints.ts';

/** A decision as it was recorded: facts, and what each scorer added. */
export interface RecordedDecision {
  readonly request: RoutingRequest;
  readonly candidates: Candidates;
  /** Row of the worker that was chosen. */
  readonly chosen: number;
  /** Scorers in order. */
  readonly parts: readonly string[];
  /** What each added, `parts.length` numbers per candidate. */
  readonly partCosts: Float64Array;
  /** 1: the candidate was excluded (by a filter, or as busy) and stays so. */
  readonly excluded: Uint8Array;
}

export interface Rescored {
  readonly costs: Float64Array;
  /** Row of the lowest cost; `prefer` when it is among the lowest. */
  readonly best: number;
}

/**
 * Scores recorded decisions of the `kv` policy again, with other weights: the production scorers on the recorded facts. Scorers that are not
 * built in keep what they added then. Draws (temperature above 0) are not repeated: the lowest cost is the answer.
 */
export class Rescorer {
  readonly #scorers: ReadonlyMap<string, RouterScorer>;

  constructor(config: Partial<KvPolicyConfig>) {
    const weights = { ...kvPolicyDefaults, ...config };
    this.#scorers = new Map([new ExpectedWorkScorer(weights), new KvCostScorer(weights), new SessionScorer(), new PreferredTaintsScorer()].map((scorer) => [scorer.name, scorer]));
  }

  score(decision: RecordedDecision, prefer = decision.chosen): Rescored {
    const { request, candidates, parts, partCosts, excluded } = decision;
    const costs = new Float64Array(candidates.count);
    parts.forEach((name, p) => {
      const scorer = this.#scorers.get(name);
      if (scorer !== undefined) scorer.score(request, candidates, costs);
      else for (let i = 0; i < candidates.count; i++) costs[i] += partCosts[i * parts.length + p];
    });
    for (let i = 0; i < candidates.count; i++) if (excluded[i] !== 0) costs[i] = Number.POSITIVE_INFINITY;
    let best = prefer;
    for (let i = 0; i < candidates.count; i++) if (costs[i] < (best < 0 ? Number.POSITIVE_INFINITY : costs[best])) best = i;
    return { costs, best };
  }
}
