import { describe, expect, it } from 'vitest';
import { fitTable } from './fit-table.ts';
import { testRandom } from './test-random.test.support.ts';
import { tableTiming } from './timing.ts';

describe('fitTable', () => {
  it('follows times that are no line, within the noise', () => {
    const random = testRandom(5);
    const truth = (tokens: number, sequences: number): number => (tokens > 0 ? 3 + 0.02 * tokens + 0.0002 * tokens * tokens : 0) + (sequences > 0 ? 2 + Math.sqrt(sequences) : 0);
    const rows = Array.from({ length: 2_000 }, (_, i) => ({ tokens: i % 2 === 0 ? 1 + random.below(800) : 0, sequences: i % 2 === 0 ? 0 : 1 + random.below(30) }));
    const column = (of: (row: (typeof rows)[number]) => number): Float64Array => Float64Array.from(rows, of);
    const table = fitTable({ prefillTokens: column(({ tokens }) => tokens), decodeSequences: column(({ sequences }) => sequences), contextTokens: column(({ sequences }) => sequences * 100), ms: column(({ tokens, sequences }) => truth(tokens, sequences) * (0.95 + 0.1 * random.next())) });
    const timing = tableTiming(table ?? { prefill: { tokens: [], ms: [] }, decode: { sequences: [], contextTokens: [], ms: [] } });
    for (const tokens of [100, 300, 500, 700]) expect(timing.passMs(tokens, 0, 0) / truth(tokens, 0)).toBeCloseTo(1, 1);
    for (const sequences of [3, 10, 25]) expect(timing.passMs(0, sequences, 1_000) / truth(0, sequences)).toBeCloseTo(1, 1);
  });

  it('says nothing of too few passes, or of one kind only', () => {
    const some = (count: number, prefill: number): Parameters<typeof fitTable>[0] => ({ prefillTokens: new Float64Array(count).fill(prefill), decodeSequences: new Float64Array(count).fill(prefill > 0 ? 0 : 2), contextTokens: new Float64Array(count), ms: new Float64Array(count).fill(1) });
    expect(fitTable(some(7, 5))).toBeUndefined();
    expect(fitTable(some(100, 5))).toBeUndefined();
    expect(fitTable(some(100, 0))).toBeUndefined();
  });
});
