import type { JsonSchema, Objective } from '@armature/contracts';

export interface TelemetryConfig {
  readonly intervalMs: number;
}

export const telemetrySchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  description: 'Traffic and engine reports on the event plane, as planners and others read them. On where there is a planner; left out elsewhere: none.',
  properties: { intervalMs: { type: 'integer', minimum: 100, maximum: 60_000, default: 1_000, description: 'Time between two reports of a process or worker, in milliseconds.' } },
};

export const telemetryDefaults: TelemetryConfig = { intervalMs: 1_000 };

/** As configured: limits may be left out. */
export type ObjectiveConfig = Omit<Objective, 'maxGpus' | 'maxCostPerHour'> & Partial<Pick<Objective, 'maxGpus' | 'maxCostPerHour'>>;

export const objectiveSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  description: 'What is wanted of the model: frontends count the requests that keep it, the planner plans for it.',
  properties: {
    goal: { enum: ['cost', 'goodput'], default: 'cost', description: 'cost: the cheapest that keeps the latencies. goodput: the most requests within the latencies that the budget allows.' },
    ttftMs: { type: 'number', exclusiveMinimum: 0, default: 2_000, description: 'Time to the first token that the quantile of requests must keep, in milliseconds.' },
    itlMs: { type: 'number', exclusiveMinimum: 0, default: 50, description: 'Mean time between two tokens of a request that the quantile must keep, in milliseconds.' },
    quantile: { type: 'number', exclusiveMinimum: 0, maximum: 1, default: 0.95, description: 'Share of requests that must keep both.' },
    maxGpus: { type: 'number', exclusiveMinimum: 0, description: 'GPUs of all pools of the model together. Left out: no limit.' },
    maxCostPerHour: { type: 'number', exclusiveMinimum: 0, description: 'Price of all its workers per hour. Left out: no limit.' },
  },
};

export const objectiveDefaults: ObjectiveConfig = { goal: 'cost', ttftMs: 2_000, itlMs: 50, quantile: 0.95 };
