import { expect, test } from 'vitest';
import { hashToHex, xxh3 } from '@armature/tokens';
import { fill } from './memories.test.support.ts';
import { checksumCode, checksumsOver, createMemory } from './wasm.ts';
import type { WasmMemory } from './wasm.ts';

declare const WebAssembly: {
  Memory: new (descriptor: { initial: number; maximum?: number; shared?: boolean }) => WasmMemory;
  Module: { new (bytes: Uint8Array): object; imports(module: object): { module: string; name: string; kind: string }[] };
};

const seeds: [number, number][] = [[0, 0], [1, 0], [1337, 0], [0, 1], [-1, -1], [0x12345678, 0x9abcdef0 | 0], [0x80000000 | 0, 0x7fffffff]];

test('is XXH3_64: equals the one of @armature/tokens in every length class, at any address, for any seed', () => {
  const memory = new WebAssembly.Memory({ initial: 5, maximum: 5, shared: true });
  const bytes = new Uint8Array(memory.buffer);
  const code = checksumsOver(memory);
  fill(bytes, 3);
  const lengths = Array.from({ length: 2200 }, (_, i) => i);
  for (let around = 3072; around <= 262_144; around *= 2) lengths.push(around - 65, around - 64, around - 63, around - 1, around, around + 1, around + 63, around + 64, around + 65);
  let compared = 0;
  for (const length of lengths) {
    for (const [lo, hi] of seeds) {
      const at = (length * 7) % 61;
      const expected = xxh3(bytes.subarray(at, at + length), lo, hi);
      code.seed(lo, hi);
      const low = code.runs(at, 1, 0, 1, length);
      if (low !== expected.lo || code.high() !== expected.hi) expect.fail(`length ${length}, seed ${hi}:${lo}: ${hashToHex(low, code.high())}, expected ${hashToHex(expected.lo, expected.hi)}`);
      compared++;
    }
  }
  expect(compared).toBe(lengths.length * seeds.length);
});

test('gives the published vectors of XXH3 (its own self-test, seed 0)', () => {
  const vectors: Record<number, string> = {
    0: '2d06800538d394c2', 1: 'c44bdff4074eecdb', 6: '27b56a84cd2d7325', 12: 'a713daf0dfbb77e7', 24: 'a3fe70bf9d3510eb', 48: '397da259ecba1f11', 80: 'bcdefbbb2c47c90a',
    195: 'cd94217ee362ec3a', 403: 'cdeb804d65c6dea4', 512: '617e49599013cb6b', 2048: 'dd59e2c3a5f038e0', 2240: '6e73a90539cf2948', 2367: 'cb37aeb9e5d361ed',
  };
  const memory = createMemory(1);
  const bytes = new Uint8Array(memory.buffer);
  let state = 2654435761n;
  for (let i = 0; i < 2367; i++) {
    bytes[i] = Number(state >> 56n);
    state = BigInt.asUintN(64, state * 11400714785074694797n);
  }
  const code = checksumsOver(memory);
  for (const [length, expected] of Object.entries(vectors)) {
    code.seed(0, 0);
    const low = code.runs(0, 1, 0, 1, Number(length));
    expect(hashToHex(low, code.high()), `length ${length}`).toBe(expected);
  }
});

test('fits memories of every size and kind, and writes to none of them', () => {
  for (const descriptor of [
    { initial: 1, maximum: 1, shared: true }, { initial: 1, maximum: 65_536, shared: true }, { initial: 0, maximum: 7, shared: true },
    { initial: 3 }, { initial: 1, maximum: 1 }, { initial: 0, maximum: 65_536 },
  ]) {
    const memory = new WebAssembly.Memory(descriptor);
    const bytes = new Uint8Array(memory.buffer);
    fill(bytes, 5);
    const before = bytes.slice();
    const code = checksumsOver(memory);
    code.start(1, 2, 3, 4);
    if (bytes.length > 0) {
      for (const length of [1, 8, 16, 100, 200, 5000]) code.runs(bytes.length - length * 3, 3, length, 1, length);
      code.open();
      code.feed(0, 7);
      code.close(7 * 1024, 900, 8068);
    }
    expect(code.high()).not.toBe(0);
    expect(Buffer.compare(bytes, before), JSON.stringify(descriptor)).toBe(0);
  }
});

test('the module brings no constants into the memory of others: it has no data segments', () => {
  for (const isShared of [true, false]) {
    const code = checksumCode(isShared);
    expect(WebAssembly.Module.imports(new WebAssembly.Module(code))).toEqual([{ module: 'env', name: 'memory', kind: 'memory' }]);
    expect(sectionsOf(code)).not.toContain(11);
    expect(sectionsOf(code)).toContain(10);
  }
  expect(checksumCode(false)).not.toEqual(checksumCode(true));
});

/** Numbers of a module's sections; 11 is data. */
function sectionsOf(code: Uint8Array): number[] {
  const sections: number[] = [];
  for (let at = 8; at < code.length; ) {
    sections.push(code[at++]);
    let size = 0;
    let shift = 0;
    do {
      size |= (code[at] & 127) << shift;
      shift += 7;
    } while (code[at++] >= 128);
    at += size;
  }
  return sections;
}
