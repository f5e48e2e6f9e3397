import { ArmatureError } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { BlockPool } from './block-pool.ts';
import { registeredChains } from './chains.ts';
import { NaivePool, seeded } from './naive-pool.test.support.ts';

const chain = (root: number, length: number): Int32Array => Int32Array.from({ length: length * 2 }, (_, i) => root * 1000 + i + 1);

/** Fills and registers a chain of blocks, released tail first. */
function store(pool: BlockPool, hashes: Int32Array): number[] {
  const blocks = Array.from({ length: hashes.length / 2 }, () => pool.allocate());
  blocks.forEach((block, i) => pool.register(block, hashes[2 * i], hashes[2 * i + 1], i === 0 ? 0 : hashes[2 * i - 2], i === 0 ? 0 : hashes[2 * i - 1]));
  pool.releaseAll(Int32Array.from(blocks), blocks.length);
  return blocks;
}

describe('life of a block', () => {
  it('an inactive block is matched, becomes active again, and is evicted when its time comes', () => {
    const evicted: number[] = [];
    const pool = new BlockPool(4, (lo) => void evicted.push(lo));
    const hashes = chain(1, 3);
    const [first] = store(pool, hashes);
    expect([pool.freeBlocks, pool.registeredBlocks, pool.match(hashes, 9)]).toEqual([4, 3, 3]);
    pool.acquire(first);
    expect(pool.allocate()).toBe(3); // never registered: goes first
    pool.allocate();
    pool.allocate();
    expect(evicted).toEqual([hashes[4], hashes[2]]); // leaves first
    expect(pool.allocate()).toBe(-1);
    expect([pool.match(hashes, 9), pool.evictions, pool.usedBlocks]).toEqual([1, 2, 4]);
  });

  it('a second copy of a registered hash stays private', () => {
    const pool = new BlockPool(4);
    const [first] = store(pool, chain(1, 1));
    const copy = pool.allocate();
    expect(pool.register(copy, 1001, 1002, 0, 0)).toBe(false);
    expect(pool.find(1001, 1002)).toBe(first);
    pool.release(copy);
    expect([pool.isRegistered(copy), pool.registeredBlocks, pool.freeBlocks]).toEqual([false, 1, 4]);
  });

  it('shared blocks come back with their last owner; one release too many throws', () => {
    const pool = new BlockPool(2);
    const block = pool.allocate();
    pool.acquire(block);
    pool.release(block);
    expect(pool.usedBlocks).toBe(1);
    pool.release(block);
    expect(pool.usedBlocks).toBe(0);
    const thrown = (() => {
      try {
        return pool.release(block);
      } catch (error) {
        return error;
      }
    })();
    expect(ArmatureError.is(thrown) && thrown.code).toBe('ENGINE_BLOCKS_UNBALANCED');
  });

  it('an invalidated block cannot be matched and is used again first', () => {
    const pool = new BlockPool(4);
    const blocks = store(pool, chain(1, 3));
    expect(pool.invalidate(blocks[1])).toBe(true);
    expect(pool.invalidate(blocks[1])).toBe(false);
    expect(pool.match(chain(1, 3), 3)).toBe(1);
    expect(pool.allocate()).toBe(blocks[1]);
  });

  it('a held block is neither evicted nor used: when its hold ends it goes as if it had never had one', () => {
    const evicted: number[] = [];
    const pool = new BlockPool(3, (lo) => void evicted.push(lo));
    const hashes = chain(1, 3);
    const [root, , leaf] = store(pool, hashes);
    pool.hold(leaf);
    pool.hold(leaf);
    expect([pool.freeBlocks, pool.usedBlocks, [...pool.oldestInactive(9)]]).toEqual([2, 1, [1003, 1004, 1001, 1002, 1001, 1002, 0, 0]]);
    pool.release(pool.allocate());
    pool.unhold(leaf);
    pool.acquire(leaf); // used by somebody else while held: that does count
    pool.unhold(leaf);
    expect(pool.freeBlocks).toBe(2);
    pool.release(leaf);
    expect([...pool.oldestInactive(2)]).toEqual([1001, 1002, 0, 0, 1005, 1006, 1003, 1004]);
    expect([pool.find(1001, 1002), evicted]).toEqual([root, [hashes[2]]]);
    expect(() => pool.unhold(leaf)).toThrow('more often');
  });

  it('clearInactive forgets what nobody uses', () => {
    const pool = new BlockPool(6);
    const [root] = store(pool, chain(1, 3));
    pool.acquire(root);
    expect(pool.clearInactive()).toBe(2);
    expect([pool.match(chain(1, 3), 3), pool.registeredBlocks]).toEqual([1, 1]);
  });
});

it('chains are as long as possible, and parents come before children', () => {
  const pool = new BlockPool(16);
  store(pool, chain(1, 4));
  const branch = Int32Array.of(...chain(1, 2), 71, 72, 73, 74);
  for (const i of [2, 3]) {
    const block = pool.allocate();
    pool.register(block, branch[2 * i], branch[2 * i + 1], branch[2 * i - 2], branch[2 * i - 1]);
  }
  const chains = registeredChains(pool);
  expect(chains.map((blocks) => blocks.length)).toEqual([4, 2]);
  expect(new Set(chains.flatMap((blocks) => Array.from(blocks))).size).toBe(pool.registeredBlocks);
});

for (const seed of [1, 2, 3, 4, 5, 6]) {
  it(`behaves as a naive pool (seed ${seed})`, () => {
    const next = seeded(seed);
    const total = 1 + next(24);
    const evicted: string[] = [];
    const pool = new BlockPool(total, (lo, hi) => void evicted.push(`${lo},${hi}`));
    const naive = new NaivePool(total);
    const held: number[] = [];
    const count = { allocate: 0, full: 0, acquire: 0, release: 0, register: 0, duplicate: 0, invalidate: 0, hold: 0, unhold: 0, oldest: 0, clear: 0 };
    const holds: number[] = [];
    for (let step = 0; step < 4000; step++) {
      const block = held.length > 0 ? held[next(held.length)] : -1;
      switch (next(10)) {
        case 0:
        case 1: {
          const allocated = pool.allocate();
          expect(allocated).toBe(naive.allocate());
          if (allocated === -1) count.full++;
          else held.push(allocated);
          count.allocate++;
          break;
        }
        case 2: {
          const hash = 1 + next(40);
          const found = pool.find(hash, -hash);
          expect(found).toBe(naive.find(`${hash},${-hash}`));
          if (found === -1) break;
          pool.acquire(found);
          naive.acquire(found);
          held.push(found);
          count.acquire++;
          break;
        }
        case 3:
        case 4: {
          if (block === -1) break;
          pool.release(block);
          naive.release(block);
          held.splice(held.indexOf(block), 1);
          count.release++;
          break;
        }
        case 5: {
          if (block === -1) break;
          const hash = 1 + next(40);
          const parent = next(40);
          const isNew = pool.register(block, hash, -hash, parent, -parent);
          expect(isNew).toBe(naive.register(block, `${hash},${-hash}`, `${parent},${-parent}`));
          count[isNew ? 'register' : 'duplicate']++;
          break;
        }
        case 6: {
          const target = next(total);
          pool.hold(target);
          naive.holds[target]++;
          holds.push(target);
          count.hold++;
          break;
        }
        case 7: {
          const target = holds.splice(next(Math.max(1, holds.length)), 1)[0];
          if (target === undefined) break;
          pool.unhold(target);
          naive.holds[target]--;
          count.unhold++;
          break;
        }
        case 8: {
          const limit = next(6);
          const rows = pool.oldestInactive(limit);
          const said = Array.from({ length: rows.length / 4 }, (_, i) => `${rows[4 * i]},${rows[4 * i + 1]} after ${rows[4 * i + 2]},${rows[4 * i + 3]}`);
          expect(said).toEqual(naive.oldestInactive(limit));
          count.oldest += said.length;
          if (next(60) > 0) break;
          pool.clearInactive();
          naive.clearInactive();
          count.clear++;
          break;
        }
        default: {
          if (next(20) > 0) break;
          const victim = next(total);
          pool.invalidate(victim);
          naive.invalidate(victim);
          count.invalidate++;
        }
      }
      expect(pool.freeBlocks).toBe(naive.available.length);
      expect(pool.usedBlocks).toBe(new Set([...held, ...holds]).size);
      expect(pool.registeredBlocks).toBe(naive.hash.filter((hash) => hash !== undefined).length);
    }
    expect(evicted).toEqual(naive.evicted);
    for (let block = 0; block < total; block++) expect(pool.references(block)).toBe(naive.refs[block]);
    process.stdout.write(`block-pool seed ${seed}: ${total} blocks, ${JSON.stringify(count)}\n`);
    expect(Math.min(...Object.values(count))).toBeGreaterThan(0);
  });
}
