import { describe, expect, test } from 'vitest';
import { ArmatureError } from '@armature/contracts';
import { HostPool } from './index.ts';
import { NaiveHostPool, seeded } from './naive-host-pool.test.support.ts';

const BYTES = 96;

const chain = (...names: number[]): Int32Array => Int32Array.from(names.flatMap((name) => [name * 0x9e37, ~name]));
const content = (name: number, bytes = BYTES): Uint8Array => Uint8Array.from({ length: bytes }, (_, i) => name * 7 + i * 31 + (i >> 8));
const pool = (blocks: number): HostPool => new HostPool({ capacityBytes: blocks * BYTES + 5, blockBytes: BYTES });
const storeOne = (host: HostPool, name: number): string => host.store(chain(name), 0, content(name));
const held = (host: HostPool, ...names: number[]): number[] => names.filter((name) => host.match(chain(name)) === 1);

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return ArmatureError.is(error) ? error.code : String(error);
  }
  return 'nothing thrown';
}

function onboard(from: HostPool, hashes: Int32Array, index: number): [string, Uint8Array] {
  const target = new Uint8Array(BYTES).fill(0xee);
  return [from.onboard(hashes, index, target), target];
}

describe('HostPool', () => {
  test('stores, matches, deduplicates, gives back the bytes', () => {
    const host = pool(4);
    const hashes = chain(1, 2, 3);
    expect([host.store(hashes, 0, content(1)), host.store(hashes, 1, content(2)), host.store(hashes, 1, content(2))]).toEqual(['stored', 'stored', 'present']);
    expect([host.match(hashes), host.match(chain(2, 3)), host.match(chain(9))]).toEqual([2, 1, 0]);
    expect(onboard(host, hashes, 1)).toEqual(['onboarded', content(2)]);
    expect(onboard(host, hashes, 2)).toEqual(['missing', new Uint8Array(BYTES).fill(0xee)]);
    expect(host.stats()).toEqual({
      capacityBytes: 4 * BYTES, heldBytes: 2 * BYTES, totalBlocks: 4, heldBlocks: 2, pinnedBlocks: 0,
      stores: 2, duplicates: 1, refusals: 0, evictions: 0, onboards: 1, misses: 1, corruptions: 0,
    });
    expect(host.buffer.byteLength).toBe(4 * BYTES);
  });

  test('keeps the lineage', () => {
    const host = pool(4);
    const hashes = chain(1, 2);
    host.store(hashes, 0, content(1));
    host.store(hashes, 1, content(2));
    const out = new Int32Array(4);
    expect([host.lineage(hashes[2]!, hashes[3]!, out), [...out]]).toEqual([true, [hashes[2], hashes[3], hashes[0], hashes[1]]]);
    expect([host.lineage(hashes[0]!, hashes[1]!, out), [...out]]).toEqual([true, [hashes[0], hashes[1], 0, 0]]);
    expect(host.lineage(5, 5, out)).toBe(false);
  });

  test('evicts the least recently used, never a pinned one, and says so', () => {
    const evicted: string[] = [];
    const host = new HostPool({ capacityBytes: 3 * BYTES, blockBytes: BYTES, onEvicted: (lo, _hi, reason) => void evicted.push(`${lo / 0x9e37} ${reason}`) });
    for (const name of [1, 2, 3]) storeOne(host, name);
    onboard(host, chain(1), 0);
    storeOne(host, 4);
    expect([held(host, 1, 2, 3, 4), evicted]).toEqual([[1, 3, 4], ['2 capacity']]);
    const pins = new Int32Array(3);
    expect(host.pin(chain(1), pins)).toBe(1);
    for (const name of [5, 6, 7]) expect(storeOne(host, name)).toBe('stored');
    const others = new Int32Array(2);
    [6, 7].forEach((name, i) => expect(host.pin(chain(name), others.subarray(i, i + 1))).toBe(1));
    expect([storeOne(host, 8), held(host, 1, 6, 7)]).toEqual(['full', [1, 6, 7]]);
    host.unpin(pins, 1);
    expect(storeOne(host, 8)).toBe('stored');
    expect(evicted.at(-1)).toBe('1 capacity');
    expect(host.stats()).toMatchObject({ refusals: 1, evictions: 5, pinnedBlocks: 2 });
  });

  test('touch ages the leaves of a sequence before their parents', () => {
    const host = pool(4);
    const hashes = chain(1, 2, 3);
    for (let i = 0; i < 3; i++) host.store(hashes, i, content(i + 1));
    storeOne(host, 9);
    expect([host.touch(hashes), host.touch(chain(8))]).toEqual([3, 0]);
    storeOne(host, 10); // in place of 9, the oldest now
    storeOne(host, 11);
    expect([host.match(hashes), held(host, 9, 10, 11)]).toEqual([2, [10, 11]]);
  });

  test('bytes of another block, though intact, are found', () => {
    const host = pool(2);
    storeOne(host, 1);
    storeOne(host, 2);
    new Uint8Array(host.buffer).copyWithin(0, BYTES, 2 * BYTES);
    expect(onboard(host, chain(1), 0)[0]).toBe('corrupt');
    expect(onboard(host, chain(2), 0)).toEqual(['onboarded', content(2)]);
  });

  test('a corrupt block is dropped once, not given out, and can be stored again, also while it is pinned', () => {
    const evicted: string[] = [];
    const host = new HostPool({ capacityBytes: 2 * BYTES, blockBytes: BYTES, onEvicted: (_lo, _hi, reason) => void evicted.push(reason) });
    storeOne(host, 1);
    const pins = new Int32Array(1);
    host.pin(chain(1), pins);
    expect(host.verify(pins[0]!, chain(1)[0]!, chain(1)[1]!)).toBe(true);
    new Uint8Array(host.buffer)[pins[0]! * BYTES + 50]! ^= 1;
    expect(host.verify(pins[0]!, chain(1)[0]!, chain(1)[1]!)).toBe(false);
    expect(host.verify(pins[0]!, chain(1)[0]!, chain(1)[1]!)).toBe(false);
    expect([onboard(host, chain(1), 0)[0], host.match(chain(1)), evicted]).toEqual(['missing', 0, ['corrupt']]);
    expect(host.stats()).toMatchObject({ corruptions: 1, heldBlocks: 0, pinnedBlocks: 1 });
    expect([storeOne(host, 1), onboard(host, chain(1), 0)]).toEqual(['stored', ['onboarded', content(1)]]);
    host.unpin(pins, 1);
    expect(host.stats()).toMatchObject({ corruptions: 1, evictions: 0, heldBlocks: 1, pinnedBlocks: 0 });
  });

  test('a flip at every byte of a block, in every class of size, is found and nothing of it is given out', () => {
    let flips = 0;
    // The branches of XXH3: 1-3, 4-8, 9-16, 17-128, 129-240 bytes, stripes of 64, blocks of 1,024.
    for (const bytes of [1, 3, 4, 8, 9, 16, 17, 64, 128, 129, 240, 241, 256, 1024, 1025, 1088, 2111]) {
      const host = new HostPool({ capacityBytes: 2 * bytes, blockBytes: bytes });
      const raw = new Uint8Array(host.buffer);
      host.store(chain(1), 0, content(1, bytes)); // a neighbour, to see that it is not touched
      const pin = new Int32Array(1);
      for (let at = 0; at < bytes; at++) {
        expect(host.store(chain(2), 0, content(2, bytes))).toBe('stored');
        host.pin(chain(2), pin);
        host.unpin(pin, 1);
        raw[pin[0]! * bytes + at]! ^= 1 << (at % 8);
        const target = new Uint8Array(bytes).fill(0xee);
        expect(host.onboard(chain(2), 0, target), `size ${bytes}, byte ${at}`).toBe('corrupt');
        expect(target.every((byte) => byte === 0), `size ${bytes}, byte ${at}`).toBe(true);
        flips++;
      }
      expect(host.onboard(chain(1), 0, new Uint8Array(bytes))).toBe('onboarded');
      expect(host.stats()).toMatchObject({ corruptions: bytes, evictions: 0, heldBlocks: 1 });
    }
    expect(flips).toBe(6364);
  });

  test('wrong sizes and numbers throw a code', () => {
    const make = (capacityBytes: number, blockBytes: number): string => codeOf(() => new HostPool({ capacityBytes, blockBytes }));
    expect([make(10, 11), make(10, 0), make(10, -1), make(10, 2.5), make(NaN, 1), make(1, NaN), make(Infinity, 8), make(2 ** 52, 2 ** 40)]).toEqual(Array(8).fill('KVBM_CAPACITY_INVALID'));
    const host = pool(2);
    const hashes = chain(1, 2);
    const partial = new Uint8Array(BYTES - 1);
    expect([codeOf(() => host.store(hashes, 0, partial)), codeOf(() => host.onboard(hashes, 0, partial)), codeOf(() => host.onboard(hashes, 0, new Uint8Array(BYTES + 1)))]).toEqual(Array(3).fill('KVBM_BLOCK_INVALID'));
    expect([-1, 2, NaN].map((index) => codeOf(() => host.store(hashes, index, content(1))))).toEqual(Array(3).fill('KVBM_INDEX_INVALID'));
    storeOne(host, 1);
    const pins = new Int32Array(2);
    host.pin(chain(1), pins);
    host.unpin(pins, 1);
    expect([codeOf(() => host.unpin(pins, 1)), codeOf(() => host.unpin(Int32Array.of(7), 1)), codeOf(() => host.unpin(pins, 9))]).toEqual(Array(3).fill('KVBM_UNPIN_INVALID'));
    expect(host.stats()).toMatchObject({ heldBlocks: 1, pinnedBlocks: 0, misses: 0 });
  });
});

for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
  test(`behaves as a Map in order of use (seed ${seed})`, () => {
    const below = seeded(seed);
    const blocks = 1 + (seed % 6);
    const evicted: string[] = [];
    const host = new HostPool({ capacityBytes: blocks * BYTES, blockBytes: BYTES, onEvicted: (lo, _hi, reason) => void evicted.push(`${lo / 0x9e37} ${reason}`) });
    const naive = new NaiveHostPool(blocks);
    const pinned: { name: string; block: number; entry: NonNullable<ReturnType<NaiveHostPool['held']['get']>> }[] = [];
    for (let step = 0; step < 3000; step++) {
      const where = `seed ${seed}, step ${step}`;
      const name = 1 + below(10);
      const parent = below(10);
      const key = String(name);
      const entry = naive.held.get(key);
      const action = below(10);
      if (action < 3) {
        const status = host.store(chain(parent, name), 1, content(name));
        if (status !== naive.store(key, String(parent), content(name))) expect.fail(`${where}: store ${status}`);
      } else if (action < 6) {
        const target = new Uint8Array(BYTES);
        const status = host.onboard(chain(name), 0, target);
        if (status !== naive.onboard(key)) expect.fail(`${where}: onboard ${status}`);
        expect(target, where).toEqual(status === 'onboarded' ? entry?.bytes : new Uint8Array(BYTES));
      } else if (action < 8) {
        const block = new Int32Array(1);
        expect(host.pin(chain(name), block), where).toBe(entry === undefined ? 0 : 1);
        if (entry === undefined) continue;
        entry.pins++;
        pinned.push({ name: key, block: block[0]!, entry });
      } else if (action === 8 || below(3) > 0) {
        const pin = pinned.splice(below(pinned.length + 1), 1)[0];
        if (pin === undefined) continue;
        host.unpin(Int32Array.of(pin.block), 1);
        naive.unpin(pin.name, pin.entry);
      } else {
        const pin = pinned[below(pinned.length + 1)];
        if (pin === undefined || pin.entry.isFlipped) continue;
        new Uint8Array(host.buffer)[pin.block * BYTES + below(BYTES)]! ^= 1 << below(8);
        pin.entry.isFlipped = true;
      }
      expect(evicted, where).toEqual(naive.evicted);
      expect(host.stats(), where).toMatchObject({ ...naive.counts, heldBlocks: naive.held.size, pinnedBlocks: new Set(pinned.map(({ block }) => block)).size });
      for (const pin of pinned) if (naive.held.get(pin.name) === pin.entry && host.match(chain(Number(pin.name))) !== 1) expect.fail(`${where}: pinned ${pin.name} was evicted`);
    }
    const lineage = new Int32Array(4);
    for (const [name, { parent }] of naive.held) {
      const [lo, hi] = chain(Number(name)) as unknown as [number, number];
      expect([host.lineage(lo, hi, lineage), lineage[2]]).toEqual([true, Number(parent) * 0x9e37]);
    }
    process.stdout.write(`host-pool seed ${seed}: ${blocks} blocks, ${JSON.stringify(naive.counts)}\n`);
    expect(Math.min(...Object.values(naive.counts))).toBeGreaterThan(0);
  });
}
