import type { JsonSchema } from '@armature/contracts';

/** Config of the `huggingface` preprocessor, defaults applied. */
export interface HuggingFaceConfig {
  readonly maxModelTokens: number;
  readonly chatTemplate: string;
  readonly tokenizer: 'auto' | 'library';
  readonly prefixCacheBytes: number;
  readonly wordCacheWords: number;
}

export const huggingFaceDefaults: HuggingFaceConfig = {
  maxModelTokens: 0,
  chatTemplate: '',
  tokenizer: 'auto',
  prefixCacheBytes: 64 * 1024 * 1024,
  wordCacheWords: 65_536,
};

export const huggingFaceSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  description: 'Text to tokens and back, from the files of a Hugging Face model folder.',
  properties: {
    maxModelTokens: {
      type: 'integer',
      minimum: 0,
      default: huggingFaceDefaults.maxModelTokens,
      description: 'Context length in tokens. 0: what config.json says.',
    },
    chatTemplate: {
      type: 'string',
      default: huggingFaceDefaults.chatTemplate,
      description: 'Jinja file to use in place of the model’s chat template, relative to the configuration file. Empty: the model’s own.',
    },
    tokenizer: {
      enum: ['auto', 'library'],
      default: huggingFaceDefaults.tokenizer,
      description: '`auto`: own encoder for the layouts it knows exactly, else @huggingface/tokenizers. `library`: always the library (slow).',
    },
    prefixCacheBytes: {
      type: 'integer',
      minimum: 0,
      default: huggingFaceDefaults.prefixCacheBytes,
      description: 'Memory for tokenised beginnings of conversations, in bytes; the least recently used go first. 0: off.',
    },
    wordCacheWords: {
      enum: [1024, 4096, 16_384, 65_536, 262_144],
      default: huggingFaceDefaults.wordCacheWords,
      description: 'Words per generation of the word caches; 65536 takes up to 20 MB.',
    },
  },
};
