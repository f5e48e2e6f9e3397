import { resolve } from 'node:path';
import { ArmatureError, modelFacts } from '@armature/contracts';
import type { ChatInput, Counter, EncodedPrompt, ModelCard, PluginContext, Preprocessor, TextOutput, TextOutputOptions } from '@armature/contracts';
import { ChatTemplate } from './template/chat-template.ts';
import type { HuggingFaceConfig } from './config.ts';
import { buildModelCard } from './model-card.ts';
import { readModelFiles } from './model-files.ts';
import type { ModelFiles } from './model-files.ts';
import { PlainTextOutput, StoppingTextOutput } from './text-output.ts';
import { PrefixCache } from './tokenizer/prefix-cache.ts';
import type { PrefixEncoding } from './tokenizer/prefix-cache.ts';
import { createTokenizer } from './tokenizer/tokenizer.ts';
import type { Tokenizer } from './tokenizer/tokenizer.ts';

/** Preprocessor of one model, from its Hugging Face folder. */
export class HuggingFacePreprocessor implements Preprocessor {
  readonly card: ModelCard;
  /** Layout of the own encoder, or 'library'. */
  readonly encoderName: string;
  readonly #tokenizer: Tokenizer;
  readonly #template: ChatTemplate | undefined;
  readonly #prefixes: PrefixCache;
  readonly #promptTokens: Counter;
  readonly #reusedTokens: Counter;

  private constructor(files: ModelFiles, tokenizer: Tokenizer, config: HuggingFaceConfig, context: PluginContext) {
    const { name, source } = modelFacts(context);
    this.card = buildModelCard(files, { source, tokenizer, maxModelTokens: config.maxModelTokens });
    this.encoderName = tokenizer.encoderName;
    this.#tokenizer = tokenizer;
    this.#template = files.templates === undefined ? undefined : new ChatTemplate(files, context.clock);
    this.#prefixes = new PrefixCache(tokenizer, config.prefixCacheBytes);
    const labelNames = ['model'];
    this.#promptTokens = context.metrics
      .counter({ name: 'armature_preprocessor_prompt_tokens_total', help: 'Tokens of encoded prompts.', labelNames })
      .with(name);
    this.#reusedTokens = context.metrics
      .counter({ name: 'armature_preprocessor_reused_tokens_total', help: 'Prompt tokens taken over from an earlier prompt with the same beginning.', labelNames })
      .with(name);
  }

  /** Reads the model's files. Throws coded errors that name the file and what to do. */
  static create(config: HuggingFaceConfig, context: PluginContext): HuggingFacePreprocessor {
    const { folder } = modelFacts(context);
    const files = readModelFiles(folder, config.chatTemplate === '' ? '' : resolve(context.baseDir, config.chatTemplate));
    const tokenizer = openTokenizer(files, config);
    if (tokenizer.encoderName === 'library' && config.tokenizer !== 'library') {
      context.log.warn('the tokenizer is of a layout that only @huggingface/tokenizers knows: encoding takes about 70 times as long', { folder });
    }
    const preprocessor = new HuggingFacePreprocessor(files, tokenizer, config, context);
    const { vocabSize } = preprocessor.card;
    if (tokenizer.size > vocabSize) {
      context.log.warn('the tokenizer knows more tokens than the model: prompts that contain one of them will fail', {
        code: 'PREPROCESSOR_TOKENIZER_MISMATCH',
        folder,
        tokenizer: tokenizer.size,
        model: vocabSize,
        hint: 'are tokenizer.json and config.json of the same model?',
      });
    }
    return preprocessor;
  }

  encodeChat(input: ChatInput): EncodedPrompt {
    if (this.#template === undefined) {
      throw new ArmatureError('PREPROCESSOR_NO_TEMPLATE', `model ${this.card.source} has no chat template`, {
        hint: 'use /v1/completions, or name a template with chatTemplate in the preprocessor’s config',
      });
    }
    return this.#count(this.#prefixes.encode(this.#template.render(input)));
  }

  encodeText(text: string): EncodedPrompt {
    const encoded = this.#prefixes.encode(text);
    const { before, after } = this.#tokenizer.affixes;
    if (before.length + after.length === 0) return this.#count(encoded);
    const tokenIds = new Int32Array(before.length + encoded.tokenIds.length + after.length);
    tokenIds.set(before);
    tokenIds.set(encoded.tokenIds, before.length);
    tokenIds.set(after, before.length + encoded.tokenIds.length);
    return this.#count({ tokenIds, reusedTokens: encoded.reusedTokens });
  }

  openText(options: TextOutputOptions): TextOutput {
    const detokenizer = this.#tokenizer.openDetokenizer(options.keepSpecialTokens);
    return options.stop.length === 0 ? new PlainTextOutput(detokenizer) : new StoppingTextOutput(detokenizer, options.stop);
  }

  tokenText(tokenId: number): string {
    return this.#tokenizer.tokenText(tokenId);
  }

  tokenBytes(tokenId: number): Uint8Array {
    return this.#tokenizer.tokenBytes(tokenId);
  }

  close(): void {
    this.#prefixes.clear();
  }

  #count(encoded: PrefixEncoding): EncodedPrompt {
    this.#promptTokens.inc(encoded.tokenIds.length);
    if (encoded.reusedTokens > 0) this.#reusedTokens.inc(encoded.reusedTokens);
    return encoded;
  }
}

function openTokenizer(files: ModelFiles, config: HuggingFaceConfig): Tokenizer {
  try {
    return createTokenizer(files.tokenizer, {
      config: files.tokenizerConfig,
      cacheWords: config.wordCacheWords,
      forceLibrary: config.tokenizer === 'library',
    });
  } catch (error) {
    const file = `${files.folder}/tokenizer.json`;
    throw new ArmatureError('PREPROCESSOR_TOKENIZER_UNSUPPORTED', `${file} cannot be used: ${(error as Error).message}`, {
      hint: 'neither the own encoder nor @huggingface/tokenizers knows this kind of tokenizer; convert the model, or write a preprocessor plug-in for it',
      cause: error,
      details: { file },
    });
  }
}
