import { describe, expect, test } from 'vitest';
import { ArmatureError } from '@armature/contracts';
import { HostPool } from './index.ts';

const BYTES = 96;

function random(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 4_294_967_296) * bound);
  };
}

const chain = (...names: number[]): Int32Array => Int32Array.from(names.flatMap((name) => [name * 0x9e37, ~name]));
const content = (name: number, version = 0): Uint8Array => Uint8Array.from({ length: BYTES }, (_, i) => name * 7 + i + version);
const pool = (blocks: number): HostPool => new HostPool({ capacityBytes: blocks * BYTES + 5, blockBytes: BYTES });

function onboarded(from: HostPool, hashes: Int32Array, index: number): Uint8Array | undefined {
  const target = new Uint8Array(BYTES);
  return from.onboard(hashes, index, target) ? target : undefined;
}

describe('HostPool', () => {
  test('stores, matches, deduplicates, gives back the bytes', () => {
    const host = pool(4);
    const hashes = chain(1, 2, 3);
    expect([host.store(hashes, 0, content(1)), host.store(hashes, 1, content(2)), host.store(hashes, 1, content(2))]).toEqual(['stored', 'stored', 'present']);
    expect([host.match(hashes), host.match(chain(2, 3)), host.match(chain(9))]).toEqual([2, 1, 0]);
    expect(onboarded(host, hashes, 1)).toEqual(content(2));
    expect(onboarded(host, hashes, 2)).toBeUndefined();
    expect(host.stats()).toMatchObject({ totalBlocks: 4, heldBlocks: 2, stores: 2, duplicates: 1, onboards: 1, misses: 1, pinnedBlocks: 0, corruptions: 0 });
    expect(host.buffer.byteLength).toBe(4 * BYTES);
  });

  test('evicts the least recently used, never a pinned one', () => {
    const host = pool(3);
    for (const name of [1, 2, 3]) host.store(chain(name), 0, content(name));
    onboarded(host, chain(1), 0);
    host.store(chain(4), 0, content(4));
    expect([1, 2, 3, 4].map((name) => host.match(chain(name)))).toEqual([1, 0, 1, 1]);
    const pins = new Int32Array(3);
    expect(host.pin(chain(1), pins)).toBe(1);
    for (const name of [5, 6, 7]) expect(host.store(chain(name), 0, content(name))).toBe('stored');
    expect(host.match(chain(1))).toBe(1);
    const others = new Int32Array(2);
    const rest = [6, 7];
    rest.forEach((name, i) => expect(host.pin(chain(name), others.subarray(i, i + 1))).toBe(1));
    expect(host.store(chain(8), 0, content(8))).toBe('full');
    host.unpin(pins, 1);
    expect(host.store(chain(8), 0, content(8))).toBe('stored');
    expect(host.stats()).toMatchObject({ refusals: 1, evictions: 5, pinnedBlocks: 2 });
    expect(() => host.unpin(pins, 1)).toThrow(ArmatureError);
  });

  test('a flipped byte is found, dropped, counted; storing again heals it', () => {
    const host = pool(2);
    const hashes = chain(1, 2);
    host.store(hashes, 0, content(1));
    host.store(hashes, 1, content(2));
    new Uint8Array(host.buffer)[BYTES + 50]! ^= 1;
    expect(onboarded(host, hashes, 1)).toBeUndefined();
    expect(onboarded(host, hashes, 1)).toBeUndefined();
    expect(host.match(hashes)).toBe(1);
    expect(host.stats()).toMatchObject({ corruptions: 1, heldBlocks: 1, misses: 1 });
    expect(host.store(hashes, 1, content(2))).toBe('stored');
    expect(onboarded(host, hashes, 1)).toEqual(content(2));
    expect(host.stats()).toMatchObject({ corruptions: 1, heldBlocks: 2 });
  });

  test('intact bytes of another block under this hash are found too', () => {
    const host = pool(2);
    host.store(chain(1), 0, content(1));
    host.store(chain(2), 0, content(2));
    new Uint8Array(host.buffer).copyWithin(0, BYTES, 2 * BYTES);
    expect(onboarded(host, chain(1), 0)).toBeUndefined();
    expect(onboarded(host, chain(2), 0)).toEqual(content(2));
  });

  test('capacity and block sizes are checked', () => {
    expect(() => new HostPool({ capacityBytes: 10, blockBytes: 11 })).toThrow(ArmatureError);
    expect(() => new HostPool({ capacityBytes: 10, blockBytes: 0 })).toThrow(ArmatureError);
    expect(() => pool(1).store(chain(1), 0, new Uint8Array(5))).toThrow(ArmatureError);
  });

  test('equals a naive LRU under random work, with random corruption (seeded)', () => {
    for (let seed = 1; seed <= 60; seed++) {
      const below = random(seed);
      const blocks = 1 + below(6);
      const host = pool(blocks);
      /** Least recently used first; pinned ones count their pins. */
      let held: { name: number; pins: number; block: number; corrupt: boolean }[] = [];
      const find = (name: number) => held.find((entry) => entry.name === name && !entry.corrupt);
      const touch = (entry: (typeof held)[number]): void => {
        if (entry.pins === 0) held = [...held.filter((other) => other !== entry), entry];
      };
      for (let step = 0; step < 200; step++) {
        const name = 1 + below(9);
        const where = `seed ${seed}, step ${step}`;
        const known = find(name);
        const action = below(5);
        if (action <= 1) {
          const result = host.store(chain(name), 0, content(name));
          const corrupt = held.find((entry) => entry.name === name && entry.corrupt);
          if (known !== undefined) {
            expect(result, where).toBe('present');
            touch(known);
          } else if (corrupt !== undefined) {
            expect(result, where).toBe(corrupt.pins > 0 ? 'full' : 'stored');
            if (corrupt.pins === 0) {
              corrupt.corrupt = false;
              touch(corrupt);
            }
          } else {
            const victim = held.length < blocks ? undefined : held.find((entry) => entry.pins === 0);
            expect(result, where).toBe(held.length < blocks || victim !== undefined ? 'stored' : 'full');
            if (result === 'stored') {
              held = held.filter((entry) => entry !== victim);
              const pin = new Int32Array(1);
              host.pin(chain(name), pin);
              host.unpin(pin, 1);
              held.push({ name, pins: 0, block: pin[0]!, corrupt: false });
            }
          }
        } else if (action === 2) {
          expect(onboarded(host, chain(name), 0), where).toEqual(known === undefined ? undefined : content(name));
          if (known !== undefined) touch(known);
        } else if (action === 3) {
          const pin = new Int32Array(1);
          expect(host.pin(chain(name), pin), where).toBe(known === undefined ? 0 : 1);
          if (known !== undefined) {
            if (below(2) === 0) {
              host.unpin(pin, 1);
              touch(known);
            } else known.pins++;
          }
        } else {
          const pinned = held.find((entry) => entry.pins > 0);
          if (pinned !== undefined) {
            host.unpin(Int32Array.of(pinned.block), 1);
            pinned.pins--;
            touch(pinned);
          } else if (known !== undefined && below(3) === 0) {
            new Uint8Array(host.buffer)[known.block * BYTES + below(BYTES)]! ^= 1 << below(8);
            expect(onboarded(host, chain(name), 0), where).toBeUndefined();
            known.corrupt = true;
          }
        }
        expect(host.stats().heldBlocks, where).toBe(held.filter((entry) => !entry.corrupt).length);
        expect(host.stats().pinnedBlocks, where).toBe(held.filter((entry) => entry.pins > 0).length);
      }
    }
  });
});
