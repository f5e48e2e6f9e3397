// @hot
import { DIGIT, LETTER, NEWLINE, NUMBER, SPACE, SURROGATE } from './character-classes.ts';
import type { CharacterClasses } from './character-classes.ts';
import type { LayoutKind } from './layouts.ts';

/** End of the word that starts at `at` (`at < end`). Input is well-formed UTF-16. */
export type UnitScanner = (units: Uint16Array, at: number, end: number) => number;

/** Hand-written equivalents of the pre-tokenizer regexes over UTF-16 units; each alternative in the order of its regex. */
export function unitScanner(kind: LayoutKind, classes: CharacterClasses): UnitScanner {
  const runs = new Runs(classes);
  if (kind === 'gpt2') return (units, at, end) => scanGpt2(runs, units, at, end);
  if (kind === 'gpt2-digits') return (units, at, end) => scanGpt2Digits(runs, units, at, end);
  if (kind === 'metaspace') return scanMetaspace;
  const maxDigits = kind === 'qwen2' ? 1 : 3;
  return (units, at, end) => scanCl100k(runs, maxDigits, units, at, end);
}

class Runs {
  readonly basic: Uint8Array;
  readonly astral: Uint8Array;

  constructor(classes: CharacterClasses) {
    this.basic = classes.basic;
    this.astral = classes.astral;
  }

  pair(u: Uint16Array, i: number): number {
    return this.astral[((u[i] - 0xd800) << 10) + (u[i + 1] - 0xdc00)];
  }

  /** Class of the character at i. */
  at(u: Uint16Array, i: number): number {
    const c = this.basic[u[i]];
    return c === SURROGATE ? this.pair(u, i) : c;
  }

  /** End of the run of letters from i; the same for numbers and for the rest, below. */
  letters(u: Uint16Array, i: number, n: number): number {
    const { basic } = this;
    for (;;) {
      while (i < n && (basic[u[i]] & LETTER) !== 0) i++;
      if (i + 1 < n && basic[u[i]] === SURROGATE && this.pair(u, i) === LETTER) i += 2;
      else return i;
    }
  }

  numbers(u: Uint16Array, i: number, n: number): number {
    const { basic } = this;
    for (;;) {
      while (i < n && (basic[u[i]] & NUMBER) !== 0) i++;
      if (i + 1 < n && basic[u[i]] === SURROGATE && this.pair(u, i) === NUMBER) i += 2;
      else return i;
    }
  }

  others(u: Uint16Array, i: number, n: number): number {
    const { basic } = this;
    for (;;) {
      while (i < n && basic[u[i]] === 0) i++;
      if (i + 1 < n && basic[u[i]] === SURROGATE && this.pair(u, i) === 0) i += 2;
      else return i;
    }
  }

  spaces(u: Uint16Array, i: number, n: number): number {
    const { basic } = this;
    while (i < n && (basic[u[i]] & SPACE) !== 0) i++;
    return i;
  }

  newlines(u: Uint16Array, i: number, n: number): number {
    const { basic } = this;
    while (i < n && (basic[u[i]] & NEWLINE) !== 0) i++;
    return i;
  }
}

/** Length of 's 't 'm 'd 're 've 'll at the apostrophe at i, 0 = none. */
function contraction(u: Uint16Array, i: number, n: number): number {
  if (i + 1 >= n) return 0;
  const d = u[i + 1];
  if (d === 115 || d === 116 || d === 109 || d === 100) return 2;
  if (i + 2 >= n) return 0;
  const e = u[i + 2];
  return (e === 101 && (d === 114 || d === 118)) || (d === 108 && e === 108) ? 3 : 0;
}

/** 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
function scanGpt2(r: Runs, u: Uint16Array, i: number, n: number): number {
  const c = u[i];
  if (c === 32) {
    if (i + 1 >= n) return n;
    const next = r.at(u, i + 1);
    if (next === LETTER) return r.letters(u, i + 1, n);
    if (next === NUMBER) return r.numbers(u, i + 1, n);
    if ((next & SPACE) === 0) return r.others(u, i + 1, n);
  } else {
    const k = r.at(u, i);
    if (k === LETTER) return r.letters(u, i, n);
    if (k === NUMBER) return r.numbers(u, i, n);
    if ((k & SPACE) === 0) {
      const length = c === 39 ? contraction(u, i, n) : 0;
      return length > 0 ? i + length : r.others(u, i, n);
    }
  }
  const j = r.spaces(u, i + 1, n);
  return j === n || j === i + 1 ? j : j - 1;
}

/** As scanGpt2, after every digit was split off: a digit is a word, and the end of the text for what stands before it. */
function scanGpt2Digits(r: Runs, u: Uint16Array, i: number, n: number): number {
  const c = u[i];
  if (c === 32) {
    if (i + 1 >= n) return n;
    const next = r.at(u, i + 1);
    if (next === LETTER) return r.letters(u, i + 1, n);
    if (next === DIGIT) return i + 1;
    if (next === NUMBER) return r.numbers(u, i + 1, n);
    if ((next & SPACE) === 0) return r.others(u, i + 1, n);
  } else {
    const k = r.at(u, i);
    if (k === LETTER) return r.letters(u, i, n);
    if (k === DIGIT) return r.basic[c] === SURROGATE ? i + 2 : i + 1;
    if (k === NUMBER) return r.numbers(u, i, n);
    if ((k & SPACE) === 0) {
      const length = c === 39 ? contraction(u, i, n) : 0;
      return length > 0 ? i + length : r.others(u, i, n);
    }
  }
  const j = r.spaces(u, i + 1, n);
  return j === n || j === i + 1 || r.at(u, j) === DIGIT ? j : j - 1;
}

/** Like `contraction` in any case; U+017F (long s) folds to s. */
function contractionAnyCase(u: Uint16Array, i: number, n: number): number {
  if (i + 1 >= n) return 0;
  if (u[i + 1] === 0x17f) return 2;
  if (u[i + 1] > 127) return 0;
  const d = u[i + 1] | 32;
  if (d === 115 || d === 116 || d === 109 || d === 100) return 2;
  if (i + 2 >= n || u[i + 2] > 127) return 0;
  const e = u[i + 2] | 32;
  return (e === 101 && (d === 114 || d === 118)) || (d === 108 && e === 108) ? 3 : 0;
}

/** \p{N}{1,max} */
function numberGroup(r: Runs, max: number, u: Uint16Array, i: number, n: number): number {
  for (let left = max; left > 0 && i < n; left--) {
    const k = r.basic[u[i]];
    if ((k & NUMBER) !== 0) i++;
    else if (k === SURROGATE && r.pair(u, i) === NUMBER) i += 2;
    else break;
  }
  return i;
}

/** Contractions|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
function scanCl100k(r: Runs, maxDigits: number, u: Uint16Array, i: number, n: number): number {
  const c = u[i];
  const width = r.basic[c] === SURROGATE ? 2 : 1;
  const k = r.at(u, i);
  if (k === LETTER) return r.letters(u, i, n);
  if (c === 39) {
    const length = contractionAnyCase(u, i, n);
    if (length > 0) return i + length;
  }
  if (k === NUMBER) return numberGroup(r, maxDigits, u, i, n);
  if ((k & NEWLINE) === 0 && i + width < n) {
    const next = r.at(u, i + width);
    if (next === LETTER) return r.letters(u, i + width, n);
    if (c === 32 && next === 0) return r.newlines(u, r.others(u, i + 1, n), n);
  }
  if (k === 0) return r.newlines(u, r.others(u, i, n), n);
  let j = i;
  let lastNewline = -1;
  for (; j < n && (r.basic[u[j]] & SPACE) !== 0; j++) if ((r.basic[u[j]] & NEWLINE) !== 0) lastNewline = j;
  if (lastNewline >= 0) return lastNewline + 1;
  return j === n || j === i + 1 ? j : j - 1;
}

/** A run of U+2581 and what follows up to the next one. */
function scanMetaspace(u: Uint16Array, i: number, n: number): number {
  while (i < n && u[i] === 0x2581) i++;
  while (i < n && u[i] !== 0x2581) i++;
  return i;
}
