import { expect, test } from 'vitest';
import { routingRequest } from '@armature/contracts/testing/routing-fixtures';
import { ActiveBlocks } from './active-blocks.ts';
import type { ActiveBlocksOptions } from './active-blocks.ts';
import { OverlapColumns } from '../overlap.ts';
import { seeded } from '../fixtures.test.support.ts';

const create = (parts: Partial<ActiveBlocksOptions> = {}, slots = 3): ActiveBlocks => {
  const active = new ActiveBlocks({ expiryMs: 300_000, maxRequests: 1000, trackOutputBlocks: true, ...parts });
  for (let slot = 0; slot < slots; slot++) active.joined(slot);
  return active;
};
const shared = (active: ActiveBlocks, chain: number, blocks: number): number[] => {
  const request = routingRequest({ chain, blocks });
  const out = new OverlapColumns();
  active.findShared(request.sequenceHashes, blocks, out);
  return [...out.total.subarray(0, 3)];
};

test('blocks shared on one worker count once, on another worker again', () => {
  const active = create();
  active.dispatched(0, routingRequest({ id: 'a', blocks: 8 }), true, 0);
  active.dispatched(0, routingRequest({ id: 'b', blocks: 12 }), true, 0);
  active.dispatched(1, routingRequest({ id: 'c', blocks: 5 }), true, 0);
  expect([0, 1, 2].map((slot) => active.blocks(slot))).toEqual([12, 5, 0]);
  expect(shared(active, 1, 10)).toEqual([10, 5, 0]);
  expect(shared(active, 2, 10)).toEqual([0, 0, 0]);
  active.ended(0, 'b');
  expect(active.blocks(0)).toBe(8);
  expect(shared(active, 1, 10)).toEqual([8, 5, 0]);
  active.ended(0, 'a');
  expect(active.blocks(0)).toBe(0);
  expect(active.distinctBlocks).toBe(5);
});

test('a partial block and output blocks are the request’s own; without trackOutputBlocks only complete prompt blocks count', () => {
  const active = create();
  active.dispatched(0, routingRequest({ id: 'a', blocks: 8, promptTokens: 8 * 16 + 3 }), true, 0);
  expect(active.blocks(0)).toBe(9);
  active.grown(0, 'a', 13);
  expect(active.blocks(0)).toBe(9);
  active.grown(0, 'a', 14);
  expect(active.blocks(0)).toBe(10);
  active.ended(0, 'a');
  expect(active.blocks(0)).toBe(0);

  const plain = create({ trackOutputBlocks: false });
  plain.dispatched(0, routingRequest({ id: 'a', blocks: 8, promptTokens: 8 * 16 + 3 }), true, 0);
  plain.grown(0, 'a', 200);
  expect(plain.blocks(0)).toBe(8);
  expect(plain.requestBlocks(routingRequest({ blocks: 8, promptTokens: 131 }))).toBe(8);
});

test('without sharing every request has its own blocks', () => {
  const active = create();
  for (const id of ['a', 'b']) active.dispatched(0, routingRequest({ id, blocks: 8 }), false, 0);
  expect(active.blocks(0)).toBe(16);
  expect(shared(active, 1, 8)).toEqual([0, 0, 0]);
});

test('the same id on the same worker replaces the earlier leg', () => {
  const active = create();
  active.dispatched(0, routingRequest({ id: 'a', blocks: 8 }), true, 0);
  active.dispatched(0, routingRequest({ id: 'a', blocks: 3, chain: 9 }), true, 0);
  expect([active.blocks(0), active.requests]).toEqual([3, 1]);
});

test('lost requests expire; growth and first token give a second chance', () => {
  const active = create();
  active.dispatched(0, routingRequest({ id: 'lost', blocks: 4 }), true, 0);
  active.dispatched(0, routingRequest({ id: 'slow', blocks: 4, chain: 2 }), true, 0);
  active.dispatched(1, routingRequest({ id: 'first', blocks: 4 }), true, 0);
  active.grown(0, 'slow', 16);
  active.firstToken(1, 'first');
  expect(active.expire(299_999)).toBe(0);
  expect(active.expire(300_000)).toBe(1);
  expect([active.blocks(0), active.blocks(1)]).toEqual([5, 4]);
  active.grown(0, 'slow', 4000);
  expect(active.expire(599_999)).toBe(0);
  expect(active.expire(600_000)).toBe(1); // 'first' was not heard of again
  expect(active.requests).toBe(1);
  expect(active.expire(900_000)).toBe(1);
  expect([active.requests, active.blocks(0), active.distinctBlocks, active.expired]).toEqual([0, 0, 0, 3]);
  active.ended(0, 'slow');
});

test('beyond maxRequests requests are counted but not tracked', () => {
  const active = create({ maxRequests: 2 });
  for (const id of ['a', 'b', 'c']) active.dispatched(0, routingRequest({ id, blocks: 2, chain: id.charCodeAt(0) }), true, 0);
  expect([active.requests, active.untracked, active.blocks(0)]).toEqual([2, 1, 4]);
  active.ended(0, 'c');
  active.ended(0, 'a');
  active.dispatched(0, routingRequest({ id: 'd', blocks: 2 }), true, 0);
  expect(active.requests).toBe(2);
});

test('a worker that leaves takes its load along', () => {
  const active = create();
  active.dispatched(0, routingRequest({ id: 'a' }), true, 0);
  active.dispatched(1, routingRequest({ id: 'b' }), true, 0);
  active.left(0);
  expect([active.requests, active.blocks(0), active.blocks(1)]).toEqual([1, 0, 8]);
  active.ended(0, 'a');
  active.dispatched(0, routingRequest({ id: 'x' }), true, 0);
  expect(active.requests).toBe(1);
  active.joined(0);
  expect(shared(active, 1, 8)).toEqual([0, 8, 0]);
});

for (const seed of [1, 2, 3, 4]) {
  test(`equals the naive model under random requests, then drains to nothing (seed ${seed})`, () => {
    const random = seeded(seed);
    const active = create({ maxRequests: 100_000 }, 40);
    const model = new Map<string, { slot: number; keys: string[]; own: number; promptTokens: number; blocks: number }>();
    const expected = (slot: number): number => {
      const mine = [...model.values()].filter((entry) => entry.slot === slot);
      return new Set(mine.flatMap((entry) => entry.keys)).size + mine.reduce((sum, entry) => sum + entry.own, 0);
    };
    let sharing = 0;
    for (let step = 0; step < 3000; step++) {
      const slot = random.below(40);
      const action = random.below(5);
      const running = [...model.keys()];
      if (action < 2) {
        const blocks = random.below(10);
        const chain = random.below(4);
        const promptTokens = blocks * 16 + random.below(16);
        const shares = random.below(4) > 0;
        active.dispatched(slot, routingRequest({ id: `r${step}`, chain, blocks, promptTokens }), shares, 0);
        const keys = shares ? Array.from({ length: blocks }, (_, i) => `${chain}/${i}`) : [];
        model.set(`r${step}`, { slot, keys, own: Math.ceil(promptTokens / 16) - keys.length, promptTokens, blocks });
      } else if (running.length > 0) {
        const id = running[random.below(running.length)];
        const entry = model.get(id)!;
        if (action === 2) {
          const tokens = random.below(100);
          active.grown(entry.slot, id, tokens);
          entry.own = Math.ceil((entry.promptTokens + tokens) / 16) - entry.keys.length;
        } else {
          active.ended(entry.slot, id);
          model.delete(id);
        }
      }
      if (step % 100 === 0) for (let s = 0; s < 40; s++) expect(active.blocks(s)).toBe(expected(s));
      if (model.size > active.distinctBlocks) sharing++;
    }
    console.log(`active-blocks seed ${seed}: ${model.size} requests left, sharing seen ${sharing}`);
    expect(active.requests).toBe(model.size);
    for (const [id, { slot }] of model) active.ended(slot, id);
    for (let slot = 0; slot < 40; slot++) expect(active.blocks(slot)).toBe(0);
    expect([active.requests, active.distinctBlocks]).toEqual([0, 0]);
  });
}
