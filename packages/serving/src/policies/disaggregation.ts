import { definePlugin } from '@armature/contracts';
import type { DisaggregationInput, DisaggregationPolicy, JsonSchema } from '@armature/contracts';

const whenNoPrefillWorker: JsonSchema = {
  enum: ['fail', 'local'],
  default: 'fail',
  description: 'When no prefill worker is ready: refuse the request, or let the decode worker compute the prompt. Counted and recorded either way.',
};

export interface AlwaysConfig {
  readonly whenNoPrefillWorker: 'fail' | 'local';
}

/** Every prompt goes to a prefill worker; the decode hop is scored without credit for overlap, as Dynamo does. */
export const always = definePlugin<'disaggregation-policy', AlwaysConfig>({
  kind: 'disaggregation-policy',
  contract: 'v1',
  name: 'always',
  description: 'Every prompt is computed by a prefill worker.',
  configSchema: { type: 'object', additionalProperties: false, properties: { whenNoPrefillWorker } },
  create: (config): DisaggregationPolicy => ({
    name: 'always',
    creditsDecodeOverlap: false,
    whenNoPrefillWorker: config.whenNoPrefillWorker,
    isRemote: () => true,
  }),
});

/** Decode workers compute their prompts; prefill workers stay idle. */
export const never = definePlugin<'disaggregation-policy', Record<string, never>>({
  kind: 'disaggregation-policy',
  contract: 'v1',
  name: 'never',
  description: 'Every prompt is computed by its decode worker.',
  configSchema: { type: 'object', additionalProperties: false, properties: {} },
  create: (): DisaggregationPolicy => ({
    name: 'never',
    creditsDecodeOverlap: true,
    whenNoPrefillWorker: 'local',
    isRemote: () => false,
  }),
});

export interface ConditionalConfig extends AlwaysConfig {
  readonly rule: 'isl-bounding' | 'prefill-load' | 'isl-or-load';
  readonly maxLocalTokens: number;
  readonly maxLocalShare: number;
  readonly prefillBusyTokens: number;
  readonly decodeBusyTokens: number;
}

/** Dynamo's conditional disaggregation (1.6): short or mostly cached prompts, or a busy prefill pool, stay on the decode worker. */
export const conditional = definePlugin<'disaggregation-policy', ConditionalConfig>({
  kind: 'disaggregation-policy',
  contract: 'v1',
  name: 'conditional',
  description: 'Short or mostly cached prompts are computed by their decode worker, others by a prefill worker.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      whenNoPrefillWorker: { ...whenNoPrefillWorker, default: 'local' },
      rule: {
        enum: ['isl-bounding', 'prefill-load', 'isl-or-load'],
        default: 'isl-bounding',
        description: 'What keeps a prompt local: its uncached length, busy prefill workers, or either.',
      },
      maxLocalTokens: { type: 'integer', minimum: 0, default: 2048, description: 'Local if fewer uncached prompt tokens than this, and `maxLocalShare` holds.' },
      maxLocalShare: { type: 'number', minimum: 0, maximum: 1, default: 0.7, description: 'Local if the uncached share of the prompt is below this, and `maxLocalTokens` holds.' },
      prefillBusyTokens: { type: 'integer', minimum: 1, default: 8192, description: 'Prompt tokens waiting on every prefill worker from which they count as busy.' },
      decodeBusyTokens: { type: 'integer', minimum: 1, default: 8192, description: 'Prompt tokens waiting on the decode worker from which it takes no more prompts.' },
    },
  },
  facts: (config) => (config.rule === 'prefill-load' ? {} : { thresholdTokens: config.maxLocalTokens }),
  create: (config): DisaggregationPolicy => ({
    name: 'conditional',
    creditsDecodeOverlap: true,
    ...(config.rule === 'prefill-load' ? {} : { thresholdTokens: config.maxLocalTokens }),
    whenNoPrefillWorker: config.whenNoPrefillWorker,
    isRemote(input: DisaggregationInput): boolean {
      if (input.decodePrefillTokens >= config.decodeBusyTokens) return true;
      const uncached = input.promptTokens - input.overlapTokens;
      const isShort = uncached < (this.thresholdTokens ?? config.maxLocalTokens) && uncached / input.promptTokens < config.maxLocalShare;
      const isBusy = input.leastPrefillTokens >= config.prefillBusyTokens;
      if (config.rule === 'isl-bounding') return !isShort;
      if (config.rule === 'prefill-load') return !isBusy;
      return !isShort && !isBusy;
    },
  }),
});
