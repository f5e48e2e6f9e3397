import type { PlannedOutcome, PlannedState, PlannerInput, PlannerPolicy, PlannerProposal, PoolObservation } from '@armature/contracts';
import { workersAt } from '../workers-at.ts';
import { stateOf } from '../optimize/optimize-policy.ts';

export interface LoadThresholds {
  /** Above: one worker more. */
  readonly up: number;
  /** Below, and below `up` still after the removal: one worker less. */
  readonly down: number;
}

export interface LoadConfig {
  readonly prefill: LoadThresholds;
  readonly decode: LoadThresholds;
  /** Workers added at once, as a share of those there; at least one. */
  readonly step: number;
}

/** How loaded a pool is: 1 = full. */
interface PoolLoad {
  /** Prompt tokens that wait, in passes per worker. */
  readonly prefill: number;
  /** The fuller of KV (what waits included) and seats. */
  readonly decode: number;
}

/**
 * Thresholds on what is seen now, with the reference's numbers: prefill by the prompt tokens that wait per worker, in passes; decode by the share of KV
 * or of seats in use. A pool that does both grows by either and shrinks by both. What is ordered and has not come counts as there.
 */
export class LoadPolicy implements PlannerPolicy {
  readonly #config: LoadConfig;

  constructor(config: LoadConfig) {
    this.#config = config;
  }

  propose({ observation }: PlannerInput): PlannerProposal {
    const now = stateOf(observation);
    const replicas: Record<string, number> = { ...now.replicas };
    const reasons: string[] = [];
    let [unknown, changes] = [0, 0];
    for (const pool of observation.pools) {
      const { by, reason } = this.#change(pool, workersAt(pool, observation.pools));
      if (Number.isNaN(by)) unknown++;
      else if (by !== 0) {
        replicas[pool.pool] = pool.desired + by;
        changes += Math.sign(by);
      }
      reasons.push(`${pool.pool}: ${reason}`);
    }
    const changed = observation.pools.some(({ pool, desired }) => replicas[pool] !== desired);
    const action = unknown === observation.pools.length ? 'hold_insufficient_data' : !changed ? 'hold' : changes > 0 ? 'scale_up' : changes < 0 ? 'scale_down' : 'rebalance';
    const state: PlannedState = { ...now, replicas };
    return { state, outcome: outcomeOf(state, observation.pools), reason: reasons.join('; '), action, candidates: [] };
  }

  /** `workers`: who share its load now. NaN: nothing is known of it. */
  #change(pool: PoolObservation, workers: number): { readonly by: number; readonly reason: string } {
    const here = pool.ready + pool.starting;
    if (pool.ready === 0) return { by: pool.starting > 0 ? 0 : Number.NaN, reason: pool.starting > 0 ? `${pool.starting} workers are starting` : 'no worker is ready' };
    const load = loadOf(pool, workers);
    const parts = (['prefill', 'decode'] as const).filter((part) => pool.role === 'both' || pool.role === part);
    if (parts.some((part) => Number.isNaN(load[part]))) return { by: Number.NaN, reason: 'its load is not known' };
    const said = parts.map((part) => `${part} ${load[part].toFixed(2)}`).join(', ');
    // Load that workers on their way will share.
    const spread = pool.ready / Math.max(1, here);
    const high = parts.find((part) => load[part] * spread >= this.#config[part].up);
    if (high !== undefined) return { by: Math.max(1, Math.round(here * this.#config.step)), reason: `${said}: ${high} at or above ${this.#config[high].up}` };
    const isLow = here === pool.desired && pool.starting === 0 && parts.every((part) => load[part] < this.#config[part].down);
    if (!isLow) return { by: 0, reason: said };
    const after = pool.ready / Math.max(1, pool.ready - 1);
    const refused = parts.find((part) => load[part] * after >= this.#config[part].up);
    if (refused !== undefined || pool.ready === 1) return { by: 0, reason: `${said}: low, but one less would be too few` };
    return { by: -1, reason: `${said}: below ${parts.map((part) => `${part} ${this.#config[part].down}`).join(', ')}` };
  }
}

function loadOf({ running, waiting, prefillTokens, usedBlocks, totalBlocks, capacity }: PoolObservation, workers: number): PoolLoad {
  const passTokens = capacity?.maxBatchedTokens ?? 8_192;
  const kv = totalBlocks > 0 ? usedBlocks / totalBlocks : Number.NaN;
  const seats = (running + waiting) / (workers * (capacity?.maxSequences ?? 256));
  return { prefill: prefillTokens / (workers * passTokens), decode: Number.isNaN(kv) ? seats : Math.max(kv, seats) };
}

function outcomeOf(state: PlannedState, pools: readonly PoolObservation[]): PlannedOutcome {
  let [gpus, costPerHour] = [0, 0];
  for (const pool of pools) {
    gpus += state.replicas[pool.pool] * pool.gpusPerWorker;
    costPerHour += state.replicas[pool.pool] * pool.costPerHour;
  }
  return { ttftMs: NaN, itlMs: NaN, attainment: NaN, goodputPerSecond: NaN, gpus, costPerHour };
}
