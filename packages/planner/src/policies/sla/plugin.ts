import { ArmatureError, definePlugin } from '@armature/contracts';
import type { JsonSchema } from '@armature/contracts';
import { tableTiming } from '@armature/fleet-model';
import { timingPriorSchema } from '../timing-book.ts';
import { SlaPolicy } from './sla-policy.ts';
import type { SlaConfig } from './sla-policy.ts';

const numbers = (description: string): JsonSchema => ({ type: 'array', minItems: 1, items: { type: 'number', minimum: 0 }, description });

const tableSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['prefill', 'decode'],
  description: 'Measured passes of one hardware profile; between the points and beyond them lines.',
  properties: {
    prefill: {
      type: 'object',
      additionalProperties: false,
      required: ['tokens', 'ms'],
      description: 'Passes that compute prompts.',
      properties: { tokens: numbers('Prompt tokens, ascending.'), ms: numbers('Milliseconds of a pass with so many.') },
    },
    decode: {
      type: 'object',
      additionalProperties: false,
      required: ['sequences', 'contextTokens', 'ms'],
      description: 'Passes that decode.',
      properties: {
        sequences: numbers('Sequences, ascending.'),
        contextTokens: numbers('KV tokens that they hold together, ascending.'),
        ms: { type: 'array', minItems: 1, items: numbers('One row per number of sequences.'), description: 'Milliseconds: row i, column j for sequences i and context j.' },
      },
    },
  },
};

/** Replicas from the latencies that are asked for. */
export const slaPolicy = definePlugin<'planner-policy', SlaConfig>({
  kind: 'planner-policy',
  contract: 'v1',
  name: 'sla',
  description: "The reference planner's formulas: demand over what one engine takes within TTFT and ITL, from a regression of its passes or a measured table.",
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      caution: { type: 'number', minimum: 0, maximum: 1, default: 0, description: 'Which load is planned for: 0 = the expected one, 1 = the upper end of the forecast.' },
      downShare: { type: 'number', exclusiveMinimum: 0, maximum: 1, default: 0.8, description: 'A worker goes only when TTFT and ITL are estimated below this share of the objective after it.' },
      hardware: { type: 'object', default: {}, additionalProperties: timingPriorSchema, description: 'What workers of each hardware profile can do until their passes have told; `default` for all others.' },
      tables: { type: 'object', default: {}, additionalProperties: tableSchema, description: 'Measured points by hardware profile; where there are some, passes are not fitted.' },
    },
  },
  check: (config, report) => {
    for (const [name, table] of Object.entries(config.tables)) {
      try {
        tableTiming(table);
      } catch (error) {
        report({ path: ['tables', name], message: ArmatureError.from(error).message, hint: 'sort the measurements and leave none out' });
      }
    }
  },
  create: (config) => new SlaPolicy(config),
});
