import { definePlugin, modelFacts } from '@armature/contracts';
import type { PluginContext, PluginDescriptor } from '@armature/contracts';
import { EngineCore } from '@armature/engine-core';
import { ReferenceRunner } from './reference-runner.ts';

export interface ReferenceConfig {
  readonly kvCacheMemoryMB: number;
  readonly totalBlocks: number;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  readonly maxModelTokens: number;
  readonly tensorParallel: number;
  readonly maxWaiting: number;
  readonly startTimeoutMs: number;
  readonly stepTimeoutMs: number;
  readonly closeTimeoutMs: number;
}

export const referenceSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    kvCacheMemoryMB: { type: 'integer', minimum: 1, maximum: 4096, description: 'Memory for KV blocks, in MiB. Weights, scratch and KV share at most 4 GiB.', default: 128 },
    totalBlocks: { type: 'integer', minimum: 0, description: 'Number of KV blocks instead of kvCacheMemoryMB; 0 = by memory.', default: 0 },
    maxSequences: { type: 'integer', minimum: 1, maximum: 1024, description: 'Sequences in one step.', default: 32 },
    maxBatchedTokens: { type: 'integer', minimum: 16, description: 'Tokens in one step; longer prompts are computed in chunks.', default: 512 },
    maxModelTokens: { type: 'integer', minimum: 0, description: 'Longest prompt plus output; 0 = what the model was made for.', default: 0 },
    tensorParallel: {
      type: 'integer',
      enum: [1, 2, 4],
      description: 'Ranks that attention heads and the KV cache are split over. Same results for each; pools of different tensorParallel exchange KV, converted on the way.',
      default: 1,
    },
    maxWaiting: { type: 'integer', minimum: 1, description: 'Requests that may wait; more are refused with ENGINE_OVERLOADED.', default: 1024 },
    startTimeoutMs: { type: 'integer', minimum: 1, description: 'Milliseconds until the model must be loaded.', default: 120_000 },
    stepTimeoutMs: { type: 'integer', minimum: 1, description: 'Milliseconds after which a step counts as hung and the engine fails.', default: 60_000 },
    closeTimeoutMs: { type: 'integer', minimum: 1, description: 'Milliseconds until the model thread is ended by force.', default: 5000 },
  },
} as const;

/** The engine notices a hung step this much later than its runner, which names the cause and ends the thread. */
const WATCHDOG_MARGIN_MS = 1000;

function createRunner(config: ReferenceConfig, context: PluginContext): ReferenceRunner {
  const facts = modelFacts(context);
  return new ReferenceRunner({
    folder: facts.folder,
    modelName: facts.name,
    blockSize: facts.blockSize,
    ...(config.totalBlocks > 0 ? { totalBlocks: config.totalBlocks } : { kvCacheBytes: config.kvCacheMemoryMB * 2 ** 20 }),
    maxSequences: config.maxSequences,
    maxBatchedTokens: config.maxBatchedTokens,
    ...(config.maxModelTokens > 0 ? { maxModelTokens: config.maxModelTokens } : {}),
    tensorParallel: config.tensorParallel,
    startTimeoutMs: config.startTimeoutMs,
    stepTimeoutMs: config.stepTimeoutMs,
    closeTimeoutMs: config.closeTimeoutMs,
    clock: context.clock,
  });
}

/** `use: reference`. */
export const reference: PluginDescriptor<'engine-backend', ReferenceConfig> = definePlugin<'engine-backend', ReferenceConfig>({
  kind: 'engine-backend',
  contract: 'v1',
  name: 'reference',
  description: 'A real Llama in process: WebAssembly kernels in a thread, the same bits in every batch and on every worker.',
  configSchema: referenceSchema,
  create(config, context) {
    const runner = createRunner(config, context);
    runner.onFailure((error) => context.log.error('the model thread is gone', { code: error.code, message: error.message, hint: error.hint }));
    return new EngineCore({
      runner,
      clock: context.clock,
      log: context.log,
      maxSequences: config.maxSequences,
      maxBatchedTokens: config.maxBatchedTokens,
      maxWaiting: config.maxWaiting,
      stepTimeoutMs: config.stepTimeoutMs + WATCHDOG_MARGIN_MS,
    });
  },
});
