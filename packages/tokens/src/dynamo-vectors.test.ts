import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { hashBlocks, hashFromHex, hashToHex, multimodalHash, saltHash, sequenceHashesInto } from './index.ts';
import type { MultimodalRange } from './index.ts';

interface Vectors {
  readonly madeBy: string;
  readonly identifiers: Readonly<Record<string, string>>;
  readonly cases: readonly {
    readonly blockSize: number;
    readonly tokens: number;
    readonly shift: number;
    readonly salt: string | null;
    readonly lora: string | null;
    readonly multimodal: readonly (readonly [string, number, number])[];
    readonly blockHashes: readonly string[];
    readonly sequenceHashes: readonly string[];
  }[];
}
// Dynamo's own answers; how they were made is in the file.
const vectors = JSON.parse(readFileSync(new URL('./dynamo-vectors.json', import.meta.url), 'utf8')) as Vectors;
const token = (i: number, shift: number): number => Math.imul(i + 1, 0x9e3779b1) >>> shift;
const hexes = (words: Int32Array, blocks: number): string[] => Array.from({ length: blocks }, (_, i) => hashToHex(words[i * 2], words[i * 2 + 1]));

test(`equals Dynamo (${vectors.cases.length} cases: block sizes of every XXH3 length class, salts, LoRA, multimodal objects)`, () => {
  let [plain, salted, objects] = [0, 0, 0];
  for (const entry of vectors.cases) {
    const tokens = Int32Array.from({ length: entry.tokens }, (_, i) => token(i, entry.shift));
    const multimodal: MultimodalRange[] = entry.multimodal.map(([hash, start, end]) => ({ hash: hashFromHex(hash)!, start, end }));
    const hashing = { blockSize: entry.blockSize, salt: saltHash({ cacheSalt: entry.salt ?? '', lora: entry.lora ?? '' }), multimodal };
    const out = { blockHashes: new Int32Array(64), sequenceHashes: new Int32Array(64) };
    const label = JSON.stringify({ ...entry, blockHashes: undefined, sequenceHashes: undefined });
    const blocks = hashBlocks(tokens, tokens.length, hashing, out);
    expect(hexes(out.blockHashes, blocks), label).toEqual(entry.blockHashes);
    expect(hexes(out.sequenceHashes, blocks), label).toEqual(entry.sequenceHashes);
    const alone = new Int32Array(64);
    expect(sequenceHashesInto(tokens, tokens.length, hashing, alone)).toBe(blocks);
    expect(hexes(alone, blocks), label).toEqual(entry.sequenceHashes);
    if (multimodal.length > 0) objects++;
    else if (entry.salt || entry.lora) salted++;
    else plain++;
  }
  expect([plain, salted, objects].map((count) => count >= 10)).toEqual([true, true, true]);
});

test('identifiers of multimodal objects hash as Dynamo’s; the empty one has no hash', () => {
  for (const [identifier, hash] of Object.entries(vectors.identifiers)) {
    const { lo, hi } = multimodalHash(identifier)!;
    expect(hashToHex(lo, hi), identifier).toBe(hash);
  }
  expect(Object.keys(vectors.identifiers).length).toBeGreaterThan(4);
  expect(multimodalHash('')).toBeUndefined();
});

test('an object changes the blocks it lies in and no other, and every sequence hash from there on', () => {
  const tokens = Int32Array.from({ length: 96 }, (_, i) => i);
  const hash = (multimodal: MultimodalRange[]): { blockHashes: Int32Array; sequenceHashes: Int32Array } => {
    const out = { blockHashes: new Int32Array(12), sequenceHashes: new Int32Array(12) };
    hashBlocks(tokens, 96, { blockSize: 16, salt: saltHash({}), multimodal }, out);
    return out;
  };
  const without = hash([]);
  const object = hash([{ hash: { lo: 1, hi: 0 }, start: 20, end: 48 }]); // blocks 1 and 2: `end` is the token behind
  const same = (a: Int32Array, b: Int32Array): boolean[] => hexes(a, 6).map((text, i) => text === hexes(b, 6)[i]);
  expect(same(without.blockHashes, object.blockHashes)).toEqual([true, false, false, true, true, true]);
  expect(same(without.sequenceHashes, object.sequenceHashes)).toEqual([true, false, false, false, false, false]);
  for (const [start, end] of [[-1, 5], [0.5, 5], [0, Number.NaN]]) expect(() => hash([{ hash: { lo: 1, hi: 0 }, start, end }])).toThrow(/multimodal/);
});
