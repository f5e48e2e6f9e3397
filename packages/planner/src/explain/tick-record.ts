import type { Forecast, PlannedCandidate, PlannedOutcome, PlannedState, PoolObservation, ScalingStatus, TrafficObservation } from '@armature/contracts';
import type { BoundConstraint } from '../constrain/constraints.ts';

/** A pool as it was seen, without its passes. */
export type SeenPool = Omit<PoolObservation, 'passes'> & { readonly passes: number };

/** What came of a decision, measured over the horizon of its forecast. */
export interface ActualOutcome extends PlannedOutcome {
  readonly requestsPerSecond: number;
  /** Of the horizon, seen so far. */
  readonly coveredMs: number;
  readonly isComplete: boolean;
}

/** One tick of the planner, whole: what it saw, expected, compared and decided, what bound it, and afterwards what came of it. Plain data. */
export interface TickRecord {
  readonly model: string;
  readonly tick: number;
  readonly atMs: number;
  /** For people: milliseconds since the epoch. */
  readonly wallMs: number;
  readonly intervalMs: number;
  readonly inputs: { readonly traffic: TrafficObservation; readonly pools: readonly SeenPool[]; readonly thresholdTokens: number | undefined; readonly isBlind: boolean };
  readonly problems: readonly string[];
  readonly forecast: Forecast;
  readonly proposal: { readonly action: string; readonly reason: string; readonly state: PlannedState; readonly outcome: PlannedOutcome };
  /** Best first. */
  readonly candidates: readonly PlannedCandidate[];
  /** What made the decision another one than was proposed, or else had a say. */
  readonly bound: readonly BoundConstraint[];
  readonly decision: {
    readonly state: PlannedState;
    /** Expected of the decision, where the policy had looked at it. */
    readonly outcome: PlannedOutcome | undefined;
    /** Undefined: the objective can be reached as far as known. Else why not, and the best that can be. */
    readonly unreachable: string | undefined;
  };
  readonly execution: { readonly order: 'unchanged' | 'taken' | 'failed' | 'none'; readonly revision: number; readonly status: ScalingStatus; readonly roleChanges: readonly string[] };
  /** Undefined: nothing came after it yet. */
  readonly actual: ActualOutcome | undefined;
}
