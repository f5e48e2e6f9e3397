import { isUtf8 } from 'node:buffer';
import { characterToByte } from './byte-characters.ts';
import type { DecoderJson, TokenizerJson } from './tokenizer-json.ts';

const utf8 = new TextEncoder();

/** How token strings become bytes. */
export interface Spelling {
  /** Byte-level stand-in characters, or U+2581 for space with `<0xNN>` tokens for bytes. */
  readonly kind: 'byte-level' | 'metaspace';
  /** Leading spaces of the whole output that are dropped. */
  readonly stripStart: number;
}

/** The spelling of a tokenizer.json's decoder, undefined when it is none of the two. */
export function recogniseSpelling(decoder: DecoderJson | null | undefined): Spelling | undefined {
  if (decoder?.type === 'ByteLevel') return { kind: 'byte-level', stripStart: 0 };
  if (decoder?.type !== 'Sequence') return undefined;
  const steps = decoder.decoders ?? [];
  if (steps.length === 1 && steps[0].type === 'ByteLevel') return { kind: 'byte-level', stripStart: 0 };
  const [replace, fallback, fuse, strip] = steps;
  if (steps.length < 3 || steps.length > 4 || fallback.type !== 'ByteFallback' || fuse.type !== 'Fuse') return undefined;
  if (replace.type !== 'Replace' || replace.pattern?.String !== '▁' || replace.content !== ' ') return undefined;
  return strip === undefined ? { kind: 'metaspace', stripStart: 0 } : recogniseStrip(strip);
}

function recogniseStrip(strip: DecoderJson): Spelling | undefined {
  if (strip.type !== 'Strip' || strip.content !== ' ' || (strip.stop ?? 0) !== 0) return undefined;
  return { kind: 'metaspace', stripStart: strip.start ?? 0 };
}

/** Text and bytes of every token, built once per model. */
export class Vocabulary {
  /** Ids are below this. */
  readonly size: number;
  readonly stripStart: number;
  /** Text of tokens that are whole characters; undefined for parts of characters and for ids without a token. */
  readonly texts: (string | undefined)[];
  /** 1 for special tokens, which text output leaves out. */
  readonly isSpecial: Uint8Array;
  readonly #arena: Buffer;
  readonly #offsets: Int32Array;

  private constructor(entries: Map<number, Uint8Array>, special: ReadonlySet<number>, stripStart: number) {
    let size = 0;
    let total = 0;
    for (const [id, bytes] of entries) {
      size = Math.max(size, id + 1);
      total += bytes.length;
    }
    this.size = size;
    this.stripStart = stripStart;
    this.texts = Array.from({ length: size }, () => undefined);
    this.isSpecial = new Uint8Array(size);
    this.#arena = Buffer.alloc(total);
    this.#offsets = new Int32Array(size + 1);
    let at = 0;
    for (let id = 0; id < size; id++) {
      const bytes = entries.get(id);
      if (bytes !== undefined) {
        this.#arena.set(bytes, at);
        const slice = this.#arena.subarray(at, at + bytes.length);
        if (isUtf8(slice)) this.texts[id] = slice.toString('utf8');
        at += bytes.length;
      }
      this.#offsets[id + 1] = at;
      if (special.has(id)) this.isSpecial[id] = 1;
    }
  }

  /** Undefined when the decoder is not known. */
  static build(json: TokenizerJson): Vocabulary | undefined {
    const spelling = recogniseSpelling(json.decoder);
    if (spelling === undefined || Array.isArray(json.model.vocab)) return undefined;
    const entries = new Map<number, Uint8Array>();
    for (const token in json.model.vocab) {
      entries.set(json.model.vocab[token], spelling.kind === 'byte-level' ? byteLevelBytes(token) : metaspaceBytes(token));
    }
    const special = new Set<number>();
    for (const token of json.added_tokens) {
      entries.set(token.id, utf8.encode(token.content));
      if (token.special) special.add(token.id);
    }
    return new Vocabulary(entries, special, spelling.stripStart);
  }

  /** A view; empty for ids without a token. */
  bytes(id: number): Uint8Array {
    if (!(id >= 0 && id < this.size)) return this.#arena.subarray(0, 0);
    return this.#arena.subarray(this.#offsets[id], this.#offsets[id + 1]);
  }

  /** Text of a token by itself; U+FFFD where it is part of a character. */
  text(id: number): string {
    return this.texts[id] ?? Buffer.from(this.bytes(id)).toString('utf8');
  }
}

function byteLevelBytes(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  let n = 0;
  for (const character of token) {
    const byte = characterToByte.get(character);
    if (byte === undefined) return utf8.encode(token);
    bytes[n++] = byte;
  }
  return bytes.subarray(0, n);
}

function metaspaceBytes(token: string): Uint8Array {
  const byte = /^<0x([0-9A-F]{2})>$/.exec(token);
  if (byte !== null) return Uint8Array.of(Number.parseInt(byte[1], 16));
  return utf8.encode(token.replaceAll('▁', ' '));
}
