import { describe, expect, it } from 'vitest';
import { PassHistory } from './pass-history.ts';
import { StepColumns } from './step-columns.ts';

function columns(rows: readonly (readonly [query: number, context: number])[]): StepColumns {
  const all = new StepColumns(8, 64, 1);
  all.sequenceCount = rows.length;
  rows.forEach(([query, context], i) => {
    all.queryLengths[i] = query;
    all.contextLengths[i] = context;
  });
  return all;
}

describe('the history of passes', () => {
  it('tells nothing before it was asked once, then prompt tokens, sequences, context and time of each pass', () => {
    const history = new PassHistory();
    history.begin(columns([[5, 0]]), 0);
    history.end(1, 3);
    expect(history.take().ms.length).toBe(0);
    history.begin(columns([[5, 0], [1, 40], [7, 16], [1, 2]]), 10);
    history.end(1, 14);
    history.begin(columns([[1, 41], [1, 3]]), 14);
    history.end(3, 20); // three at once
    expect(history.take()).toEqual({ prefillTokens: Float64Array.of(12, 0), decodeSequences: Float64Array.of(2, 2), contextTokens: Float64Array.of(42, 46), ms: Float64Array.of(4, 2) });
    expect(history.take().ms.length).toBe(0);
  });

  it('keeps the newest 64, in order, and a pass that runs while it is asked', () => {
    const history = new PassHistory();
    history.take();
    for (let i = 0; i < 100; i++) {
      history.begin(columns([[i + 2, 0]]), 0);
      history.end(1, i);
    }
    history.begin(columns([[9, 0]]), 0);
    expect([...history.take().ms]).toEqual(Array.from({ length: 64 }, (_, i) => i + 36));
    history.end(1, 7);
    const { prefillTokens, ms } = history.take();
    expect([[...prefillTokens], [...ms]]).toEqual([[9], [7]]);
  });
});
