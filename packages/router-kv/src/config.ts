import type { JsonSchema } from '@armature/contracts';

/** Weights of the `kv` policy. Names and defaults follow Dynamo 1.6.1 where it has them. */
export interface KvPolicyConfig {
  readonly overlapCredit: number;
  readonly overlapDecay: number;
  readonly prefillLoadScale: number;
  readonly activeRequestWeight: number;
  readonly hostCredit: number;
  readonly diskCredit: number;
  readonly objectCredit: number;
  readonly temperature: number;
  readonly trackOutputBlocks: boolean;
  readonly requestExpirySeconds: number;
  readonly maxTrackedRequests: number;
  readonly maxIndexBlocks: number;
}

export const kvPolicyDefaults: KvPolicyConfig = Object.freeze({
  overlapCredit: 1,
  overlapDecay: 0,
  prefillLoadScale: 1,
  activeRequestWeight: 0,
  hostCredit: 0.75,
  diskCredit: 0.25,
  objectCredit: 0,
  temperature: 0,
  trackOutputBlocks: true,
  requestExpirySeconds: 300,
  maxTrackedRequests: 65_536,
  maxIndexBlocks: 16_777_216,
});

const weight = (name: keyof KvPolicyConfig, description: string): JsonSchema => ({
  type: 'number',
  minimum: 0,
  default: kvPolicyDefaults[name],
  description,
});

export const kvPolicySchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    overlapCredit: weight('overlapCredit', 'Blocks of cost taken off per leading prompt block the worker holds on its device. Above 1, locality outweighs load; 0 ignores the device cache.'),
    overlapDecay: weight('overlapDecay', 'How fast the device credit shrinks on a worker with more queued prefill than the least queued one; 0 = never.'),
    prefillLoadScale: weight('prefillLoadScale', 'Weight of prefill blocks (queued plus this prompt, less credit) against decode blocks.'),
    activeRequestWeight: weight('activeRequestWeight', 'Blocks of cost per request that runs on the worker.'),
    hostCredit: weight('hostCredit', 'As overlapCredit, for blocks whose best tier is host memory (G2).'),
    diskCredit: weight('diskCredit', 'As overlapCredit, for blocks whose best tier is local disk (G3).'),
    objectCredit: weight('objectCredit', 'As overlapCredit, for blocks whose best tier is the object store (G4). All workers reach it, so it seldom decides.'),
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
      description: 'Distinct blocks in the index; further ones are not recorded, so overlap is under-reported. About 80 bytes each.',
    },
  },
};

export const emptySchema: JsonSchema = { type: 'object', additionalProperties: false, properties: {} };
