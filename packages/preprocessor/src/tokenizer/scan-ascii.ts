// @hot
import { DIGIT, LETTER, NEWLINE, NUMBER, SPACE } from './character-classes.ts';
import type { CharacterClasses } from './character-classes.ts';
import type { LayoutKind } from './layouts.ts';

/** End of the word that starts at `at` (`at < end`). All bytes are ASCII and `bytes[end]` is a space, which ends every run but one of spaces. */
export type AsciiScanner = (bytes: Uint8Array, at: number, end: number) => number;

/** The grammars of scan-units.ts for pure ASCII text; undefined: the layout has none (metaspace). */
export function asciiScanner(kind: LayoutKind, classes: CharacterClasses): AsciiScanner | undefined {
  const table = classes.basic.slice(0, 256);
  if (kind === 'gpt2') return (bytes, at, end) => scanGpt2(table, bytes, at, end);
  if (kind === 'gpt2-digits') return (bytes, at, end) => scanGpt2Digits(table, bytes, at, end);
  if (kind === 'metaspace') return undefined;
  const maxDigits = kind === 'qwen2' ? 1 : 3;
  return (bytes, at, end) => scanCl100k(table, maxDigits, bytes, at, end);
}

/** Length of 's 't 'm 'd 're 've 'll at the apostrophe at i, 0 = none; `fold` = 32 ignores case. */
function contraction(b: Uint8Array, i: number, n: number, fold: number): number {
  if (i + 1 >= n) return 0;
  const d = b[i + 1] | fold;
  if (d === 115 || d === 116 || d === 109 || d === 100) return 2;
  if (i + 2 >= n) return 0;
  const e = b[i + 2] | fold;
  return (e === 101 && (d === 114 || d === 118)) || (d === 108 && e === 108) ? 3 : 0;
}

function scanGpt2(t: Uint8Array, b: Uint8Array, i: number, n: number): number {
  const c = b[i];
  let j = i + 1;
  let k = t[c];
  if (c === 32) k = j < n ? t[b[j]] : SPACE;
  else if (c === 39) {
    const length = contraction(b, i, n, 0);
    if (length > 0) return i + length;
  }
  // A single space joins the run behind it; its first character is known to be of class k.
  if (k === LETTER || k === NUMBER || k === 0) {
    while (t[b[j]] === k) j++;
    return j;
  }
  while (j < n && (t[b[j]] & SPACE) !== 0) j++;
  return j === n || j === i + 1 ? j : j - 1;
}

function scanGpt2Digits(t: Uint8Array, b: Uint8Array, i: number, n: number): number {
  const c = b[i];
  let j = i + 1;
  let k = t[c];
  if (c === 32) k = j < n ? t[b[j]] : SPACE;
  else if (c === 39) {
    const length = contraction(b, i, n, 0);
    if (length > 0) return i + length;
  }
  if (k === LETTER || k === 0) {
    while (t[b[j]] === k) j++;
    return j;
  }
  if (k === DIGIT) return j; // the digit itself, or the space before one
  while (j < n && (t[b[j]] & SPACE) !== 0) j++;
  return j === n || j === i + 1 || t[b[j]] === DIGIT ? j : j - 1;
}

function scanCl100k(t: Uint8Array, maxDigits: number, b: Uint8Array, i: number, n: number): number {
  const c = b[i];
  const k = t[c];
  let j = i + 1;
  if (k === LETTER) {
    while (t[b[j]] === LETTER) j++;
    return j;
  }
  if (c === 39) {
    const length = contraction(b, i, n, 32);
    if (length > 0) return i + length;
  }
  if (k === NUMBER) {
    for (let left = maxDigits; --left > 0 && t[b[j]] === NUMBER; ) j++;
    return j;
  }
  if ((k & NEWLINE) === 0 && j < n) {
    const next = t[b[j]];
    if (next === LETTER) {
      while (t[b[j]] === LETTER) j++;
      return j;
    }
    if (c === 32 && next === 0) return others(t, b, j, n);
  }
  if (k === 0) return others(t, b, j, n);
  return whitespace(t, b, i, n);
}

/** [^\s\p{L}\p{N}]*[\r\n]* */
function others(t: Uint8Array, b: Uint8Array, j: number, n: number): number {
  while (t[b[j]] === 0) j++;
  while (j < n && (t[b[j]] & NEWLINE) !== 0) j++;
  return j;
}

/** \s*[\r\n]+|\s+(?!\S)|\s+ */
function whitespace(t: Uint8Array, b: Uint8Array, i: number, n: number): number {
  let j = i;
  let lastNewline = -1;
  for (; j < n && (t[b[j]] & SPACE) !== 0; j++) if ((t[b[j]] & NEWLINE) !== 0) lastNewline = j;
  if (lastNewline >= 0) return lastNewline + 1;
  return j === n || j === i + 1 ? j : j - 1;
}
