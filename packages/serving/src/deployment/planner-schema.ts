import type { ConfigReport, JsonSchema, PluginSlot } from '@armature/contracts';
import { constraintSchema, predictorSchema } from '@armature/planner';
import type { ConstraintConfig, PredictorConfig } from '@armature/planner';
import type { DeploymentConfig } from './schema.ts';

const plannedModelSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['model'],
  description: 'A model whose workers are planned.',
  properties: {
    model: { type: 'string', minLength: 1, description: 'Its name under `models`.' },
    policy: { 'x-kind': 'planner-policy', default: { use: 'sla' }, description: 'Proposes how many workers each pool should have.' },
    intervalMs: { type: 'integer', minimum: 100, maximum: 3_600_000, default: 10_000, description: 'Time between two plans, in milliseconds.' },
    horizonMs: { type: 'integer', minimum: 0, maximum: 86_400_000, default: 0, description: 'How far the traffic is forecast, in milliseconds. 0 = four intervals, or the longest start-up of a pool if that is longer.' },
    predictor: predictorSchema,
    constraints: constraintSchema,
    connectorDeadlineMs: { type: 'integer', minimum: 10, maximum: 600_000, default: 5_000, description: 'Longest wait for an answer of the connector, in milliseconds; then it has failed and is asked again.' },
    ticks: { type: 'integer', minimum: 1, maximum: 100_000, default: 512, description: 'Plans that are kept for explanation.' },
  },
};

export const plannerSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['models'],
  description: 'Plans how many workers models have. Left out: as many as the pools say. Limits are those of the pools (minReplicas, maxReplicas), what is wanted is the objective of the model.',
  properties: {
    connector: { 'x-kind': 'scaling-connector', default: { use: 'dry-run' }, description: 'Starts and stops workers.' },
    alone: { type: 'boolean', default: false, description: 'This process only plans: the workers of the file run elsewhere. `--only planner` sets it.' },
    models: { type: 'array', minItems: 1, items: plannedModelSchema, description: 'What is planned.' },
  },
};

export interface PlannedModelConfig {
  readonly model: string;
  readonly policy: PluginSlot<'planner-policy'>;
  readonly intervalMs: number;
  readonly horizonMs: number;
  readonly predictor: PredictorConfig;
  readonly constraints: ConstraintConfig;
  readonly connectorDeadlineMs: number;
  readonly ticks: number;
}

export interface PlannerSection {
  readonly connector: PluginSlot<'scaling-connector'>;
  readonly alone: boolean;
  readonly models: readonly PlannedModelConfig[];
}

/** Problems of the section that its schema cannot say. */
export function checkPlanner(config: DeploymentConfig, report: ConfigReport): void {
  const { planner } = config;
  if (planner === undefined) return;
  const seen = new Set<string>();
  planner.models.forEach(({ model }, i) => {
    const path = ['planner', 'models', i, 'model'];
    if (!config.models.some(({ name }) => name === model)) report({ path, code: 'CONFIG_UNKNOWN_MODEL', message: `there is no model "${model}"`, hint: `under models: ${config.models.map(({ name }) => name).join(', ')}` });
    if (seen.has(model)) report({ path, code: 'CONFIG_DUPLICATE_NAME', message: `model "${model}" is planned twice`, hint: 'one planner per model' });
    seen.add(model);
  });
  config.models.forEach((model, i) => {
    model.workers.forEach(({ name, minReplicas, maxReplicas = minReplicas }, j) => {
      if (maxReplicas < minReplicas) report({ path: ['models', i, 'workers', j, 'maxReplicas'], code: 'CONFIG_INVALID_VALUE', message: `pool "${name}" may have at most ${maxReplicas} workers and must have ${minReplicas}`, hint: 'raise maxReplicas, or lower minReplicas' });
    });
  });
  if (planner.connector.facts?.['runsWorkers'] === true) checkPlanes(config, report);
}

/** A connector that starts processes: they must find each other. */
function checkPlanes(config: DeploymentConfig, report: ConfigReport): void {
  for (const plane of ['requests', 'discovery', 'events'] as const) {
    if (config[plane].use !== 'memory') continue;
    const hint = { requests: 'use requests: { use: tcp }', discovery: 'use discovery: { use: file } on one host, etcd on several', events: 'use events: { use: zmq } or nats' }[plane];
    report({ path: ['planner', 'connector'], code: 'CONFIG_PLANE_IN_MEMORY', message: `it starts workers as processes of their own, and ${plane}: { use: memory } ends at the border of a process`, hint });
  }
}

/** Whether this process starts the workers of a model: not those that a connector starts, and none where it only plans. */
export function startsWorkers({ planner }: DeploymentConfig, model: string): boolean {
  if (planner === undefined) return true;
  const isElsewhere = planner.connector.facts?.['runsWorkers'] === true && planner.models.some((planned) => planned.model === model);
  return !planner.alone && !isElsewhere;
}
