import { idleCandidates } from '@armature/contracts/testing/routing-fixtures';
import { describe, expect, it } from 'vitest';
import { seeded } from '../fixtures.test.support.ts';
import { RecentShares } from './recent-shares.ts';

function joined(workers: number): RecentShares {
  const shares = new RecentShares();
  for (let slot = 0; slot < workers; slot++) shares.joined(slot, 'both');
  return shares;
}

function excess(shares: RecentShares, workers: number): number[] {
  const column = new Float64Array(workers);
  shares.fill(idleCandidates(workers), column, 0);
  return [...column];
}

describe('shares of the latest requests', () => {
  it('are even for turns, and after the first requests too', () => {
    const shares = joined(4);
    for (let i = 0; i < 4000; i++) shares.dispatched(i % 4, 0);
    for (const value of excess(shares, 4)) expect(Math.abs(value)).toBeLessThan(0.02);
    const fresh = joined(4);
    fresh.dispatched(0, 0);
    const [first, second] = excess(fresh, 4);
    expect(first).toBeLessThan(0.01);
    expect(first).toBeGreaterThan(second); // enough to break a tie
  });

  it('show who draws more, and forget it', () => {
    const shares = joined(4);
    for (let i = 0; i < 4000; i++) shares.dispatched(i % 5 === 4 ? 0 : i % 5, 0);
    expect(excess(shares, 4)[0]).toBeGreaterThan(0.4);
    for (let i = 0; i < 4000; i++) shares.dispatched(i % 4, 0);
    expect(Math.abs(excess(shares, 4)[0])).toBeLessThan(0.02);
  });

  it('give a new worker the mean of its role, and other roles nothing', () => {
    const shares = joined(3);
    shares.joined(3, 'prefill');
    for (let i = 0; i < 600; i++) shares.dispatched(i % 3, 0);
    shares.joined(4, 'both');
    const all = idleCandidates(2);
    all.slots.set([0, 4]);
    const column = new Float64Array(2);
    shares.fill(all, column, 0);
    expect(Math.abs(column[0] - column[1])).toBeLessThan(0.05);
    all.slots[1] = 3;
    shares.fill(all, column, 0);
    expect(column[1]).toBeLessThan(-0.6);
  });

  it('forget workers that left; their slots begin anew, unknown slots count as none', () => {
    const shares = joined(2);
    for (let i = 0; i < 100; i++) shares.dispatched(0, 0);
    shares.left(0);
    shares.dispatched(0, 0);
    expect(excess(shares, 2)).toEqual([0, 0]);
    shares.joined(40, 'both');
    shares.dispatched(99, 0);
    expect(excess(shares, 2)).toEqual([0, 0]);
  });

  it('a few requests more are no imbalance many are, and all is forgotten with time', () => {
    const shares = joined(2);
    const column = new Float64Array(2);
    for (let i = 0; i < 4; i++) shares.dispatched(0, 0); // a chat alone in the pool
    expect(excess(shares, 2)[0]).toBeLessThan(0.1);
    for (let i = 0; i < 60; i++) shares.dispatched(0, 0);
    expect(excess(shares, 2)[0]).toBeGreaterThan(0.5);
    shares.fill(idleCandidates(2), column, 300_000);
    expect(column[0]).toBeLessThan(0.01);
  });

  it('are ordered as the requests are, and finite, whatever happens (seed 7)', () => {
    const random = seeded(7);
    const shares = joined(8);
    for (let i = 0; i < 5000; i++) {
      shares.dispatched(random.below(8) & random.below(8), i * random.below(100));
      if (random.below(50) === 0) shares.joined(random.below(8), 'both');
      const column = excess(shares, 8);
      expect(column.every(Number.isFinite)).toBe(true);
      expect(Math.min(...column)).toBeLessThanOrEqual(0);
      expect(Math.max(...column)).toBeGreaterThanOrEqual(0);
    }
  });
});
