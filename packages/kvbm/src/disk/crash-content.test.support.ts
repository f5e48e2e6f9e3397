/** Blocks whose bytes follow from their hash: whoever reads one can tell whether it is the right one, whole. */
export const BLOCK_BYTES = 8192;
export const SLOTS = 96;
export const CHAIN = 6;
export const MODEL = 'crash-model';
export const LAYOUT = 'crash-layout';
export const WORKER = 'w/0';

/** Hash words of block `depth` of chain `chain`. */
export function hashAt(chain: number, depth: number): readonly [number, number] {
  return [Math.imul(chain * 64 + depth + 1, 0x9e37_79b1), Math.imul(chain ^ 0x5bd1_e995, 0x85eb_ca6b) ^ depth];
}

/** Every 512-byte sector differs from those of all other blocks. */
export function fillBlock(bytes: Uint8Array, lo: number, hi: number): void {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(lo ^ (i + 1), 0x9e37_79b1) ^ Math.imul(hi + i, 0x85eb_ca77);
}

export function isBlock(bytes: Uint8Array, lo: number, hi: number): boolean {
  const expected = new Uint8Array(bytes.length);
  fillBlock(expected, lo, hi);
  return Buffer.compare(bytes, expected) === 0;
}
