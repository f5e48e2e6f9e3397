import { definePlugin, modelFacts } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import { EngineCore } from '@armature/engine-core';
import { checkMockConfig, mockSchema } from './config.ts';
import type { MockConfig } from './config.ts';
import { MAX_PASSES, MockRunner } from './mock-runner.ts';

/** A simulated engine: vLLM's scheduling, a made-up model, time from a formula. `use: mock`. */
export const mock: PluginDescriptor<'engine-backend', MockConfig> = definePlugin<'engine-backend', MockConfig>({
  kind: 'engine-backend',
  contract: 'v1',
  name: 'mock',
  description: "A simulated engine with vLLM's scheduling, on the injected clock.",
  configSchema: mockSchema,
  check: checkMockConfig,
  create: (config, context) => {
    const { clock, log } = context;
    const { maxSequences, maxBatchedTokens, maxWaiting, stepTimeoutMs, lookaheadMs, firstToken } = config;
    const maxPasses = lookaheadMs > 0 ? MAX_PASSES : 1;
    const corruptions = context.metrics.counter({ name: 'armature_mock_kv_corruptions_total', help: 'KV blocks that did not hold what their sequence computed.' }).with();
    const runner = new MockRunner({ config, blockSize: modelFacts(context).blockSize, clock, log, corruptions });
    return new EngineCore({ runner, clock, log, maxSequences, maxBatchedTokens, maxWaiting, stepTimeoutMs, maxPasses, firstToken });
  },
});
