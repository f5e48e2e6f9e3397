import { ArmatureError, definePlugin } from '@armature/contracts';
import type { Preprocessor } from '@armature/contracts';

function noText(): never {
  throw new ArmatureError('SIMULATION_NO_TEXT', 'a simulated model has no tokenizer', { hint: 'submit token ids' });
}

const simulated: Preprocessor = {
  card: {
    source: 'simulated',
    architecture: 'simulated',
    vocabSize: 0x7fffffff,
    maxModelTokens: 0x7fffffff,
    eosTokenIds: [],
    bosTokenId: undefined,
    fingerprint: 'simulated',
    defaults: {},
    hasChatTemplate: false,
  },
  encodeChat: noText,
  encodeText: noText,
  openText: noText,
  tokenText: noText,
  tokenBytes: noText,
};

/** Requests of a simulation are tokens already. */
export const simulatedPreprocessor = definePlugin<'preprocessor', Record<string, never>>({
  kind: 'preprocessor',
  contract: 'v1',
  name: 'simulated',
  description: 'No text: requests of a simulation are tokens already.',
  configSchema: { type: 'object', additionalProperties: false, properties: {} },
  create: () => simulated,
});
