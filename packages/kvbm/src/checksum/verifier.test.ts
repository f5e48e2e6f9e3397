import { describe, expect, test } from 'vitest';
import type { KvMemory } from '@armature/contracts';
import { xxh3 } from '@armature/tokens';
import { addressOf, contentOf, memoryOf, unwrapped } from './memories.test.support.ts';
import type { Kind, Shape } from './memories.test.support.ts';
import { createVerifier } from './verifier.ts';
import type { BlockVerifier } from './verifier.ts';

const kinds: Kind[] = ['shared wasm', 'unshared wasm', 'array buffer', 'shared array buffer'];
const layoutFingerprint = 'demo/bf16/16/tp0of1';

const rows = (count: number): Int32Array => Int32Array.from({ length: count }, (_, i) => i);
const hashesOf = (count: number): Int32Array => Int32Array.from({ length: count * 2 }, (_, i) => Math.imul(i + 1, 0x9e3779b1));

function sums(verifier: BlockVerifier, memory: KvMemory, blocks = rows(memory.blocks), hashes = hashesOf(blocks.length)): Int32Array {
  const out = new Int32Array(blocks.length * 2);
  verifier.checksums(memory, blocks, blocks.length, hashes, out);
  return out;
}

/** The definition, with the library's hash over a copy of the content. */
function defined(memory: KvMemory, pieceBytes: number, block: number, lo: number, hi: number): number[] {
  const layout = xxh3(Buffer.from(layoutFingerprint));
  let hash = xxh3(new Uint8Array(Int32Array.of(lo, hi, layout.lo, layout.hi).buffer));
  const content = contentOf(memory, block);
  for (let at = 0; at < content.length; at += pieceBytes) hash = xxh3(content.subarray(at, at + pieceBytes), hash.lo, hash.hi);
  return [hash.lo, hash.hi];
}

describe('checksums', () => {
  test('are what is defined, for every kind of memory, shape and length class', () => {
    let inPlace = 0;
    let staged = 0;
    for (const kind of kinds) {
      for (const pieceBytes of [1, 3, 8, 16, 100, 240, 241, 1024, 1025, 4096, 65_535, 65_536, 65_537, 131_072, 200_064, 200_705]) {
        for (const isPieceMajor of [true, false]) {
          const memory = memoryOf(kind, { blocks: 3, pieces: 2, pieceBytes, isPieceMajor });
          const verifier = createVerifier({ layoutFingerprint, pieceBytes });
          const hashes = hashesOf(3);
          const found = sums(verifier, memory);
          for (let block = 0; block < 3; block++) {
            expect([...found.subarray(2 * block, 2 * block + 2)], `${kind}, ${pieceBytes} bytes, piece-major ${isPieceMajor}`).toEqual(defined(memory, pieceBytes, block, hashes[2 * block], hashes[2 * block + 1]));
          }
          inPlace += verifier.inPlaceBlocks;
          staged += verifier.stagedBlocks;
        }
      }
    }
    expect({ inPlace, staged }).toEqual({ inPlace: 192, staged: 192 });
  });

  test('are the same wherever the content lies: arena in pieces, host memory as one piece, staged or in place', () => {
    const pieceBytes = 6000;
    const verifier = createVerifier({ layoutFingerprint, pieceBytes });
    const arena = memoryOf('shared wasm', { blocks: 4, pieces: 12, pieceBytes, isPieceMajor: true });
    const expected = sums(verifier, arena);
    for (const kind of kinds) {
      for (const pieces of [1, 3, 12]) {
        const host = memoryOf(kind, { blocks: 4, pieces, pieceBytes: (12 / pieces) * pieceBytes, isPieceMajor: false }, 9);
        for (let block = 0; block < 4; block++) host.bytes.set(contentOf(arena, block), block * 12 * pieceBytes);
        expect(sums(verifier, host), `${kind}, ${pieces} pieces`).toEqual(expected);
      }
    }
  });

  test('write only the rows asked for', () => {
    const memory = memoryOf('array buffer', { blocks: 4, pieces: 1, pieceBytes: 64, isPieceMajor: false });
    const out = new Int32Array(8).fill(77);
    createVerifier({ layoutFingerprint, pieceBytes: 64 }).checksums(memory, rows(4), 2, hashesOf(4), out);
    expect([...out.subarray(4)]).toEqual([77, 77, 77, 77]);
  });

  test('of memory whose WebAssembly memory is another one are staged, not read from that one', () => {
    const memory = memoryOf('array buffer', { blocks: 2, pieces: 1, pieceBytes: 512, isPieceMajor: false });
    const other = memoryOf('shared wasm', { blocks: 2, pieces: 1, pieceBytes: 512, isPieceMajor: false }, 8);
    const verifier = createVerifier({ layoutFingerprint, pieceBytes: 512 });
    expect(sums(verifier, { ...memory, wasm: other.wasm as object })).toEqual(sums(verifier, memory));
    expect(verifier.inPlaceBlocks).toBe(0);
  });
});

describe('corruption is caught', () => {
  const shapes: [string, Shape][] = [
    ...[1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 96, 97, 128, 129, 143, 144, 145, 239, 240, 241, 255, 256, 511, 512, 1023, 1024, 1025, 1087, 1088, 1089, 2048, 3333, 8192].map(
      (pieceBytes): [string, Shape] => [`3 pieces of ${pieceBytes}`, { blocks: 2, pieces: 3, pieceBytes, isPieceMajor: pieceBytes % 2 === 0 }],
    ),
    ['1 piece of 65536', { blocks: 1, pieces: 1, pieceBytes: 65_536, isPieceMajor: false }],
  ];

  for (const kind of ['shared wasm', 'array buffer'] as const) {
    test(`every byte of a block, whatever its length class (${kind})`, () => {
      let flips = 0;
      for (const [name, shape] of shapes) {
        const memory = memoryOf(kind, shape);
        const verifier = createVerifier({ layoutFingerprint, pieceBytes: shape.pieceBytes });
        const kept = sums(verifier, memory);
        const blocks = rows(shape.blocks);
        const hashes = hashesOf(shape.blocks);
        const block = shape.blocks - 1;
        for (let at = 0; at < shape.pieces * shape.pieceBytes; at++) {
          const address = addressOf(memory, block, at);
          memory.bytes[address] ^= 1 << (at % 8);
          const bad = verifier.firstBad(memory, blocks, shape.blocks, hashes, kept);
          if (bad !== block) expect.fail(`${name}: a flip of bit ${at % 8} of byte ${at} gave ${bad}`);
          memory.bytes[address] ^= 1 << (at % 8);
          flips++;
        }
        expect(verifier.firstBad(memory, blocks, shape.blocks, hashes, kept), name).toBe(-1);
      }
      expect(flips).toBe(shapes.reduce((sum, [, { pieces, pieceBytes }]) => sum + pieces * pieceBytes, 0));
    });
  }

  test('every bit of a lane, of each lane of a stripe, in the first, a middle and the last stripe', () => {
    for (const kind of ['shared wasm', 'array buffer'] as const) {
      const shape: Shape = { blocks: 1, pieces: 2, pieceBytes: 3000, isPieceMajor: false };
      const memory = memoryOf(kind, shape);
      const verifier = createVerifier({ layoutFingerprint, pieceBytes: 3000 });
      const kept = sums(verifier, memory);
      for (const stripe of [0, 64 * 15, 64 * 16, 64 * 40, 3000 - 64, 3000, 6000 - 64]) {
        for (let bit = 0; bit < 512; bit++) {
          memory.bytes[stripe + (bit >> 3)] ^= 1 << (bit & 7);
          expect(verifier.firstBad(memory, rows(1), 1, hashesOf(1), kept)).toBe(0);
          memory.bytes[stripe + (bit >> 3)] ^= 1 << (bit & 7);
        }
      }
    }
  });

  test('in runs longer than the staging chunk, on both sides of each of its edges', () => {
    for (const pieceBytes of [65_537, 131_072, 200_705]) {
      const memory = memoryOf('array buffer', { blocks: 1, pieces: 2, pieceBytes, isPieceMajor: false });
      const verifier = createVerifier({ layoutFingerprint, pieceBytes });
      const kept = sums(verifier, memory);
      const places = new Set<number>();
      for (let edge = 0; edge <= 2 * pieceBytes; edge += 1024) for (const near of [-65, -64, -1, 0, 1, 63]) places.add(edge + near);
      for (const near of [-1025, -65, -64, -1, 0, 1]) places.add(pieceBytes + near).add(2 * pieceBytes + near);
      let caught = 0;
      for (const at of places) {
        if (at < 0 || at >= 2 * pieceBytes) continue;
        memory.bytes[at] ^= 0x10;
        expect(verifier.firstBad(memory, rows(1), 1, hashesOf(1), kept), `byte ${at} of pieces of ${pieceBytes}`).toBe(0);
        memory.bytes[at] ^= 0x10;
        caught++;
      }
      expect(caught).toBeGreaterThan(700);
      expect(verifier.stagedBlocks).toBe(caught + 1);
    }
  });

  test('swapped pieces, swapped blocks, another hash, another layout, another content of the same hash', () => {
    const pieceBytes = 2048;
    for (const kind of kinds) {
      const memory = memoryOf(kind, { blocks: 2, pieces: 2, pieceBytes, isPieceMajor: false });
      const verifier = createVerifier({ layoutFingerprint, pieceBytes });
      const kept = sums(verifier, memory);
      const bad = (hashes = hashesOf(2), blocks = rows(2), by = verifier): number => by.firstBad(memory, blocks, 2, hashes, kept);
      expect(bad()).toBe(-1);
      expect(bad(undefined, Int32Array.of(1, 0))).toBe(0);
      expect(bad(undefined, Int32Array.of(0, 0))).toBe(1);
      for (const word of [0, 1]) {
        const hashes = hashesOf(2);
        hashes[word] ^= 1;
        expect(bad(hashes)).toBe(0);
      }
      expect(bad(undefined, undefined, createVerifier({ layoutFingerprint: `${layoutFingerprint} `, pieceBytes }))).toBe(0);
      expect(bad(undefined, undefined, createVerifier({ layoutFingerprint, pieceBytes: 1024 }))).toBe(0);
      const content = contentOf(memory, 1);
      memory.bytes.set(content.subarray(pieceBytes), 2 * pieceBytes);
      memory.bytes.set(content.subarray(0, pieceBytes), 3 * pieceBytes);
      expect(bad()).toBe(1);
      memory.bytes.fill(0, 2 * pieceBytes); // torn: never written
      expect(bad()).toBe(1);
      memory.bytes.set(content, 2 * pieceBytes);
      expect(bad()).toBe(-1);
    }
  });

  test('from a row on, one bad row after the other', () => {
    const memory = memoryOf('shared wasm', { blocks: 6, pieces: 1, pieceBytes: 512, isPieceMajor: false });
    const verifier = createVerifier({ layoutFingerprint, pieceBytes: 512 });
    const kept = sums(verifier, memory);
    for (const block of [1, 4]) memory.bytes[block * 512] ^= 1;
    const found: number[] = [];
    for (let row = verifier.firstBad(memory, rows(6), 6, hashesOf(6), kept); row !== -1; row = verifier.firstBad(memory, rows(6), 6, hashesOf(6), kept, row + 1)) found.push(row);
    expect(found).toEqual([1, 4]);
    expect(verifier.firstBad(unwrapped(memory), rows(6), 1, hashesOf(6), kept)).toBe(-1);
    expect(verifier.stagedBlocks).toBe(1);
  });
});

describe('misuse', () => {
  const memory = memoryOf('array buffer', { blocks: 2, pieces: 2, pieceBytes: 512, isPieceMajor: false });
  const verify = (given: KvMemory, block = 0, pieceBytes = 512): unknown => createVerifier({ layoutFingerprint, pieceBytes }).firstBad(given, Int32Array.of(block), 1, hashesOf(1), new Int32Array(2));

  test('memory that cannot be read, or of other pieces, or shorter than it says', () => {
    expect(() => verify({ ...memory, bytes: undefined })).toThrow(expect.objectContaining({ code: 'KVBM_BLOCK_INVALID' }));
    expect(() => verify(memory, 0, 500)).toThrow(expect.objectContaining({ code: 'KVBM_BLOCK_INVALID' }));
    expect(() => verify({ ...memory, blocks: 3 })).toThrow(expect.objectContaining({ code: 'KVBM_BLOCK_INVALID' }));
    for (const pieceBytes of [0, -1, 1.5, Number.NaN]) expect(() => createVerifier({ layoutFingerprint, pieceBytes })).toThrow(expect.objectContaining({ code: 'KVBM_BLOCK_INVALID' }));
  });

  test('blocks that are not there', () => {
    for (const block of [-1, 2]) expect(() => verify(memory, block)).toThrow(expect.objectContaining({ code: 'KVBM_INDEX_INVALID' }));
  });
});
