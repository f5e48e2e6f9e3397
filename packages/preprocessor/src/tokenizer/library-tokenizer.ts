import { Tokenizer as Library } from '@huggingface/tokenizers';
import type { Detokenizer } from './detokenizer.ts';
import type { TokenBuffer } from './token-buffer.ts';
import type { TokenizerJson } from './tokenizer-json.ts';
import { wellFormed } from './well-formed.ts';

/** What is used of the library; its own declarations do not resolve under nodenext. */
export interface HuggingFaceLibrary {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  decode(ids: number[], options: { skip_special_tokens: boolean }): string;
  get_vocab(withAddedTokens: boolean): Map<string, number>;
}

/** `@huggingface/tokenizers` behind the interface of the own encoder: any tokenizer.json, 70 times slower. */
export class LibraryEncoder {
  readonly cutAtText: number;
  readonly cutAtTokens: number;
  readonly #library: HuggingFaceLibrary;

  constructor(library: HuggingFaceLibrary) {
    this.#library = library;
    this.cutAtText = 0;
    this.cutAtTokens = 0;
  }

  encodeInto(text: string, out: TokenBuffer): void {
    const { ids } = this.#library.encode(wellFormed(text), { add_special_tokens: false });
    out.reserve(ids.length);
    for (let i = 0; i < ids.length; i++) out.ids[out.length++] = ids[i];
  }
}

/** Throws what the library throws: unknown component types. */
export function createLibrary(json: TokenizerJson, config: Record<string, unknown>): HuggingFaceLibrary {
  return new Library(json, config) as HuggingFaceLibrary;
}

/** Tokens of context that keep decoding of the next ones exact (spaces between words, joined bytes). */
const CONTEXT_TOKENS = 6;

/**
 * Decoders without a table: the text of a window of tokens, less the text of those already shown. Text that ends in U+FFFD may
 * be part of a character and waits.
 */
export class LibraryDetokenizer implements Detokenizer {
  readonly #library: HuggingFaceLibrary;
  readonly #keepSpecial: boolean;
  readonly #window: number[];
  /** Tokens of the window whose text was emitted. */
  #shown: number;

  constructor(library: HuggingFaceLibrary, keepSpecial: boolean) {
    this.#library = library;
    this.#keepSpecial = keepSpecial;
    this.#window = [];
    this.#shown = 0;
  }

  push(id: number): string {
    this.#window.push(id);
    const text = this.#decode(this.#window.length);
    // Four held tokens cover the bytes of any character: what is still U+FFFD then is broken input.
    if (text.endsWith('\ufffd') && this.#window.length - this.#shown < 4) return '';
    return this.#emit(text);
  }

  finish(): string {
    const text = this.#shown < this.#window.length ? this.#emit(this.#decode(this.#window.length)) : '';
    this.#window.length = 0;
    this.#shown = 0;
    return text;
  }

  #emit(text: string): string {
    const before = this.#shown === 0 ? '' : this.#decode(this.#shown);
    const drop = Math.max(0, this.#shown - CONTEXT_TOKENS);
    this.#window.splice(0, drop);
    this.#shown = this.#window.length;
    return text.slice(before.length);
  }

  #decode(count: number): string {
    const ids = this.#window.slice(0, count);
    return this.#library.decode(ids, { skip_special_tokens: !this.#keepSpecial });
  }
}
