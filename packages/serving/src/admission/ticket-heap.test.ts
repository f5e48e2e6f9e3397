import { expect, it } from 'vitest';
import { testRandom } from '../test-support/fakes.ts';
import { byArrival, byPriority } from './order.ts';
import { seedOf, tenant, ticket } from './testing.test.support.ts';
import { TicketHeap } from './ticket-heap.ts';
import type { Ticket } from './ticket.ts';

it('takes the first of those that are left, whatever was added and removed', () => {
  const seed = seedOf();
  console.log(`heap seed ${seed}`);
  for (const before of [byArrival, byPriority(0), byPriority(50)]) {
    const random = testRandom(seed);
    const heap = new TicketHeap(before, 'orderIndex');
    const held: Ticket[] = [];
    for (let step = 0; step < 5_000; step++) {
      const dice = random.below(5);
      if (dice < 3) {
        const one = ticket(tenant('t'), 1, { priority: random.below(5), strictPriority: random.below(2), arrivedAtMs: random.below(500) });
        heap.add(one);
        held.push(one);
      } else if (dice === 3 && held.length > 0) {
        const [one] = held.splice(random.below(held.length), 1);
        expect(heap.remove(one)).toBe(true);
        expect(heap.remove(one)).toBe(false);
      } else {
        const first = held.toSorted((a, b) => (before(a, b) ? -1 : 1))[0];
        expect(heap.take()).toBe(first);
        if (first !== undefined) held.splice(held.indexOf(first), 1);
      }
      expect(heap.size).toBe(held.length);
    }
  }
});

it('holds 100,000 at some 17 comparisons per operation', () => {
  let comparisons = 0;
  const random = testRandom(1);
  const heap = new TicketHeap((a, b) => {
    comparisons++;
    return a.sequence < b.sequence;
  }, 'orderIndex');
  const all = Array.from({ length: 100_000 }, () => ticket(tenant('t'), 1, { sequence: random.u32() }));
  for (const one of all) heap.add(one);
  for (let i = 0; i < 50_000; i++) heap.remove(all[random.below(all.length)]);
  while (heap.take() !== undefined);
  expect(comparisons / 200_000).toBeLessThan(2 * 17);
});

it('a priority overtakes only those that came less than its ageing before it', () => {
  const old = ticket(tenant('t'), 1, { arrivedAtMs: 0 });
  const important = (arrivedAtMs: number): Ticket => ticket(tenant('t'), 1, { priority: 3, arrivedAtMs });
  expect(byPriority(100)(important(299), old)).toBe(true);
  expect(byPriority(100)(important(301), old)).toBe(false); // nothing waits for ever
  expect(byPriority(0)(important(1e9), old)).toBe(true); // without ageing it may
  const tier = ticket(tenant('t'), 1, { strictPriority: 1, arrivedAtMs: 1e9 });
  expect(byPriority(100)(tier, important(0))).toBe(true);
});
