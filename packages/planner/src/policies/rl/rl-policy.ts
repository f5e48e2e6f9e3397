import type { PlannedOutcome, PlannedState, PlannerInput, PlannerPolicy, PlannerProposal } from '@armature/contracts';
import { stateOf } from '../optimize/optimize-policy.ts';
import type { TimingPrior } from '../timing-book.ts';
import { actions, decodeAction, Encoding, features } from './encoding.ts';
import { Network } from './network.ts';
import type { NetworkWeights } from './network.ts';

export interface RlConfig {
  readonly hardware: Readonly<Record<string, TimingPrior>>;
}

const unpredicted: PlannedOutcome = { ttftMs: NaN, itlMs: NaN, attainment: NaN, goodputPerSecond: NaN, gpus: NaN, costPerHour: NaN };
const TOLD_FEATURES = 4;

/** A trained network says how much room each side of the fleet needs beyond the traffic expected. */
export class RlPolicy implements PlannerPolicy {
  readonly #network: Network;
  readonly #encoding: Encoding;

  /** Throws `PLANNER_WEIGHTS_INVALID`. */
  constructor(config: RlConfig, weights: NetworkWeights) {
    this.#network = new Network(weights, features.map(({ name }) => name), actions.map(({ name }) => name));
    this.#encoding = new Encoding(config.hardware);
  }

  propose(input: PlannerInput): PlannerProposal {
    const encoded = this.#encoding.encode(input);
    const now = stateOf(input.observation);
    if (encoded === undefined) return { state: now, outcome: unpredicted, reason: 'nothing is known of the traffic yet', action: 'hold_insufficient_data', candidates: [] };
    const action = this.#network.run(encoded.values);
    const state = decodeAction(action, encoded, input.observation);
    const room = encoded.sides.flatMap(({ name, pools }, i) => (pools.length === 0 ? [] : [`${name} for ${(2 ** (0.5 + action[i])).toFixed(2)}×`]));
    const told = strongest(encoded.values).map((i) => `${features[i].name} ${encoded.values[i].toFixed(2)}`);
    return {
      state,
      outcome: { ...unpredicted, ...costOf(state, input) },
      reason: `sized ${room.join(', ')} the expected ${encoded.requestsPerSecond.toFixed(2)} requests/s; saw ${told.join(', ')}`,
      action: actionOf(state, now),
      candidates: [],
    };
  }
}

/** Inputs furthest from zero, in shares of their bounds: what there was to react to. */
function strongest(values: Float64Array): number[] {
  const share = (i: number): number => Math.abs(values[i]) / Math.max(Math.abs(features[i].low), Math.abs(features[i].high));
  return [...values.keys()].sort((a, b) => share(b) - share(a)).slice(0, TOLD_FEATURES);
}

function costOf(state: PlannedState, { observation }: PlannerInput): Pick<PlannedOutcome, 'gpus' | 'costPerHour'> {
  let gpus = 0;
  let costPerHour = 0;
  for (const pool of observation.pools) {
    const count = state.replicas[pool.pool] ?? pool.desired;
    gpus += count * pool.gpusPerWorker;
    costPerHour += count * pool.costPerHour;
  }
  return { gpus, costPerHour };
}

function actionOf(state: PlannedState, now: PlannedState): string {
  const changes = Object.entries(state.replicas).map(([pool, count]) => Math.sign(count - (now.replicas[pool] ?? count)));
  const lends = state.lent.some(({ from, to, workers }) => workers !== (now.lent.find((entry) => entry.from === from && entry.to === to)?.workers ?? 0));
  if (changes.every((change) => change === 0)) return lends ? 'rebalance' : 'hold';
  if (changes.every((change) => change >= 0)) return 'scale_up';
  return changes.every((change) => change <= 0) ? 'scale_down' : 'rebalance';
}
