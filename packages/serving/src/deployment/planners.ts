import type { AdminHandler, DeploymentContext, Objective } from '@armature/contracts';
import { Planner } from '@armature/planner';
import type { InitialPool, PlannerConfig, TickRecord } from '@armature/planner';
import { ClusterControl } from '../control/cluster-control.ts';
import { roleMinimum } from '../control/minimum.ts';
import { PublishedThreshold } from '../telemetry/threshold.ts';
import { objectiveDefaults } from '../telemetry/schema.ts';
import type { PlannedModelConfig, PlannerSection } from './planner-schema.ts';
import type { DeploymentConfig, ModelConfig } from './schema.ts';

/** For running legs of a worker that changes its role; then they move on. */
const ROLE_DRAIN_MS = 30_000;
const ROLE_WAIT_MS = 10_000;
const HORIZON_INTERVALS = 4;
const DEFAULT_TICKS = 20;

/** The planners of a deployment, one per model, and what the admin listener tells of them. */
export class Planners {
  readonly #planners: readonly Planner[];
  readonly #thresholds: PublishedThreshold[];
  readonly #routes: (() => void)[];

  constructor(config: DeploymentConfig, section: PlannerSection, context: DeploymentContext) {
    const control = new ClusterControl({
      discovery: context.instance(config.discovery),
      requests: context.instance(config.requests),
      clock: context.clock,
      minimum: (model, leg) => roleMinimum(config.models.find(({ name }) => name === model)?.workers ?? [], leg),
    });
    const roles = { changeRole: async (model: string, worker: string, role: 'prefill' | 'decode' | 'both') => void (await control.changeRole({ model, worker, role, drainMs: ROLE_DRAIN_MS, waitMs: ROLE_WAIT_MS })) };
    const { clock, metrics, health } = context;
    this.#thresholds = [];
    this.#planners = section.models.map(
      (planned) =>
        new Planner({
          model: planned.model,
          config: plannerConfig(config, planned),
          policy: context.instance(planned.policy),
          connector: context.instance(section.connector),
          isDry: section.connector.facts?.['isDry'] === true,
          roles,
          ...this.#threshold(config, planned.model, context),
          discovery: context.instance(config.discovery),
          events: context.instance(config.events),
          clock,
          log: context.log.child({ model: planned.model }),
          metrics,
          health,
        }),
    );
    this.#routes = [];
    this.#mount(context);
  }

  async start(): Promise<void> {
    for (const planner of this.#planners) await planner.start();
  }

  /** No order is given afterwards; those in force stay. */
  async close(): Promise<void> {
    for (const remove of this.#routes.splice(0)) remove();
    await Promise.all(this.#planners.map((planner) => planner.close()));
    await Promise.all(this.#thresholds.splice(0).map((threshold) => threshold.close()));
  }

  /** Only where the model's policy has one. */
  #threshold(config: DeploymentConfig, model: string, context: DeploymentContext): { readonly threshold?: PublishedThreshold } {
    const tokens = config.models.find(({ name }) => name === model)?.disaggregation.facts?.['thresholdTokens'];
    if (typeof tokens !== 'number') return {};
    const threshold = new PublishedThreshold({ model, tokens, discovery: context.instance(config.discovery), log: context.log });
    this.#thresholds.push(threshold);
    return { threshold };
  }

  #mount({ admin }: DeploymentContext): void {
    const add = (pattern: string, description: string, handler: AdminHandler): void => void this.#routes.push(admin.get(pattern, description, handler));
    const of = (model: string | null): readonly Planner[] => this.#planners.filter((planner) => model === null || planner.model === model);
    add('/planner', 'The last plan of each planned model: inputs, forecast, candidates, what bound it, decision (?model=NAME).', ({ query }) => of(query.get('model')).map(({ model, ticks }) => ({ model, last: ticks.last })));
    add('/planner/ticks', 'Plans that are kept, newest first, with what came of them (?model=NAME, ?limit=N).', ({ query }) => of(query.get('model')).flatMap(({ ticks }): readonly TickRecord[] => ticks.list(lengthOf(query.get('limit')))));
    add('/planner/ticks/:tick', 'One plan (?model=NAME).', ({ params, query }) => of(query.get('model')).flatMap(({ ticks }) => ticks.get(Number(params['tick'])) ?? [])[0]);
  }
}

function lengthOf(limit: string | null): number {
  return limit !== null && /^\d+$/.test(limit) ? Number(limit) : DEFAULT_TICKS;
}

export function plannerConfig(config: DeploymentConfig, planned: PlannedModelConfig): PlannerConfig {
  const model = config.models.find(({ name }) => name === planned.model) as ModelConfig;
  const { intervalMs, predictor, constraints, connectorDeadlineMs, ticks } = planned;
  const pools = model.workers.map((worker): InitialPool => {
    const { name, role, replicas, minReplicas, hardware, startupMs } = worker;
    const profile = config.hardware[hardware];
    return {
      pool: name,
      role,
      hardware,
      gpusPerWorker: profile?.gpus ?? 1,
      costPerHour: profile?.costPerHour ?? 1,
      // Until a worker has told what its engine can do, nothing is changed.
      roleChange: 'none',
      minReplicas,
      maxReplicas: Math.max(minReplicas, worker.maxReplicas ?? replicas),
      startupMs,
      replicas,
    };
  });
  const horizonMs = planned.horizonMs > 0 ? planned.horizonMs : Math.max(HORIZON_INTERVALS * intervalMs, ...pools.map(({ startupMs }) => startupMs));
  return { intervalMs, horizonMs, objective: objectiveOf(model), predictor, constraints, connectorDeadlineMs, ticks, pools };
}

export function objectiveOf({ objective = objectiveDefaults }: ModelConfig): Objective {
  return { ...objective, maxGpus: objective.maxGpus, maxCostPerHour: objective.maxCostPerHour };
}
