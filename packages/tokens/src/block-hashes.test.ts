import { createXXHash3 } from 'hash-wasm';
import { expect, test } from 'vitest';
import { SequenceHasher, continueHashesInto, hashBlocks, hashToHex, noSalt, saltHash, sequenceHashes, sequenceHashesInto } from './index.ts';
import type { SaltHash } from './index.ts';

type Digest = (bytes: Uint8Array, seed: bigint) => bigint;
const oracles = new Map<bigint, Awaited<ReturnType<typeof createXXHash3>>>();
async function reference(seeds: bigint[]): Promise<Digest> {
  for (const seed of seeds) oracles.set(seed, await createXXHash3(Number(seed & 0xffffffffn), Number(seed >> 32n)));
  return (bytes, seed) => BigInt(`0x${oracles.get(seed)!.init().update(bytes).digest('hex')}`);
}
const toBig = (salt: SaltHash): bigint => (BigInt(salt.hi >>> 0) << 32n) | BigInt(salt.lo >>> 0);
const words = (hashes: bigint[]): Int32Array => new Int32Array(BigUint64Array.from(hashes).buffer);

/** Dynamo's definition, literally. */
function referenceChain(digest: Digest, tokens: Int32Array, blockSize: number, salt: bigint): { blocks: bigint[]; sequences: bigint[] } {
  const blocks: bigint[] = [];
  const sequences: bigint[] = [];
  for (let i = 0; i + blockSize <= tokens.length; i += blockSize) {
    const bytes = new Uint8Array(blockSize * 4);
    tokens.subarray(i, i + blockSize).forEach((token, k) => new DataView(bytes.buffer).setInt32(k * 4, token, true));
    const block = digest(bytes, salt);
    const pair = new Uint8Array(BigUint64Array.of(sequences.at(-1) ?? 0n, block).buffer);
    blocks.push(block);
    sequences.push(sequences.length === 0 ? block : digest(pair, 1337n));
  }
  return { blocks, sequences };
}

test('salt hash follows the definition; the empty string is absent', async () => {
  const digest = await reference([0n, 1n]);
  const text = (value: string): Uint8Array => new TextEncoder().encode(value);
  const wrap = (value: bigint): bigint => value & 0xffffffffffffffffn;
  expect(toBig(saltHash({}))).toBe(1337n);
  expect(saltHash({ cacheSalt: '', lora: '' })).toEqual(noSalt);
  for (const lora of ['', 'adapter', 'ä'.repeat(200)]) {
    for (const cacheSalt of ['', 'tenant-7', 'x'.repeat(130)]) {
      const expected = wrap(1337n + (lora ? digest(text(lora), 0n) : 0n) + (cacheSalt ? digest(text(cacheSalt), 1n) : 0n));
      expect(toBig(saltHash({ lora, cacheSalt }))).toBe(expected);
    }
  }
});

test('block and sequence hashes equal the definition for all block sizes and salts', async () => {
  const salts = [noSalt, saltHash({ cacheSalt: 'tenant' }), saltHash({ cacheSalt: 't', lora: 'l' }), { lo: 0, hi: 0 }];
  const digest = await reference([1337n, ...salts.map(toBig)]);
  let compared = 0;
  for (const blockSize of [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 48, 60, 61, 64, 100, 128, 257, 512]) {
    const tokens = Int32Array.from({ length: blockSize * 5 + blockSize - 1 }, (_, i) => Math.imul(i + 1, 0x9e3779b1) >>> (i % 17));
    for (const salt of salts) {
      const expected = referenceChain(digest, tokens, blockSize, toBig(salt));
      const out = { blockHashes: new Int32Array(10), sequenceHashes: new Int32Array(10) };
      expect(hashBlocks(tokens, tokens.length, { blockSize, salt }, out)).toBe(5);
      expect(out.blockHashes).toEqual(words(expected.blocks));
      expect(out.sequenceHashes).toEqual(words(expected.sequences));
      expect(sequenceHashes(tokens, tokens.length, blockSize, salt)).toEqual(words(expected.sequences));
      const into = new Int32Array(10);
      expect(sequenceHashesInto(tokens, tokens.length, { blockSize, salt }, into)).toBe(5);
      expect(into).toEqual(words(expected.sequences));
      compared += expected.blocks.length;
    }
  }
  expect(compared).toBe(21 * 4 * 5);
});

test('a known chain stays what it is (16 tokens per block, no salt)', () => {
  const tokens = Int32Array.from({ length: 48 }, (_, i) => i);
  const hashes = sequenceHashes(tokens, 48, 16, noSalt);
  expect([0, 2, 4].map((i) => hashToHex(hashes[i], hashes[i + 1]))).toMatchInlineSnapshot(`
    [
      "d47a8f41c833328a",
      "bf15dffb16447f38",
      "a4dda066f3c1e1a0",
    ]
  `);
});

test('only complete blocks count, and length limits what is read', () => {
  const tokens = Int32Array.from({ length: 64 }, (_, i) => i * 7);
  expect(sequenceHashes(tokens, 15, 16, noSalt)).toHaveLength(0);
  expect(sequenceHashes(tokens, 33, 16, noSalt)).toEqual(sequenceHashes(tokens, 64, 16, noSalt).slice(0, 4));
  expect(sequenceHashes(tokens, 0, 1, noSalt)).toHaveLength(0);
  for (const blockSize of [0, -1, 1.5, Number.NaN]) {
    expect(() => sequenceHashes(tokens, 64, blockSize, noSalt)).toThrow(/block size/);
    expect(() => new SequenceHasher({ blockSize, salt: noSalt })).toThrow(/block size/);
  }
});

test('a long prompt grows the memory and hashes the same as in parts', () => {
  const tokens = Int32Array.from({ length: 400_000 }, (_, i) => i ^ (i >> 3));
  const whole = sequenceHashes(tokens, tokens.length, 16, noSalt);
  const hasher = new SequenceHasher({ blockSize: 16, salt: noSalt });
  for (let at = 0; at < tokens.length; at += 9_973) hasher.appendAll(tokens, at, Math.min(at + 9_973, tokens.length));
  expect(hasher.blocks).toBe(25_000);
  expect(Buffer.compare(Buffer.from(hasher.sequenceHashes.slice().buffer), Buffer.from(whole.buffer))).toBe(0);
});

test('extending token by token, in runs or at once gives the same chain', () => {
  const seed = 4711;
  console.log(`block-hashes.test seed ${seed}`);
  let x = seed;
  const random = (bound: number): number => ((x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 8) % bound;
  for (const blockSize of [1, 4, 16, 64]) {
    const tokens = Int32Array.from({ length: 1000 }, () => random(1 << 20));
    const expected = { blockHashes: new Int32Array(2000), sequenceHashes: new Int32Array(2000) };
    const blocks = hashBlocks(tokens, 1000, { blockSize, salt: noSalt }, expected);
    const hasher = new SequenceHasher({ blockSize, salt: noSalt });
    for (let round = 0; round < 3; round++) {
      let completed = 0;
      for (let at = 0; at < 1000; ) {
        if (random(2) === 0) {
          if (hasher.append(tokens[at++])) completed++;
        } else {
          const end = Math.min(1000, at + random(100));
          completed += hasher.appendAll(tokens, at, end);
          at = end;
        }
      }
      expect(completed).toBe(blocks);
      expect(hasher.tokens).toBe(1000);
      expect(hasher.sequenceHashes).toEqual(expected.sequenceHashes.subarray(0, blocks * 2));
      expect(hasher.blockHashes).toEqual(expected.blockHashes.subarray(0, blocks * 2));
      expect([hasher.sequenceLo(blocks - 1), hasher.sequenceHi(blocks - 1)]).toEqual([...expected.sequenceHashes.subarray(blocks * 2 - 2, blocks * 2)]);
      hasher.reset();
    }
  }
});

test('a chain that is continued from a hash in the middle is the same chain', () => {
  const tokens = Int32Array.from({ length: 330 }, (_, i) => Math.imul(i, 7919) >>> 8);
  for (const blockSize of [1, 16, 32]) {
    const salt = saltHash({ cacheSalt: 'tenant' });
    const whole = sequenceHashes(tokens, tokens.length, blockSize, salt);
    for (const at of [1, 3, 9]) {
      const rest = tokens.subarray(at * blockSize);
      const out = new Int32Array(whole.length - at * 2);
      const blocks = continueHashesInto(rest, rest.length, { blockSize, salt }, { lo: whole[at * 2 - 2]!, hi: whole[at * 2 - 1]! }, out);
      expect([blocks, out]).toEqual([whole.length / 2 - at, whole.slice(at * 2)]);
      continueHashesInto(rest, rest.length, { blockSize, salt }, { lo: 1, hi: 1 }, out);
      expect(out).not.toEqual(whole.slice(at * 2)); // another parent is another chain
    }
  }
});
