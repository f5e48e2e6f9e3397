import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { ArmatureError, definePlugin } from '@armature/contracts';
import { timingPriorSchema } from '../timing-book.ts';
import type { TimingPrior } from '../timing-book.ts';
import type { NetworkWeights } from './network.ts';
import { RlPolicy } from './rl-policy.ts';

interface RlPluginConfig {
  readonly weights: string;
  readonly hardware: Readonly<Record<string, TimingPrior>>;
}

/** Those that come with the package: trained by tools/planner/train.mjs on the shift generator. */
export function shippedWeights(): NetworkWeights {
  return readWeights(new URL('../../../data/rl-weights.json', import.meta.url));
}

function readWeights(file: URL | string): NetworkWeights {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as NetworkWeights;
  } catch (error) {
    throw new ArmatureError('PLANNER_WEIGHTS_INVALID', `cannot read the network's weights: ${(error as Error).message}`, { hint: 'name a file that tools/planner/train.mjs wrote, or leave `weights` out', cause: error });
  }
}

/** A trained network decides the head room of each side. */
export const rlPolicy = definePlugin<'planner-policy', RlPluginConfig>({
  kind: 'planner-policy',
  contract: 'v1',
  name: 'rl',
  description: 'A small network, trained in the training ground, says how much room prefill and decode need beyond the traffic expected.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      weights: { type: 'string', default: '', description: 'File with the weights, relative to the configuration; empty = those that come with the package.' },
      hardware: { type: 'object', default: {}, additionalProperties: timingPriorSchema, description: 'What workers of each hardware profile can do until their passes have told; `default` for all others.' },
    },
  },
  create: ({ weights, hardware }, context) => new RlPolicy({ hardware }, weights === '' ? shippedWeights() : readWeights(resolve(context.baseDir, weights))),
});
