import { huggingface } from './plugin.ts';

export { huggingFaceDefaults } from './config.ts';
export type { HuggingFaceConfig } from './config.ts';
export { HuggingFacePreprocessor } from './hugging-face-preprocessor.ts';
export { StopMatcher } from './stop-matcher.ts';
export type { Detokenizer } from './tokenizer/detokenizer.ts';
export { PrefixCache } from './tokenizer/prefix-cache.ts';
export type { CuttingEncoder, PrefixEncoding } from './tokenizer/prefix-cache.ts';
export { TokenBuffer } from './tokenizer/token-buffer.ts';
export type { TokenizerJson } from './tokenizer/tokenizer-json.ts';
export { createTokenizer } from './tokenizer/tokenizer.ts';
export type { Tokenizer, TokenizerOptions } from './tokenizer/tokenizer.ts';
export { huggingface };

/** Plug-ins of this package, for the loader. */
export default [huggingface];
