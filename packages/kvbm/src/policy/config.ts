import type { JsonSchema, KvOffloadRule } from '@armature/contracts';

/** `stored`: at once; `evict`: shortly before it would be lost; `{uses: n}`: at the n-th use; `never`. */
export type OffloadChoice = 'stored' | 'evict' | 'never' | { readonly uses: number };

/** What the built-in policies share. */
export interface KvPolicyConfig {
  /** Which blocks leave a tier downwards, and when. */
  readonly offload: { readonly device: OffloadChoice; readonly host: OffloadChoice; readonly disk: OffloadChoice };
  readonly prefetch: 'route' | 'queue' | 'never';
}

export interface CostPolicyConfig extends KvPolicyConfig {
  readonly positionBlocks: number;
}

/** Why these: docs/kvbm-policies.md. */
export const kvPolicyDefaults: KvPolicyConfig = Object.freeze({
  offload: Object.freeze({ device: 'stored', host: 'evict', disk: Object.freeze({ uses: 2 }) }),
  prefetch: 'route',
});

export const costPolicyDefaults: CostPolicyConfig = Object.freeze({ ...kvPolicyDefaults, positionBlocks: 2048 });

const choice = (tier: keyof KvPolicyConfig['offload'], description: string): JsonSchema => ({
  description: `${description} stored = as soon as it is complete there; evict = shortly before it would be lost; {uses: n} = at its n-th use there; never.`,
  default: kvPolicyDefaults.offload[tier],
  anyOf: [
    { enum: ['stored', 'evict', 'never'] },
    {
      type: 'object',
      additionalProperties: false,
      required: ['uses'],
      properties: { uses: { type: 'integer', minimum: 1, maximum: 1_000_000, description: 'The use at which a block is copied down.' } },
    },
  ],
});

const properties: Readonly<Record<string, JsonSchema>> = {
  offload: {
    type: 'object',
    additionalProperties: false,
    default: {},
    description: 'When a block is copied to the next tier below.',
    properties: {
      device: choice('device', 'From the engine to host memory.'),
      host: choice('host', 'From host memory to disk.'),
      disk: choice('disk', 'From disk to the object store.'),
    },
  },
  prefetch: {
    enum: ['route', 'queue', 'never'],
    default: kvPolicyDefaults.prefetch,
    description: 'When blocks that a request will need come up to host memory: route = when it arrives at the worker; queue = already while it waits for one; never = only when the engine could take it.',
  },
};

export const kvPolicySchema: JsonSchema = { type: 'object', additionalProperties: false, properties };

export const costPolicySchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    ...properties,
    positionBlocks: {
      type: 'integer',
      minimum: 1,
      maximum: 1_000_000_000,
      default: costPolicyDefaults.positionBlocks,
      description: 'How many blocks into a prompt recomputing a block costs twice what it costs at the start. About parameters / (2 * layers * width) tokens: 30 000 for an 8B model, 2048 blocks of 16.',
    },
  },
};

export function offloadRule(value: OffloadChoice): KvOffloadRule {
  return Object.freeze(typeof value === 'string' ? { when: value } : { when: 'uses', uses: value.uses });
}
