// @hot
import { byteToCharacter, characterToByte } from './byte-characters.ts';
import type { Merges } from './merges.ts';
import type { ModelJson } from './tokenizer-json.ts';

/** One word of UTF-16 units → token ids, without any cache: symbols, then merges. */
export class WordEncoder {
  /** Result of `encode`, valid until the next call; replaced when it grows. */
  ids: Int32Array;
  readonly #merges: Merges;
  readonly #byteIds: Int32Array;
  /** Character-level vocabularies (byte fallback): id per code point. */
  readonly #characterIds: Map<number, number> | undefined;
  /** `ignore_merges`: words that are tokens as a whole. */
  readonly #wholeIds: Map<string, number> | undefined;
  readonly #unknownId: number;
  readonly #fuseUnknown: boolean;
  readonly #longestWhole: number;

  constructor(model: ModelJson, merges: Merges, byteLevel: boolean) {
    this.ids = new Int32Array(1024);
    this.#merges = merges;
    this.#byteIds = byteIds(model.vocab, byteLevel);
    this.#characterIds = byteLevel ? undefined : characterIds(model.vocab);
    this.#wholeIds = model.ignore_merges ? wholeIds(model.vocab, byteLevel) : undefined;
    this.#unknownId = typeof model.unk_token === 'string' ? (model.vocab[model.unk_token] ?? -1) : -1;
    this.#fuseUnknown = model.fuse_unk ?? false;
    let longest = 0;
    if (this.#wholeIds !== undefined) for (const word of this.#wholeIds.keys()) longest = Math.max(longest, word.length);
    this.#longestWhole = longest;
  }

  /** Encodes `units[start .. end)` into `ids`; returns the count. */
  encode(units: Uint16Array, start: number, end: number): number {
    if (this.#wholeIds !== undefined && end - start <= this.#longestWhole) {
      const id = this.#wholeIds.get(String.fromCharCode.apply(null, units.subarray(start, end) as unknown as number[]));
      if (id !== undefined) {
        this.ids[0] = id;
        return 1;
      }
    }
    if (this.ids.length < (end - start) * 3 + 4) this.ids = new Int32Array((end - start) * 4);
    const count = this.#characterIds === undefined ? this.#byteSymbols(units, start, end) : this.#characterSymbols(units, start, end);
    return this.#merges.apply(this.ids, count);
  }

  #byteSymbols(units: Uint16Array, start: number, end: number): number {
    const ids = this.ids;
    let n = 0;
    for (let i = start; i < end; i++) {
      const unit = units[i];
      if (unit < 128) {
        const id = this.#byteIds[unit];
        if (id >= 0) ids[n++] = id;
        continue;
      }
      const code = codePoint(units, i);
      if (code > 0xffff) i++;
      const to = this.#utf8(code, n);
      // A byte without a token is dropped, as the reference does.
      let kept = n;
      for (let k = n; k < to; k++) if (ids[k] >= 0) ids[kept++] = ids[k];
      n = kept;
    }
    return n;
  }

  #characterSymbols(units: Uint16Array, start: number, end: number): number {
    const ids = this.ids;
    const characters = this.#characterIds as Map<number, number>;
    let n = 0;
    let afterUnknown = false;
    for (let i = start; i < end; i++) {
      const code = codePoint(units, i);
      if (code > 0xffff) i++;
      const id = characters.get(code);
      if (id !== undefined) {
        ids[n++] = id;
        afterUnknown = false;
        continue;
      }
      const to = this.#utf8(code, n);
      let complete = true;
      for (let k = n; k < to; k++) if (ids[k] < 0) complete = false;
      if (complete) {
        n = to;
        afterUnknown = false;
      } else if (this.#unknownId >= 0) {
        if (!(this.#fuseUnknown && afterUnknown)) ids[n++] = this.#unknownId;
        afterUnknown = true;
      }
    }
    return n;
  }

  /** Ids of the UTF-8 bytes of a code point to `ids` from n; -1 where a byte has none. */
  #utf8(code: number, n: number): number {
    const ids = this.ids;
    const bytes = this.#byteIds;
    if (code < 0x80) {
      ids[n++] = bytes[code];
      return n;
    }
    if (code < 0x800) ids[n++] = bytes[0xc0 | (code >> 6)];
    else {
      if (code < 0x10000) ids[n++] = bytes[0xe0 | (code >> 12)];
      else {
        ids[n++] = bytes[0xf0 | (code >> 18)];
        ids[n++] = bytes[0x80 | ((code >> 12) & 63)];
      }
      ids[n++] = bytes[0x80 | ((code >> 6) & 63)];
    }
    ids[n++] = bytes[0x80 | (code & 63)];
    return n;
  }
}

function codePoint(units: Uint16Array, i: number): number {
  const unit = units[i];
  return unit >= 0xd800 && unit < 0xdc00 ? 0x10000 + ((unit - 0xd800) << 10) + (units[i + 1] - 0xdc00) : unit;
}

function byteIds(vocab: ModelJson['vocab'], byteLevel: boolean): Int32Array {
  const ids = new Int32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    const token = byteLevel ? byteToCharacter[byte] : `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
    ids[byte] = vocab[token] ?? -1;
  }
  return ids;
}

function characterIds(vocab: ModelJson['vocab']): Map<number, number> {
  const ids = new Map<number, number>();
  for (const token in vocab) {
    const code = token.codePointAt(0);
    if (code !== undefined && token.length === (code > 0xffff ? 2 : 1)) ids.set(code, vocab[token]);
  }
  return ids;
}

/** Every entry that is whole characters, by its text. */
function wholeIds(vocab: ModelJson['vocab'], byteLevel: boolean): Map<string, number> {
  const ids = new Map<string, number>();
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  for (const token in vocab) {
    if (!byteLevel) {
      ids.set(token, vocab[token]);
      continue;
    }
    const bytes = Array.from(token, (character) => characterToByte.get(character) ?? -1);
    if (bytes.includes(-1)) continue;
    try {
      ids.set(decoder.decode(Uint8Array.from(bytes)), vocab[token]);
    } catch {
      // Part of a character: no text equals it.
    }
  }
  return ids;
}
