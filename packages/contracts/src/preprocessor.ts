import type { Lifecycle } from './plugin.ts';

/** Facts about a model that the API and the router need. */
export interface ModelCard {
  /** Folder the model was read from. */
  readonly source: string;
  readonly architecture: string;
  readonly vocabSize: number;
  /** Context length in tokens. */
  readonly maxModelTokens: number;
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId: number | undefined;
  /** Hash over tokenizer, template and config; compared between processes at registration. */
  readonly fingerprint: string;
  /** From generation_config.json. */
  readonly defaults: { readonly temperature?: number; readonly topP?: number; readonly topK?: number; readonly maxTokens?: number };
  readonly hasChatTemplate: boolean;
}

export interface ChatMessage {
  readonly role: string;
  /** Text; content parts are already joined. */
  readonly content: string;
  readonly name?: string;
  /** Other fields (tool_calls, tool_call_id) go to the template as they are. */
  readonly [key: string]: unknown;
}

export interface ChatInput {
  readonly messages: readonly ChatMessage[];
  readonly tools?: readonly unknown[];
  readonly addGenerationPrompt: boolean;
  /** The last message is an assistant's and is to be continued. */
  readonly continueFinalMessage: boolean;
  /** Extra variables for the template (`chat_template_kwargs`). */
  readonly templateVariables?: Readonly<Record<string, unknown>>;
}

export interface EncodedPrompt {
  /** Owned by the caller. */
  readonly tokenIds: Int32Array;
  /** Tokens taken over from an earlier request's encoding (same text prefix). */
  readonly reusedTokens: number;
}

export interface TextOutputOptions {
  /** Strings that end the output; excluded from the text. */
  readonly stop: readonly string[];
  /** Keep special tokens in the text. */
  readonly keepSpecialTokens: boolean;
}

/** Tokens of one choice → text. One small object per stream. */
export interface TextOutput {
  /**
   * Text that may be shown now: never half a character, never what could still become a stop string. '' = held back.
   * After a stop string matched it returns the text before it once, and '' from then on.
   */
  push(tokenId: number): string;
  /** Index into `stop` of the string that matched, -1 = none. */
  readonly matchedStop: number;
  /** What was held back, at the end of the stream. */
  finish(): string;
}

/** Text in, tokens out, and back. One per model. Synchronous: called on the event loop. */
export interface Preprocessor extends Lifecycle {
  readonly card: ModelCard;
  /** Throws `PREPROCESSOR_TEMPLATE_FAILED` (bad roles, template's own raise_exception), `PREPROCESSOR_NO_TEMPLATE`. */
  encodeChat(input: ChatInput): EncodedPrompt;
  encodeText(text: string): EncodedPrompt;
  openText(options: TextOutputOptions): TextOutput;
  /** Text of one token for logprobs; lossy where the token is part of a character. */
  tokenText(tokenId: number): string;
  tokenBytes(tokenId: number): Uint8Array;
}
