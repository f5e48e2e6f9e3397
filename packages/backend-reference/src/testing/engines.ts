import { fileURLToPath } from 'node:url';
import { FinishCode } from '@armature/contracts';
import type { EngineBackend, EngineRequest, InferenceEnd, Logger, PluginContext, PrefillHandover } from '@armature/contracts';
import { SequenceHasher, saltHash } from '@armature/tokens';
import { reference, referenceSchema } from '../plugin.ts';
import type { ReferenceConfig } from '../plugin.ts';
import { realClock } from '@armature/contracts/testing/real-clock';

export const demoFolder = fileURLToPath(new URL('../../../model-demo/model', import.meta.url));
export const BLOCK_SIZE = 16;

const silent: Logger = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined, child: () => silent, isEnabled: () => false };

const defaults = Object.fromEntries(Object.entries(referenceSchema.properties).map(([field, schema]) => [field, schema.default])) as unknown as ReferenceConfig;

/** An engine on the demo model through the plug-in's own door, not started. */
export async function createEngine(config: Partial<ReferenceConfig> = {}, folder = demoFolder): Promise<EngineBackend> {
  const facts = { name: 'demo', source: folder, folder, blockSize: BLOCK_SIZE };
  // Only what `create` touches.
  const context = { path: 'test', clock: realClock, log: silent, scopes: [{ kind: 'model', name: 'demo', facts }] } as unknown as PluginContext;
  return await reference.create({ ...defaults, totalBlocks: 256, ...config }, context);
}

export interface Answer {
  readonly tokens: number[][];
  readonly logprobs: number[];
  readonly handovers: PrefillHandover[];
  end: InferenceEnd | undefined;
}

export function request(prompt: readonly number[], overrides: Partial<EngineRequest> = {}): EngineRequest {
  const tokenIds = overrides.tokenIds ?? Int32Array.from(prompt);
  const hasher = new SequenceHasher({ blockSize: BLOCK_SIZE, salt: saltHash({ cacheSalt: '' }) });
  hasher.appendAll(tokenIds, 0, tokenIds.length);
  return {
    id: 'request',
    leg: 'full',
    tokenIds,
    promptTokens: prompt.length,
    sequenceHashes: hasher.sequenceHashes.slice(0, 2 * hasher.blocks),
    cacheSalt: '',
    sampling: {
      temperature: 0,
      topP: 1,
      topK: 0,
      minP: 0,
      seedLo: 1,
      seedHi: 2,
      frequencyPenalty: 0,
      presencePenalty: 0,
      repetitionPenalty: 1,
      biasTokenIds: new Int32Array(0),
      biasValues: new Float32Array(0),
      topLogprobs: -1,
    },
    stop: { maxTokens: 32, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: true },
    choices: 1,
    firstTokens: undefined,
    priority: 0,
    kvSource: undefined,
    leaseTtlMs: 5000,
    ...overrides,
  };
}

/** Submits and gathers everything until the end. */
export function ask(engine: EngineBackend, what: EngineRequest): Promise<Answer> {
  return new Promise((resolve) => {
    const answer: Answer = { tokens: Array.from({ length: what.choices }, () => []), logprobs: [], handovers: [], end: undefined };
    engine.submit(what, {
      tokens(batch) {
        for (let i = 0; i < batch.count; i++) {
          answer.tokens[batch.choices?.[i] ?? 0]!.push(batch.tokenIds[i]!);
          if (batch.logprobs !== undefined) answer.logprobs.push(batch.logprobs[i]!);
          if (batch.finish[i]! > FinishCode.ContentFilter) throw new Error(`finish code ${batch.finish[i]}`);
        }
      },
      prefilled: (handover) => void answer.handovers.push(handover),
      end(end) {
        answer.end = end;
        resolve(answer);
      },
    });
  });
}
