/** A 64-bit value as two int32 words. */
export interface U64 {
  readonly lo: number;
  readonly hi: number;
}

const HEX = /^[0-9a-f]{16}$/i;

/** 16 lower-case digits, most significant first: how logs, tests and JSON show a hash. */
export function hashToHex(lo: number, hi: number): string {
  return (hi >>> 0).toString(16).padStart(8, '0') + (lo >>> 0).toString(16).padStart(8, '0');
}

/** Inverse of `hashToHex`; undefined when the text is not exactly 16 hexadecimal digits. */
export function hashFromHex(text: string): U64 | undefined {
  if (!HEX.test(text)) return undefined;
  return { lo: Number.parseInt(text.slice(8), 16) | 0, hi: Number.parseInt(text.slice(0, 8), 16) | 0 };
}
