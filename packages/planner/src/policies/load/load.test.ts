import type { PoolObservation } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { input, seen } from '../../testing.test.support.ts';
import { LoadPolicy } from './load-policy.ts';

const policy = new LoadPolicy({ prefill: { up: 1, down: 0.1 }, decode: { up: 0.85, down: 0.5 }, step: 0 });
const capacity = { kvTokens: 16_000, maxSequences: 10, maxBatchedTokens: 1_000 };
const ask = (...pools: Partial<PoolObservation>[]): ReturnType<LoadPolicy['propose']> => policy.propose(input(pools.map((more) => seen({ capacity, ...more }))));

describe('the load policy', () => {
  it.each([
    ['seats at the threshold: one more', { running: 17 }, 3],
    ['requests that wait have a seat', { running: 10, waiting: 7 }, 3],
    ['KV at the threshold: one more', { usedBlocks: 850 }, 3],
    ['prompt tokens of a whole pass per worker: one more', { running: 10, prefillTokens: 2_000 }, 3],
    ['between the thresholds: none', { running: 12 }, 2],
    ['below both: one less', { running: 4 }, 1],
    ['low, but one less would be above', { ready: 2, running: 9, usedBlocks: 450 }, 2],
    ['low KV, but prompts wait: none', { running: 2, prefillTokens: 400 }, 2],
    ['those on their way share the load', { desired: 3, starting: 1, running: 20 }, 3],
    ['nobody goes while somebody comes', { desired: 3, starting: 1, running: 0 }, 3],
    ['the last one stays', { desired: 1, ready: 1, running: 0 }, 1],
  ] satisfies [string, Partial<PoolObservation>, number][])('%s', (_what, more, count) => {
    expect(ask({ totalBlocks: 1_000, ...more }).state.replicas['all']).toBe(count);
  });

  it('looks at what each role does', () => {
    const { state, action } = ask({ pool: 'p', role: 'prefill', prefillTokens: 5_000, running: 20 }, { pool: 'd', role: 'decode', prefillTokens: 5_000, running: 4 });
    expect([state.replicas, action]).toEqual([{ p: 3, d: 1 }, 'rebalance']);
  });

  it('counts those that other pools lend', () => {
    const { state } = ask({ pool: 'p', role: 'prefill', prefillTokens: 2_500 }, { pool: 'd', role: 'decode', desired: 4, ready: 3, lent: 1, running: 20 });
    expect(state.replicas['p']).toBe(2); // 2500 tokens on three workers
  });

  it('holds where no load is known', () => {
    expect(ask({ running: NaN, usedBlocks: NaN, totalBlocks: NaN, prefillTokens: NaN, waiting: NaN })).toMatchObject({ action: 'hold_insufficient_data', state: { replicas: { all: 2 } } });
  });

  it('a step is a share of the pool', () => {
    const quick = new LoadPolicy({ prefill: { up: 1, down: 0.1 }, decode: { up: 0.85, down: 0.5 }, step: 0.5 });
    expect(quick.propose(input([seen({ capacity, desired: 8, ready: 8, running: 100 })])).state.replicas['all']).toBe(12);
  });
});
