import type { JsonSchema, PluginSlot } from '@armature/contracts';
import type { KvFactsConfig } from './facts/kv-facts.ts';
import { kvCostDefaults } from './scorers/kv-cost.ts';
import type { KvCostWeights } from './scorers/kv-cost.ts';

/** Config of the `kv` policy: weights of its cost, bounds of its facts, and pieces added to it. */
export interface KvPolicyConfig extends KvCostWeights, KvFactsConfig {
  readonly temperature: number;
  readonly filters: readonly PluginSlot<'router-filter'>[];
  readonly scorers: readonly { readonly scorer: PluginSlot<'router-scorer'>; readonly weight: number }[];
  readonly picker?: PluginSlot<'router-picker'>;
}

export const kvPolicyDefaults: KvPolicyConfig = Object.freeze({
  ...kvCostDefaults,
  temperature: 0,
  trackOutputBlocks: true,
  requestExpirySeconds: 300,
  maxTrackedRequests: 65_536,
  maxIndexBlocks: 16_777_216,
  predictSeconds: 5,
  eventlessSeconds: 120,
  filters: [],
  scorers: [],
});

const weight = (name: keyof KvCostWeights | 'temperature', description: string): JsonSchema => ({
  type: 'number',
  minimum: 0,
  default: kvPolicyDefaults[name],
  description,
});

const costProperties = {
  overlapCredit: weight('overlapCredit', 'Blocks of cost taken off per leading prompt block the worker holds on its device. Above 1, locality outweighs load; 0 ignores the device cache.'),
  overlapDecay: weight('overlapDecay', 'How fast the device credit shrinks on a worker with more queued prefill than the least queued one; 0 = never.'),
  prefillLoadScale: weight('prefillLoadScale', 'Weight of prefill blocks (queued plus this prompt, less credit) against decode blocks.'),
  activeRequestWeight: weight('activeRequestWeight', 'Blocks of cost per request that runs on the worker.'),
  hostCredit: weight('hostCredit', 'As overlapCredit, for blocks whose best tier is host memory (G2).'),
  diskCredit: weight('diskCredit', 'As overlapCredit, for blocks whose best tier is local disk (G3).'),
  objectCredit: weight('objectCredit', 'As overlapCredit, for blocks whose best tier is the object store (G4). All workers reach it, so it seldom decides.'),
};

export const kvCostSchema: JsonSchema = { type: 'object', additionalProperties: false, properties: costProperties };

export const kvPolicySchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    ...costProperties,
    temperature: weight('temperature', '0 = lowest cost wins, ties at random. Above 0 = softmax over costs normalised to [0, 1]: 0.1 prefers the best, 1 is nearly even.'),
    trackOutputBlocks: {
      type: 'boolean',
      default: kvPolicyDefaults.trackOutputBlocks,
      description: 'Count the partial last block and the blocks of growing output as load. false = complete prompt blocks only, as Dynamo by default.',
    },
    requestExpirySeconds: {
      type: 'number',
      exclusiveMinimum: 0,
      default: kvPolicyDefaults.requestExpirySeconds,
      description: 'A request unheard of for this many seconds no longer counts as load (its end was lost).',
    },
    maxTrackedRequests: {
      type: 'integer',
      minimum: 1,
      default: kvPolicyDefaults.maxTrackedRequests,
      description: 'Requests accounted for at once; further ones are routed but not counted as load.',
    },
    maxIndexBlocks: {
      type: 'integer',
      minimum: 1,
      maximum: 1_073_741_823,
      default: kvPolicyDefaults.maxIndexBlocks,
      description: 'Distinct blocks in the index; further ones are not recorded, so overlap is under-reported. About 30 bytes each.',
    },
    predictSeconds: {
      type: 'number',
      minimum: 0,
      default: kvPolicyDefaults.predictSeconds,
      description: 'A prompt that was sent to a worker counts as cached there for so many seconds, until its KV events say so: a burst of requests with one prefix stays together. 0 = off.',
    },
    eventlessSeconds: {
      type: 'number',
      minimum: 0,
      default: kvPolicyDefaults.eventlessSeconds,
      description: 'As predictSeconds, for workers without KV events: all that is known of their cache, together with its capacity (least recently routed blocks go first). 0 = nothing is known.',
    },
    filters: { type: 'array', items: { 'x-kind': 'router-filter' }, default: [], description: 'Further filters: workers that one of them excludes do not get the request.' },
    scorers: {
      type: 'array',
      default: [],
      description: 'Further scorers: each adds to the cost, in blocks.',
      items: {
        type: 'object',
        additionalProperties: false,
        required: ['scorer'],
        properties: {
          scorer: { 'x-kind': 'router-scorer', description: 'The scorer.' },
          weight: { type: 'number', default: 1, description: 'What it adds is multiplied by this.' },
        },
      },
    },
    picker: { 'x-kind': 'router-picker', description: 'Chooses by the costs. Left out: softmax with `temperature`.' },
  },
};

export const emptySchema: JsonSchema = { type: 'object', additionalProperties: false, properties: {} };
