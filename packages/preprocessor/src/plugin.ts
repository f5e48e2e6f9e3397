import { definePlugin } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import { huggingFaceSchema } from './config.ts';
import type { HuggingFaceConfig } from './config.ts';
import { HuggingFacePreprocessor } from './hugging-face-preprocessor.ts';

/** `use: huggingface`. */
export const huggingface: PluginDescriptor<'preprocessor', HuggingFaceConfig> = definePlugin<'preprocessor', HuggingFaceConfig>({
  kind: 'preprocessor',
  contract: 'v1',
  name: 'huggingface',
  description: 'Chat template, tokenizer and text output from the files of a Hugging Face model folder.',
  configSchema: huggingFaceSchema,
  create: (config, context) => HuggingFacePreprocessor.create(config, context),
});
