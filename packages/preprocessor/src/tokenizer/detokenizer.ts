// @hot
import type { Vocabulary } from './vocabulary.ts';

/** Token ids of one stream → text. Never emits part of a character. */
export interface Detokenizer {
  /** Text that is complete now; '' = held back. */
  push(id: number): string;
  /** What was held back (incomplete bytes become U+FFFD). The detokenizer may be used for another stream afterwards. */
  finish(): string;
}

const lossy = new TextDecoder('utf-8', { ignoreBOM: true });

/** Whole-character tokens are an array load; bytes are only joined around tokens that split a character. */
export class VocabularyDetokenizer implements Detokenizer {
  readonly #vocabulary: Vocabulary;
  readonly #keepSpecial: boolean;
  /** At most 3 bytes of an unfinished character. */
  readonly #held: Uint8Array;
  #heldBytes: number;
  #stripLeft: number;

  constructor(vocabulary: Vocabulary, keepSpecial: boolean) {
    this.#vocabulary = vocabulary;
    this.#keepSpecial = keepSpecial;
    this.#held = new Uint8Array(4);
    this.#heldBytes = 0;
    this.#stripLeft = vocabulary.stripStart;
  }

  push(id: number): string {
    const vocabulary = this.#vocabulary;
    if (vocabulary.isSpecial[id] === 1 && !this.#keepSpecial) return '';
    if (this.#heldBytes === 0) {
      const text = vocabulary.texts[id];
      if (text !== undefined) return this.#stripLeft === 0 ? text : this.#strip(text);
    }
    return this.#pushBytes(vocabulary.bytes(id));
  }

  finish(): string {
    const held = this.#heldBytes;
    this.#heldBytes = 0;
    this.#stripLeft = this.#vocabulary.stripStart;
    return held === 0 ? '' : lossy.decode(this.#held.subarray(0, held));
  }

  #pushBytes(bytes: Uint8Array): string {
    if (bytes.length === 0) return '';
    const before = this.#heldBytes;
    const all = new Uint8Array(before + bytes.length);
    all.set(this.#held.subarray(0, before));
    all.set(bytes, before);
    const open = unfinishedBytes(all);
    const end = all.length - open;
    for (let i = 0; i < open; i++) this.#held[i] = all[end + i];
    this.#heldBytes = open;
    if (end === 0) return '';
    const text = lossy.decode(all.subarray(0, end));
    return this.#stripLeft === 0 ? text : this.#strip(text);
  }

  #strip(text: string): string {
    if (text === '') return text;
    let at = 0;
    while (at < text.length && at < this.#stripLeft && text.charCodeAt(at) === 32) at++;
    this.#stripLeft = at === text.length ? this.#stripLeft - at : 0;
    return text.slice(at);
  }
}

/** Length of the longest valid but unfinished UTF-8 sequence at the end. */
function unfinishedBytes(bytes: Uint8Array): number {
  const n = bytes.length;
  for (let back = 1; back <= 3 && back <= n; back++) {
    const lead = bytes[n - back];
    if (lead < 0x80) return 0;
    if (lead < 0xc0) continue;
    const width = sequenceBytes(lead);
    if (width <= back || (back >= 2 && !mayFollow(lead, bytes[n - back + 1]))) return 0;
    return back;
  }
  return 0;
}

function sequenceBytes(lead: number): number {
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  return lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
}

/** Overlong forms, surrogates and code points above U+10FFFF show in the second byte. */
function mayFollow(lead: number, second: number): boolean {
  if (lead === 0xe0) return second >= 0xa0;
  if (lead === 0xed) return second <= 0x9f;
  if (lead === 0xf0) return second >= 0x90;
  return lead !== 0xf4 || second <= 0x8f;
}
