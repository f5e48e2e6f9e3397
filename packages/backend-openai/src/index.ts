import { openaiServer } from './plugin.ts';

export type { OpenAiServerConfig } from './config.ts';
export { OpenAiBackend } from './openai-backend.ts';
export type { OpenAiBackendOptions } from './openai-backend.ts';
export { TextCodec } from './text-codec.ts';
export { TextTokens } from './text-tokens.ts';
export { openaiServer };

/** Plug-ins of this package, for the loader. */
// oxlint-disable-next-line import/no-default-export -- a plug-in entry
export default [openaiServer];
