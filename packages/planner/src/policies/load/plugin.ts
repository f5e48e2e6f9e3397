import { definePlugin } from '@armature/contracts';
import type { JsonSchema } from '@armature/contracts';
import { LoadPolicy } from './load-policy.ts';
import type { LoadConfig } from './load-policy.ts';

const thresholds = (of: string, up: number, down: number): JsonSchema => ({
  type: 'object',
  additionalProperties: false,
  default: {},
  description: of,
  properties: {
    up: { type: 'number', exclusiveMinimum: 0, default: up, description: 'At or above: workers are added.' },
    down: { type: 'number', minimum: 0, default: down, description: 'Below, and after the removal still below `up`: one is taken away.' },
  },
});

/** Thresholds on queues, KV and seats. */
export const loadPolicy = definePlugin<'planner-policy', LoadConfig>({
  kind: 'planner-policy',
  contract: 'v1',
  name: 'load',
  description: 'Thresholds on what is seen now: prompt tokens that wait, KV and seats in use. Knows no latencies.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      prefill: thresholds('Workers that prefill: prompt tokens that wait or run per worker, in full passes of its engine.', 1, 0.1),
      decode: thresholds('Workers that decode: share of KV blocks or of seats in use, whichever is larger; requests that wait have a seat.', 0.85, 0.5),
      step: { type: 'number', minimum: 0, maximum: 4, default: 0, description: 'Workers added at once, as a share of those there; at least one.' },
    },
  },
  check: (config, report) => {
    for (const part of ['prefill', 'decode'] as const) {
      if (config[part].down >= config[part].up) report({ path: [part, 'down'], message: `down (${config[part].down}) is not below up (${config[part].up})`, hint: 'leave room between both, or the count swings' });
    }
  },
  create: (config) => new LoadPolicy(config),
});
