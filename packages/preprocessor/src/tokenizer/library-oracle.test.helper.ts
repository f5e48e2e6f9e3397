import { characterClasses } from './character-classes.ts';

/**
 * True for texts over which `@huggingface/tokenizers` (JavaScript) is no oracle, because it matches with this Node's regular
 * expressions while the reference (Rust) has its own tables:
 * - code points whose class differs between the shipped table (Unicode 16) and this Node's ICU, among them \s with U+FEFF and without U+0085;
 * - U+017F, which `(?i:'s)` matches in the reference only;
 * - for the Digits layout, numbers other than 0-9: the JavaScript library splits at `\d`, the reference at every numeric character.
 * What is excluded here is covered by golden.test.ts, whose ids come from the reference itself.
 */
export function oracleDiffers(text: string, digitsLayout: boolean): boolean {
  const { basic, astral } = characterClasses(digitsLayout);
  for (const character of text) {
    const code = character.codePointAt(0) as number;
    if (code < 128) continue;
    if (code === 0x17f) return true;
    const shipped = code < 0x10000 ? basic[code] : astral[code - 0x10000];
    if (code >= 0xd800 && code < 0xe000) continue; // a lone half: U+FFFD for both
    if (digitsLayout && (/\p{N}/u.test(character) || (shipped & 34) !== 0)) return true;
    if (/\p{L}/u.test(character) !== ((shipped & 1) !== 0)) return true;
    if (/\p{N}/u.test(character) !== ((shipped & 2) !== 0)) return true;
    if (/\s/u.test(character) !== ((shipped & 4) !== 0)) return true;
  }
  return false;
}
