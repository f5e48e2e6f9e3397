import { describe, expect, it } from 'vitest';
import { testRandom } from '../test-support/fakes.ts';
import { SessionTable, sessionKey } from './session-table.ts';
import { seedOf } from './testing.test.support.ts';

const config = { bonusBlocks: 32, ttlMs: 1_000, maxSessions: 3 };

describe('SessionTable', () => {
  it('remembers the last worker until the time to live is over', () => {
    const table = new SessionTable(config);
    expect(table.workerOf('s', 0)).toBeUndefined();
    table.bind('s', 'a', 0);
    table.bind('s', 'b', 500);
    expect(table.workerOf('s', 1_499)).toBe('b');
    expect(table.workerOf('s', 1_500)).toBeUndefined();
    expect(table.size).toBe(0);
  });

  it('is not prolonged by a question', () => {
    const table = new SessionTable(config);
    table.bind('s', 'a', 0);
    expect(table.workerOf('s', 999)).toBe('a');
    expect(table.workerOf('s', 1_001)).toBeUndefined();
  });

  it('unbinds a worker that failed, not the one that came after it', () => {
    const table = new SessionTable(config);
    table.bind('s', 'a', 0);
    table.unbind('s', 'b');
    expect(table.workerOf('s', 1)).toBe('a');
    table.unbind('s', 'a');
    expect(table.workerOf('s', 1)).toBeUndefined();
  });

  it('keeps tenants and roles apart, whatever they are called', () => {
    const keys = [sessionKey('t', 's', 'both'), sessionKey('', 's', 'both'), sessionKey('t', 's', 'decode'), sessionKey('s', 't', 'both')];
    expect(new Set(keys).size).toBe(4);
  });

  it('forgets the least recently used above its limit, like a list that is sorted by use', () => {
    const seed = seedOf();
    console.log(`session seed ${seed}`);
    const random = testRandom(seed);
    const table = new SessionTable({ ...config, maxSessions: 20 });
    let naive: { session: string; worker: string; atMs: number }[] = [];
    for (let nowMs = 0; nowMs < 20_000; nowMs += random.below(60)) {
      const session = `s${random.below(60)}`;
      if (random.below(3) > 0) {
        const worker = `w${random.below(4)}`;
        table.bind(session, worker, nowMs);
        naive = [...naive.filter((entry) => entry.session !== session), { session, worker, atMs: nowMs }].slice(-20);
      }
      const known = naive.find((entry) => entry.session === session);
      const isAlive = known !== undefined && known.atMs + 1_000 > nowMs;
      expect(table.workerOf(session, nowMs), `seed ${seed} at ${nowMs}`).toBe(isAlive ? known.worker : undefined);
      expect(table.size).toBeLessThanOrEqual(20);
    }
  });

  it('empties as it is used once sessions have expired', () => {
    const table = new SessionTable({ ...config, maxSessions: 1_000 });
    for (let i = 0; i < 100; i++) table.bind(`s${i}`, 'a', 0);
    for (let i = 0; i < 50; i++) table.bind('other', 'a', 2_000);
    expect(table.size).toBe(1);
  });
});
