import type { TraceRow } from '@armature/simulator';
import { describe, expect, it } from 'vitest';
import { repeated } from './simulate.ts';

const row = (atMs: number, ...blocks: number[]): TraceRow => ({ atMs, promptTokens: 16 * blocks.length, outputTokens: 1, blocks: Int32Array.from(blocks) });
const trace = (): TraceRow[] => [row(0, 1, 2), row(500, 1, 7)];

describe('repeated', () => {
  it('is the trace itself without a number of requests, and cuts it with one', () => {
    expect([...repeated(trace, undefined)]).toEqual(trace());
    expect([...repeated(trace, 1)]).toEqual([row(0, 1, 2)]);
  });

  it('plays it again later, with the same shared blocks among its rows and none of the time before', () => {
    expect([...repeated(trace, 5)]).toEqual([row(0, 1, 2), row(500, 1, 7), row(1_500, 9, 10), row(2_000, 9, 15), row(3_000, 17, 18)]);
  });

  it('begins again when numbers run out', () => {
    const high = (): TraceRow[] => [row(0, 0x40000000)];
    expect([...repeated(high, 3)].map(({ blocks }) => blocks[0])).toEqual([0x40000000, 0x40000000, 0x40000000]);
  });
});
