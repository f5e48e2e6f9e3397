import type { PlannedCandidate, PlannedState, PlannerInput, PlannerProposal } from '@armature/contracts';
import type { ConstrainedPlan } from '../constrain/constraints.ts';
import type { Seen } from '../observe/observer.ts';
import type { SeenPool, TickRecord } from './tick-record.ts';

/** Candidates that are kept per tick. */
const KEPT_CANDIDATES = 8;
const LIMITS: ReadonlySet<string> = new Set(['limits', 'max_gpus', 'max_cost', 'stuck', 'budget_below_minimum']);

export interface TickParts {
  readonly seen: Seen;
  readonly input: PlannerInput;
  readonly proposal: PlannerProposal;
  readonly plan: ConstrainedPlan;
  readonly problems: readonly string[];
  readonly wallMs: number;
  readonly execution: TickRecord['execution'];
}

export function recordOf({ seen, input, proposal, plan, problems, wallMs, execution }: TickParts): TickRecord {
  const { observation, forecast } = input;
  const { model, tick, atMs, intervalMs, traffic, thresholdTokens } = observation;
  const pools = observation.pools.map((pool): SeenPool => ({ ...pool, passes: pool.passes.ms.length }));
  const looked = proposal.candidates.find(({ state }) => isSame(state, plan.state));
  const { action, reason, state, outcome } = proposal;
  return {
    model,
    tick,
    atMs,
    wallMs,
    intervalMs,
    inputs: { traffic, pools, thresholdTokens, isBlind: seen.isBlind },
    problems,
    forecast,
    proposal: { action, reason, state, outcome },
    candidates: proposal.candidates.slice(0, KEPT_CANDIDATES),
    bound: plan.bound,
    decision: { state: plan.state, outcome: looked?.outcome ?? (isSame(state, plan.state) ? outcome : undefined), unreachable: unreachable(proposal, plan, looked, input) },
    execution,
    actual: undefined,
  };
}

/** An objective that cannot be kept is said, with the best that can be had. */
function unreachable({ outcome, action, reason, state }: PlannerProposal, plan: ConstrainedPlan, decided: PlannedCandidate | undefined, { objective }: PlannerInput): string | undefined {
  if (action === 'hold_objective_unreachable' || outcome.attainment < objective.quantile) return `the objective cannot be kept by any state that the policy knows: ${reason}`;
  const limit = plan.bound.find(({ name, pool }) => LIMITS.has(name) && (pool === undefined || (state.replicas[pool] ?? 0) > plan.state.replicas[pool]));
  const isLess = Object.entries(plan.state.replicas).some(([pool, count]) => count < (state.replicas[pool] ?? count));
  if (limit === undefined || !isLess) return undefined;
  const best = decided === undefined ? '' : `; expected with what is allowed: TTFT ${decided.outcome.ttftMs.toFixed(0)} ms, ITL ${decided.outcome.itlMs.toFixed(1)} ms`;
  return `the objective needs more than is allowed (${limit.detail})${best}`;
}

function isSame(a: PlannedState, b: PlannedState): boolean {
  const lent = ({ lent: all }: PlannedState): string => JSON.stringify(all.filter(({ workers }) => workers > 0));
  return Object.keys(b.replicas).every((pool) => (a.replicas[pool] ?? b.replicas[pool]) === b.replicas[pool]) && lent(a) === lent(b);
}
