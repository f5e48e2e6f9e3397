import { Tokenizer as Library } from '@huggingface/tokenizers';
import type { Detokenizer } from './detokenizer.ts';
import type { TokenBuffer } from './token-buffer.ts';
import type { TokenizerJson } from './tokenizer-json.ts';
import { wellFormed } from './well-formed.ts';

/** What is used of the library; its own declarations do not resolve under nodenext. */
export interface HuggingFaceLibrary {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  decode(ids: number[], options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean }): string;
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

/**
 * A character is at most four tokens, but tokens may also hold the end of one character and the start of the next: only
 * after this many waiting tokens is U+FFFD taken for broken input.
 */
const WAITING_TOKENS = 12;

/**
 * Decoders without a table: the text of the tokens shown last and the new ones, less the text of the former (which supplies the
 * context: spaces between words). Text that ends in U+FFFD may be part of a character and waits.
 */
export class LibraryDetokenizer implements Detokenizer {
  readonly #library: HuggingFaceLibrary;
  readonly #keepSpecial: boolean;
  /** Tokens of the last chunk, then those that wait. */
  #window: number[];
  #shown: number;

  constructor(library: HuggingFaceLibrary, keepSpecial: boolean) {
    this.#library = library;
    this.#keepSpecial = keepSpecial;
    this.#window = [];
    this.#shown = 0;
  }

  push(id: number): string {
    this.#window.push(id);
    const text = this.#decode(this.#window);
    if (text.endsWith('\ufffd') && this.#window.length - this.#shown < WAITING_TOKENS) return '';
    return this.#emit(text);
  }

  finish(): string {
    const text = this.#shown < this.#window.length ? this.#emit(this.#decode(this.#window)) : '';
    this.#window = [];
    this.#shown = 0;
    return text;
  }

  #emit(text: string): string {
    const before = this.#shown === 0 ? '' : this.#decode(this.#window.slice(0, this.#shown));
    this.#window = this.#window.slice(this.#shown);
    this.#shown = this.#window.length;
    return wellFormed(text.slice(before.length));
  }

  #decode(ids: number[]): string {
    return this.#library.decode(ids, { skip_special_tokens: !this.#keepSpecial, clean_up_tokenization_spaces: false });
  }
}

/** Text of a token as it stands inside a text: decoded behind another one, because decoders strip a leading space. */
export function libraryTokenText(library: HuggingFaceLibrary, id: number): string {
  const options = { skip_special_tokens: false, clean_up_tokenization_spaces: false };
  const context = library.encode('a', { add_special_tokens: false }).ids;
  return library.decode([...context, id], options).slice(library.decode(context, options).length);
}
