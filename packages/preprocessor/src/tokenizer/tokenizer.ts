import { BpeEncoder } from './bpe-encoder.ts';
import { VocabularyDetokenizer } from './detokenizer.ts';
import type { Detokenizer } from './detokenizer.ts';
import { LibraryDetokenizer, LibraryEncoder, createLibrary, libraryTokenText } from './library-tokenizer.ts';
import type { HuggingFaceLibrary } from './library-tokenizer.ts';
import type { CuttingEncoder } from './prefix-cache.ts';
import { specialAffixes } from './special-affixes.ts';
import type { SpecialAffixes } from './special-affixes.ts';
import { TokenBuffer } from './token-buffer.ts';
import type { TokenizerJson } from './tokenizer-json.ts';
import { Vocabulary } from './vocabulary.ts';

/** Text ⇄ token ids of one model. Synchronous, not reentrant. */
export interface Tokenizer extends CuttingEncoder {
  /** Layout of the own encoder, or 'library'. */
  readonly encoderName: string;
  /** 'table' or 'library'. */
  readonly decoderName: string;
  /** Token ids are below this. */
  readonly size: number;
  readonly affixes: SpecialAffixes;
  /** Ids of `text`, without the affixes. */
  encode(text: string): Int32Array;
  openDetokenizer(keepSpecial: boolean): Detokenizer;
  /** Text of one token by itself; U+FFFD where it is part of a character. */
  tokenText(id: number): string;
  tokenBytes(id: number): Uint8Array;
  /** Id of an added token or vocabulary entry by its literal content. */
  tokenId(content: string): number | undefined;
}

export interface TokenizerOptions {
  /** tokenizer_config.json, for the library. */
  readonly config?: Record<string, unknown>;
  /** Words per cache generation, a power of two. */
  readonly cacheWords?: number;
  /** Use the library even where the own encoder knows the layout (oracle, emergency). */
  readonly forceLibrary?: boolean;
}

/** Own code for known layouts, `@huggingface/tokenizers` for the rest. Throws what the library throws on unknown types. */
export function createTokenizer(json: TokenizerJson, options: TokenizerOptions = {}): Tokenizer {
  const own = options.forceLibrary ? undefined : BpeEncoder.create(json, options.cacheWords === undefined ? {} : { cacheWords: options.cacheWords });
  const vocabulary = options.forceLibrary ? undefined : Vocabulary.build(json);
  const affixes = specialAffixes(json.post_processor);
  const needsLibrary = own === undefined || vocabulary === undefined || affixes === undefined;
  const library = needsLibrary ? createLibrary(json, options.config ?? {}) : undefined;
  const ids = new Map<string, number>();
  for (const token of json.added_tokens) ids.set(token.content, token.id);
  const encoder: CuttingEncoder = own ?? new LibraryEncoder(library as HuggingFaceLibrary);
  const shared = {
    json,
    ids,
    encoder,
    encoderName: own?.layout.kind ?? 'library',
    affixes: affixes ?? libraryAffixes(library as HuggingFaceLibrary),
  };
  if (vocabulary !== undefined) return new TableTokenizer(shared, vocabulary);
  return new LibraryTokenizer(shared, library as HuggingFaceLibrary);
}

const utf8 = new TextEncoder();

interface Shared {
  readonly json: TokenizerJson;
  readonly ids: ReadonlyMap<string, number>;
  readonly encoder: CuttingEncoder;
  readonly encoderName: string;
  readonly affixes: SpecialAffixes;
}

/** What both kinds have in common: text to ids. */
abstract class TokenizerEncoding {
  readonly encoderName: string;
  readonly affixes: SpecialAffixes;
  readonly #shared: Shared;
  readonly #scratch: TokenBuffer;

  constructor(shared: Shared) {
    this.encoderName = shared.encoderName;
    this.affixes = shared.affixes;
    this.#shared = shared;
    this.#scratch = new TokenBuffer();
  }

  get cutAtText(): number {
    return this.#shared.encoder.cutAtText;
  }

  get cutAtTokens(): number {
    return this.#shared.encoder.cutAtTokens;
  }

  encodeInto(text: string, out: TokenBuffer): void {
    this.#shared.encoder.encodeInto(text, out);
  }

  encode(text: string): Int32Array {
    this.#scratch.length = 0;
    this.#shared.encoder.encodeInto(text, this.#scratch);
    return this.#scratch.copy();
  }

  tokenId(content: string): number | undefined {
    const { vocab } = this.#shared.json.model;
    return this.#shared.ids.get(content) ?? (Object.hasOwn(vocab, content) ? vocab[content] : undefined);
  }
}

class TableTokenizer extends TokenizerEncoding implements Tokenizer {
  readonly decoderName = 'table';
  readonly size: number;
  readonly #vocabulary: Vocabulary;

  constructor(shared: Shared, vocabulary: Vocabulary) {
    super(shared);
    this.size = vocabulary.size;
    this.#vocabulary = vocabulary;
  }

  openDetokenizer(keepSpecial: boolean): Detokenizer {
    return new VocabularyDetokenizer(this.#vocabulary, keepSpecial);
  }

  tokenText(id: number): string {
    return this.#vocabulary.text(id);
  }

  tokenBytes(id: number): Uint8Array {
    return this.#vocabulary.bytes(id);
  }
}

class LibraryTokenizer extends TokenizerEncoding implements Tokenizer {
  readonly decoderName = 'library';
  readonly size: number;
  readonly #library: HuggingFaceLibrary;

  constructor(shared: Shared, library: HuggingFaceLibrary) {
    super(shared);
    let size = 0;
    for (const id of library.get_vocab(true).values()) size = Math.max(size, id + 1);
    this.size = size;
    this.#library = library;
  }

  openDetokenizer(keepSpecial: boolean): Detokenizer {
    return new LibraryDetokenizer(this.#library, keepSpecial);
  }

  tokenText(id: number): string {
    return id >= 0 && id < this.size ? libraryTokenText(this.#library, id) : '';
  }

  tokenBytes(id: number): Uint8Array {
    return utf8.encode(this.tokenText(id));
  }
}

/** Post-processors that are not read here: what they add around one known token. */
function libraryAffixes(library: HuggingFaceLibrary): SpecialAffixes {
  const bare = library.encode('a', { add_special_tokens: false }).ids;
  const full = library.encode('a', { add_special_tokens: true }).ids;
  const at = full.findIndex((_, i) => bare.every((id, k) => full[i + k] === id));
  if (bare.length === 0 || at < 0) return { before: [], after: [] };
  return { before: full.slice(0, at), after: full.slice(at + bare.length) };
}
