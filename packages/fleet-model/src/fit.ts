import type { PassColumns } from '@armature/contracts';
import { linearTiming } from './timing.ts';
import type { LinearTimingOptions, PassTiming } from './timing.ts';

/** Fewer passes of a kind tell nothing. */
const MIN_PASSES = 8;

export interface FittedTiming {
  readonly timing: PassTiming;
  readonly coefficients: LinearTimingOptions;
  /** Standard error of each coefficient; NaN: not told by these passes, the prior stands. */
  readonly errors: LinearTimingOptions;
  /** Root mean square of the residuals, in milliseconds, and as a share of the mean pass. */
  readonly residualMs: number;
  readonly residualShare: number;
  readonly passes: number;
}

/**
 * Ordinary least squares of pass times over (prompt tokens, any prompt tokens, sequences, context tokens, any sequences). Columns that the passes do not
 * vary are left to the prior: of an engine that only prefills nothing is said of decode. Undefined: fewer than 8 passes.
 */
export function fitTiming(passes: PassColumns, prior?: LinearTimingOptions): FittedTiming | undefined {
  const rows = passes.ms.length;
  if (rows < MIN_PASSES) return undefined;
  const isAny = (value: number): number => (value > 0 ? 1 : 0);
  const all = [
    { name: 'prefillMsPerToken', column: passes.prefillTokens },
    { name: 'prefillMs', column: passes.prefillTokens.map(isAny) },
    { name: 'decodeMsPerSequence', column: passes.decodeSequences },
    { name: 'decodeMsPerContextToken', column: passes.contextTokens },
    { name: 'decodeMs', column: passes.decodeSequences.map(isAny) },
  ] as const;
  const known: LinearTimingOptions = prior ?? { prefillMsPerToken: 0, prefillMs: 0, decodeMsPerSequence: 0, decodeMsPerContextToken: 0, decodeMs: 0 };
  const used = all.filter(({ column }) => column.some((value) => value !== 0));
  const solved = leastSquares(used.map(({ column }) => column), passes.ms);
  const coefficients = { ...known };
  const errors = { prefillMsPerToken: NaN, prefillMs: NaN, decodeMsPerSequence: NaN, decodeMsPerContextToken: NaN, decodeMs: NaN };
  used.forEach(({ name }, k) => {
    coefficients[name] = solved.isFree[k] ? 0 : solved.values[k]; // a column that another one says already adds nothing
    if (solved.isFree[k]) return;
    errors[name] = solved.errors[k];
  });
  const timing = linearTiming(coefficients);
  let squares = 0;
  let sum = 0;
  for (let i = 0; i < rows; i++) {
    squares += (passes.ms[i] - timing.passMs(passes.prefillTokens[i], passes.decodeSequences[i], passes.contextTokens[i])) ** 2;
    sum += passes.ms[i];
  }
  const residualMs = Math.sqrt(squares / rows);
  return { timing, coefficients, errors, residualMs, residualShare: sum > 0 ? residualMs / (sum / rows) : 0, passes: rows };
}

interface Solution {
  readonly values: Float64Array;
  readonly errors: Float64Array;
  /** Columns that the rows cannot tell from those before them. */
  readonly isFree: readonly boolean[];
}

/** Columns are orthogonalised one after the other (modified Gram–Schmidt), so that dependent ones show. */
export function leastSquares(columns: readonly Float64Array[], target: Float64Array): Solution {
  const [n, k] = [target.length, columns.length];
  const q = columns.map((column) => column.slice());
  const r = Array.from({ length: k }, () => new Float64Array(k));
  const isFree: boolean[] = [];
  for (let j = 0; j < k; j++) {
    const before = norm(q[j]);
    for (let i = 0; i < j; i++) {
      if (isFree[i]) continue;
      r[i][j] = dot(q[i], q[j]);
      for (let t = 0; t < n; t++) q[j][t] -= r[i][j] * q[i][t];
    }
    const after = norm(q[j]);
    isFree.push(!(after > 1e-9 * before));
    r[j][j] = isFree[j] ? 1 : after;
    if (!isFree[j]) for (let t = 0; t < n; t++) q[j][t] /= after;
  }
  const rest = Float64Array.from(target);
  const projected = new Float64Array(k);
  for (let j = 0; j < k; j++) {
    if (isFree[j]) continue;
    projected[j] = dot(q[j], rest);
    for (let t = 0; t < n; t++) rest[t] -= projected[j] * q[j][t];
  }
  const values = new Float64Array(k);
  for (let j = k - 1; j >= 0; j--) {
    if (isFree[j]) continue;
    let value = projected[j];
    for (let i = j + 1; i < k; i++) if (!isFree[i]) value -= r[j][i] * values[i];
    values[j] = value / r[j][j];
  }
  const freedom = Math.max(1, n - isFree.filter((is) => !is).length);
  const variance = dot(rest, rest) / freedom;
  return { values, errors: standardErrors(r, isFree, variance), isFree };
}

/** Square roots of the diagonal of variance · (RᵀR)⁻¹ = variance · R⁻¹R⁻ᵀ: entry (i, i) is the squared norm of row i of R⁻¹, whose columns come by back substitution. */
function standardErrors(r: readonly Float64Array[], isFree: readonly boolean[], variance: number): Float64Array {
  const k = r.length;
  const squares = new Float64Array(k);
  for (let column = 0; column < k; column++) {
    if (isFree[column]) continue;
    const x = new Float64Array(k);
    for (let i = column; i >= 0; i--) {
      if (isFree[i]) continue;
      let value = i === column ? 1 : 0;
      for (let j = i + 1; j <= column; j++) if (!isFree[j]) value -= r[i][j] * x[j];
      x[i] = value / r[i][i];
      squares[i] += x[i] * x[i];
    }
  }
  return squares.map((square, i) => (isFree[i] ? NaN : Math.sqrt(variance * square)));
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function norm(a: Float64Array): number {
  return Math.sqrt(dot(a, a));
}
