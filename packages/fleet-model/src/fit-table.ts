import type { PassColumns } from '@armature/contracts';
import type { TimingTable } from './timing.ts';

/** Passes behind one point at least, and points at most. */
const [MIN_PASSES, MOST_POINTS] = [8, 16];

interface Point {
  readonly x: number;
  readonly ms: number;
}

/** Means of passes of about the same size, ascending; sizes that occur too seldom join their neighbours. */
function points(rows: readonly Point[]): Point[] {
  const sorted = [...rows].sort((a, b) => a.x - b.x);
  const size = Math.max(MIN_PASSES, Math.ceil(sorted.length / MOST_POINTS));
  const means: Point[] = [];
  for (let from = 0; from < sorted.length; ) {
    let to = Math.min(sorted.length, from + size);
    // Equal sizes stay together: a table's axis ascends.
    while (to < sorted.length && sorted[to].x === sorted[to - 1].x) to++;
    if (sorted.length - to < MIN_PASSES) to = sorted.length;
    const group = sorted.slice(from, to);
    const mean = (of: (row: Point) => number): number => group.reduce((sum, row) => sum + of(row), 0) / group.length;
    means.push({ x: mean(({ x }) => x), ms: mean(({ ms }) => ms) });
    from = to;
  }
  return means;
}

/**
 * Pass times as a table of means: for engines whose passes are no line over what they compute. Prefill from passes that only prefill, decode over the
 * sequences of passes that only decode. Undefined: fewer than 8 passes of either kind.
 */
export function fitTable(passes: PassColumns): TimingTable | undefined {
  const rows = Array.from(passes.ms, (ms, i) => ({ prefill: passes.prefillTokens[i], sequences: passes.decodeSequences[i], context: passes.contextTokens[i], ms }));
  const prefills = rows.filter(({ prefill, sequences }) => prefill > 0 && sequences === 0);
  const decodes = rows.filter(({ prefill, sequences }) => prefill === 0 && sequences > 0);
  if (prefills.length < MIN_PASSES || decodes.length < MIN_PASSES) return undefined;
  const prefill = points(prefills.map(({ prefill: x, ms }) => ({ x, ms })));
  const decode = points(decodes.map(({ sequences: x, ms }) => ({ x, ms })));
  const context = decodes.reduce((sum, row) => sum + row.context, 0) / decodes.length;
  return {
    prefill: { tokens: prefill.map(({ x }) => x), ms: prefill.map(({ ms }) => ms) },
    decode: { sequences: decode.map(({ x }) => x), contextTokens: [context], ms: decode.map(({ ms }) => [ms]) },
  };
}
