// @hot
import { AddedTokens } from './added-tokens.ts';
import { characterClasses } from './character-classes.ts';
import { recogniseLayout } from './layouts.ts';
import type { Layout } from './layouts.ts';
import { Merges } from './merges.ts';
import { asciiScanner } from './scan-ascii.ts';
import type { AsciiScanner } from './scan-ascii.ts';
import { unitScanner } from './scan-units.ts';
import type { UnitScanner } from './scan-units.ts';
import type { TokenBuffer } from './token-buffer.ts';
import type { TokenizerJson } from './tokenizer-json.ts';
import { SHORT_BYTES, SHORT_SLOT, ShortWordCache, UNIT_WORD_LIMIT, UnitWordCache } from './word-cache.ts';
import { wellFormed } from './well-formed.ts';
import { WordEncoder } from './word-encoder.ts';

/** Masks for a little-endian int32 of which the first 0..4 bytes count. */
const MASK = new Int32Array([0, 0xff, 0xffff, 0xffffff, -1]);
/** Scratch above this is given back after a call. */
const KEPT_SCRATCH_UNITS = 1 << 22;

export interface EncoderOptions {
  /** Words per cache generation, a power of two. Each cache holds two generations. */
  readonly cacheWords?: number;
}

/**
 * Exact BPE over UTF-16, synchronous. Token ids are those of Hugging Face's tokenizers for the layouts that
 * `recogniseLayout` accepts. One instance is not reentrant; nothing in it calls out.
 */
export class BpeEncoder {
  readonly layout: Layout;
  /** Words looked up and words that no cache had. */
  words: number;
  misses: number;
  /** Of the last `encodeInto`: text offset and token count (from the start of the call) right after the last added token that may be cut behind; 0 = none. */
  cutAtText: number;
  cutAtTokens: number;
  readonly #added: AddedTokens;
  readonly #wordEncoder: WordEncoder;
  readonly #merges: Merges;
  readonly #shortCache: ShortWordCache;
  readonly #unitCache: UnitWordCache;
  readonly #scanUnits: UnitScanner;
  readonly #scanAscii: AsciiScanner | undefined;
  #units: Uint16Array;
  #unitBytes: Buffer;
  #bytes: Buffer;
  #view: DataView;

  private constructor(json: TokenizerJson, layout: Layout, merges: Merges, cacheWords: number) {
    const classes = characterClasses(layout.kind === 'gpt2-digits');
    this.layout = layout;
    this.words = 0;
    this.misses = 0;
    this.cutAtText = 0;
    this.cutAtTokens = 0;
    this.#added = new AddedTokens(json.added_tokens);
    this.#wordEncoder = new WordEncoder(json.model, merges, layout.kind !== 'metaspace');
    this.#merges = merges;
    this.#shortCache = new ShortWordCache(cacheWords);
    this.#unitCache = new UnitWordCache(cacheWords);
    this.#scanUnits = unitScanner(layout.kind, classes);
    this.#scanAscii = asciiScanner(layout.kind, classes);
    this.#units = new Uint16Array(1 << 14);
    this.#unitBytes = Buffer.from(this.#units.buffer);
    this.#bytes = Buffer.allocUnsafeSlow(1 << 15);
    this.#view = new DataView(this.#bytes.buffer);
  }

  /** Undefined when the layout is not known exactly. */
  static create(json: TokenizerJson, options: EncoderOptions = {}): BpeEncoder | undefined {
    const layout = recogniseLayout(json);
    const merges = layout === undefined ? undefined : Merges.build(json.model);
    if (layout === undefined || merges === undefined) return undefined;
    return new BpeEncoder(json, layout, merges, options.cacheWords ?? 65536);
  }

  /** Bytes of tables, caches and scratch. */
  get memoryBytes(): number {
    return this.#merges.memoryBytes + this.#shortCache.memoryBytes + this.#unitCache.memoryBytes + this.#units.byteLength + this.#bytes.length;
  }

  /** Appends the ids of `text` to `out`. Lone surrogates count as U+FFFD. */
  encodeInto(text: string, out: TokenBuffer): void {
    const clean = wellFormed(text);
    const first = out.length;
    const added = this.#added;
    this.cutAtText = 0;
    this.cutAtTokens = 0;
    let at = 0;
    added.begin(clean);
    while (added.find(at)) {
      if (added.start > at) this.#segment(clean.slice(at, added.start), out);
      out.push(added.id);
      at = added.end;
      if (added.isCut) {
        this.cutAtText = at;
        this.cutAtTokens = out.length - first;
      }
    }
    added.finish();
    if (at < clean.length) this.#segment(at === 0 ? clean : clean.slice(at), out);
    if (this.#units.length > KEPT_SCRATCH_UNITS) this.#growUnits(0);
    if (this.#bytes.length > KEPT_SCRATCH_UNITS) this.#growBytes(0);
  }

  /** Text without added tokens. */
  #segment(text: string, out: TokenBuffer): void {
    const n = text.length;
    if (this.#scanAscii !== undefined) {
      if (this.#bytes.length < n * 3 + 32) this.#growBytes(n * 3 + 32);
      // One native copy; as many bytes as units means that all of it is ASCII.
      if (this.#bytes.write(text, 0, 'utf8') === n) {
        out.reserve(n + 8);
        this.#encodeAscii(n, this.#scanAscii, out);
        return;
      }
    }
    this.#encodeUnits(this.layout.nfc ? text.normalize('NFC') : text, out);
  }

  #encodeUnits(text: string, out: TokenBuffer): void {
    const prepend = this.layout.prepend ? 1 : 0;
    const n = text.length + prepend;
    if (this.#units.length < n + 2) this.#growUnits(n + 2);
    this.#unitBytes.write(text, prepend * 2, 'utf16le');
    const units = this.#units;
    if (this.layout.kind === 'metaspace') {
      if (prepend === 1) units[0] = 0x2581;
      for (let i = prepend; i < n; i++) if (units[i] === 32) units[i] = 0x2581;
    }
    out.reserve(n * 3 + 8);
    const scan = this.#scanUnits;
    for (let i = 0; i < n; ) {
      const j = scan(units, i, n);
      this.#encodeWord(i, j, out);
      i = j;
    }
  }

  /** The word `units[start .. end)`. */
  #encodeWord(start: number, end: number, out: TokenBuffer): void {
    this.words++;
    const isCached = end - start <= UNIT_WORD_LIMIT;
    if (isCached && this.#unitCache.lookup(this.#units, start, end, out) > 0) return;
    this.misses++;
    const count = this.#wordEncoder.encode(this.#units, start, end);
    const ids = this.#wordEncoder.ids;
    for (let i = 0; i < count; i++) out.ids[out.length++] = ids[i];
    if (isCached) this.#unitCache.insert(this.#units, start, end, ids.subarray(0, count));
  }

  /** `#bytes[0 .. n)`, all ASCII. Key of a word of at most 16 bytes = its bytes in four int32. */
  #encodeAscii(n: number, scan: AsciiScanner, out: TokenBuffer): void {
    const bytes = this.#bytes;
    const view = this.#view;
    const cache = this.#shortCache;
    const mask = cache.mask;
    const wrap = mask * SHORT_SLOT + SHORT_SLOT - 1;
    const ids = out.ids;
    let slots = cache.slots;
    let o = out.length;
    let words = 0;
    bytes[n] = 32;
    for (let i = 0; i < n; ) {
      const j = scan(bytes, i, n);
      const length = j - i;
      words++;
      if (length > SHORT_BYTES) {
        out.length = o;
        this.#encodeLongAscii(i, j, out);
        o = out.length;
        i = j;
        continue;
      }
      let k0 = view.getInt32(i, true);
      let k1 = 0;
      let k2 = 0;
      let k3 = 0;
      if (length < 5) k0 &= MASK[length];
      else {
        k1 = view.getInt32(i + 4, true);
        if (length < 9) k1 &= MASK[length - 4];
        else {
          k2 = view.getInt32(i + 8, true);
          if (length < 13) k2 &= MASK[length - 8];
          else k3 = view.getInt32(i + 12, true) & MASK[length - 12];
        }
      }
      let h = Math.imul(k0, 0x9e3779b1) ^ Math.imul(k1, 0x85ebca6b) ^ Math.imul(k2, 0xc2b2ae35) ^ Math.imul((k3 + length) | 0, 0x27d4eb2f);
      h ^= h >>> 15;
      h = Math.imul(h, 0x2c1b3c6d);
      h ^= h >>> 13;
      let at = (h & mask) * SHORT_SLOT;
      let meta = slots[at + 4];
      while (meta !== 0 && !(slots[at] === k0 && slots[at + 1] === k1 && slots[at + 2] === k2 && slots[at + 3] === k3 && meta >>> 8 === length)) {
        at = (at + SHORT_SLOT) & wrap;
        meta = slots[at + 4];
      }
      if (meta !== 0) {
        const count = meta & 255;
        const value = slots[at + 5];
        if (count === 1) ids[o++] = value;
        else for (let k = 0; k < count; k++) ids[o++] = cache.ids[value + k];
      } else {
        const key = cache.key;
        key[0] = k0;
        key[1] = k1;
        key[2] = k2;
        key[3] = k3;
        key[4] = length;
        key[5] = h;
        o = this.#missShort(i, j, ids, o);
        slots = cache.slots;
      }
      i = j;
    }
    this.words += words;
    out.length = o;
  }

  /** The word `#bytes[start .. end)`, whose key is set, is not in the current generation. */
  #missShort(start: number, end: number, ids: Int32Array, o: number): number {
    const recalled = this.#shortCache.recall(ids, o);
    let to = o + recalled;
    if (recalled === 0) {
      this.misses++;
      const units = this.#units;
      for (let i = start; i < end; i++) units[i - start] = this.#bytes[i];
      const count = this.#wordEncoder.encode(units, 0, end - start);
      for (let i = 0; i < count; i++) ids[to++] = this.#wordEncoder.ids[i];
    }
    this.#shortCache.insert(ids, o, to);
    return to;
  }

  #encodeLongAscii(start: number, end: number, out: TokenBuffer): void {
    const length = end - start;
    if (this.#units.length < length) this.#growUnits(length);
    const units = this.#units;
    for (let i = 0; i < length; i++) units[i] = this.#bytes[start + i];
    this.words--;
    this.#encodeWord(0, length, out);
  }

  #growUnits(need: number): void {
    let capacity = 1 << 14;
    while (capacity < need) capacity *= 2;
    this.#units = new Uint16Array(capacity);
    this.#unitBytes = Buffer.from(this.#units.buffer);
  }

  #growBytes(need: number): void {
    let capacity = 1 << 15;
    while (capacity < need) capacity *= 2;
    this.#bytes = Buffer.allocUnsafeSlow(capacity);
    this.#view = new DataView(this.#bytes.buffer);
  }
}
