import type { JsonSchema, PluginSlot } from '@armature/contracts';
import type { KvFactsConfig } from './facts/kv-facts.ts';
import { expectedWorkDefaults } from './scorers/expected-work.ts';
import type { ExpectedWorkWeights } from './scorers/expected-work.ts';
import { kvCostDefaults } from './scorers/kv-cost.ts';
import type { KvCostWeights } from './scorers/kv-cost.ts';

/** Config of the `kv` policy: weights of its cost, bounds of its facts, and pieces added to it. */
export interface KvPolicyConfig extends KvCostWeights, ExpectedWorkWeights, KvFactsConfig {
  readonly cost: 'expected-work' | 'kv-cost';
  readonly temperature: number;
  readonly filters: readonly PluginSlot<'router-filter'>[];
  readonly scorers: readonly { readonly scorer: PluginSlot<'router-scorer'>; readonly weight: number }[];
  readonly picker?: PluginSlot<'router-picker'>;
}

export const kvPolicyDefaults: KvPolicyConfig = Object.freeze({
  cost: 'expected-work',
  ...kvCostDefaults,
  ...expectedWorkDefaults,
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

const weight = (name: keyof KvCostWeights | keyof ExpectedWorkWeights | 'temperature', description: string): JsonSchema => ({
  type: 'number',
  minimum: 0,
  default: kvPolicyDefaults[name],
  description,
});

/** Weights that both costs have. */
const creditProperties = {
  overlapCredit: weight('overlapCredit', 'Blocks of cost taken off per leading prompt block the worker holds on its device. Above 1, locality outweighs load; 0 ignores the device cache.'),
  hostCredit: weight('hostCredit', 'As overlapCredit, for blocks whose best tier is host memory (G2).'),
  diskCredit: weight('diskCredit', 'As overlapCredit, for blocks whose best tier is local disk (G3).'),
  objectCredit: weight('objectCredit', 'As overlapCredit, for blocks whose best tier is the object store (G4). All workers reach it, so it seldom decides.'),
};
const expectedWorkProperties = {
  missWeight: weight('missWeight', 'What a prompt block costs that the worker does not hold: its own prefill, and the cached block it evicts (expected-work).'),
  shareTolerance: weight('shareTolerance', 'A worker this far above its share of the latest requests gets no credit for what it holds: 0.15 = 15 %; 0 = no such limit (expected-work).'),
  utilisationWeight: weight('utilisationWeight', 'Weight of KV in use: 1 = on a worker whose KV is full every prompt block costs one more (expected-work).'),
};
const kvCostProperties = {
  overlapDecay: weight('overlapDecay', 'How fast the device credit shrinks on a worker with more queued prefill than the least queued one; 0 = never (kv-cost).'),
  prefillLoadScale: weight('prefillLoadScale', 'Weight of prefill blocks (queued plus this prompt, less credit) against decode blocks (kv-cost).'),
  activeRequestWeight: weight('activeRequestWeight', 'Blocks of cost per request that runs on the worker (kv-cost).'),
};

export const kvCostSchema: JsonSchema = { type: 'object', additionalProperties: false, properties: { ...creditProperties, ...kvCostProperties } };
export const expectedWorkSchema: JsonSchema = { type: 'object', additionalProperties: false, properties: { ...creditProperties, ...expectedWorkProperties } };

export const kvPolicySchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    cost: {
      enum: ['expected-work', 'kv-cost'],
      default: kvPolicyDefaults.cost,
      description: 'The cost: expected-work (what a request adds to the work of all; docs/routing-quality.md) or kv-cost (the formula of Dynamo 1.6.1).',
    },
    ...creditProperties,
    ...expectedWorkProperties,
    ...kvCostProperties,
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
