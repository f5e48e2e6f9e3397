import { definePlugin, modelFacts } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import { openaiServerSchema } from './config.ts';
import type { OpenAiServerConfig } from './config.ts';
import { OpenAiBackend } from './openai-backend.ts';

/** `use: openai-server`. */
export const openaiServer: PluginDescriptor<'engine-backend', OpenAiServerConfig> = definePlugin<'engine-backend', OpenAiServerConfig>({
  kind: 'engine-backend',
  contract: 'v1',
  name: 'openai-server',
  description: 'Any server with the OpenAI API as an engine: vLLM, SGLang, llama.cpp, TGI, Ollama, hosted ones.',
  configSchema: openaiServerSchema,
  requires: [{ kind: 'preprocessor' }],
  create: (config, context) =>
    new OpenAiBackend({ config, blockSize: modelFacts(context).blockSize, preprocessor: context.get('preprocessor'), clock: context.clock, log: context.log }),
});
