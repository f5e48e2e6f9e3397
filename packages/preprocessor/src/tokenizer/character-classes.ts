import { digits, letters, numbers, spaces } from './unicode-16.0-classes.ts';

/** Class bits of a UTF-16 unit. 0 = everything else. */
export const LETTER = 1;
export const NUMBER = 2;
export const SPACE = 4;
export const NEWLINE = 8;
/** Half of a pair: the class is in `astral`. */
export const SURROGATE = 16;
/** A character that the Digits pre-tokenizer isolates (only in tables made with `isolateDigits`). */
export const DIGIT = 32;

/** Class of each unit of the basic plane, and of each code point above it (index code point - 0x10000). */
export interface CharacterClasses {
  readonly basic: Uint8Array;
  readonly astral: Uint8Array;
}

function mark(table: Uint8Array, packed: string, bit: number, replace: boolean): void {
  let end = 0;
  for (const part of packed.split(' ')) {
    const [gap, extra] = part.split('.');
    const start = end + Number.parseInt(gap, 36);
    end = start + (extra === undefined ? 0 : Number.parseInt(extra, 36));
    for (let c = start; c <= end; c++) table[c] = replace ? bit : table[c] | bit;
  }
}

function build(isolateDigits: boolean): CharacterClasses {
  const all = new Uint8Array(0x110000);
  mark(all, letters, LETTER, false);
  mark(all, numbers, NUMBER, false);
  mark(all, spaces, SPACE, false);
  if (isolateDigits) mark(all, digits, DIGIT, true);
  all[10] |= NEWLINE;
  all[13] |= NEWLINE;
  all.fill(SURROGATE, 0xd800, 0xe000);
  return { basic: all.slice(0, 0x10000), astral: all.slice(0x10000) };
}

let plain: CharacterClasses | undefined;
let isolated: CharacterClasses | undefined;

/**
 * The tables (1.1 MB, built once, 3 ms). They come from shipped data, not from this Node's ICU, whose Unicode version
 * is not that of the reference tokenizer.
 */
export function characterClasses(isolateDigits: boolean): CharacterClasses {
  if (isolateDigits) return (isolated ??= build(true));
  return (plain ??= build(false));
}
