import { ArmatureError } from '@armature/contracts';

/** How long one pass of an engine takes: one step over its batch. All counts may be fractional. Pure; never negative, never NaN. */
export interface PassTiming {
  /**
   * @param prefillTokens prompt tokens computed in the pass
   * @param decodeSequences sequences that get one token each
   * @param contextTokens KV tokens that those sequences hold together
   */
  passMs(prefillTokens: number, decodeSequences: number, contextTokens: number): number;
}

/** a·x² + b·x + c, as [a, b, c]. */
export type Polynomial = readonly [number, number, number];

export interface PolynomialTimingOptions {
  /** Milliseconds of t prompt tokens in a pass, if any. */
  readonly prefill: Polynomial;
  /** Milliseconds of a decode pass at KV utilisation u (0 to 1), if any sequence decodes. */
  readonly decode: Polynomial;
  /** KV tokens of the worker: what utilisation 1 means. */
  readonly kvTokens: number;
  /** No decode pass is faster. */
  readonly decodeFloorMs?: number;
  /** Divides everything. */
  readonly speedup?: number;
}

/** Formula of Dynamo's mocker, and of @armature/backend-mock: prefill(t) + max(floor, decode(u)). */
export function polynomialTiming(options: PolynomialTimingOptions): PassTiming {
  const { prefill, decode, kvTokens, decodeFloorMs = 1, speedup = 1 } = options;
  if (!(kvTokens > 0) || !(speedup > 0)) throw new ArmatureError('FLEET_TIMING_INVALID', `kvTokens ${kvTokens} and speedup ${speedup} must be above 0`);
  return {
    passMs(prefillTokens, decodeSequences, contextTokens) {
      const u = Math.min(1, contextTokens / kvTokens);
      const prefillMs = prefillTokens > 0 ? (prefill[0] * prefillTokens + prefill[1]) * prefillTokens + prefill[2] : 0;
      const decodeMs = decodeSequences > 0 ? Math.max(decodeFloorMs, (decode[0] * u + decode[1]) * u + decode[2]) : 0;
      return Math.max(0, prefillMs + decodeMs) / speedup;
    },
  };
}

export interface LinearTimingOptions {
  /** Milliseconds per prompt token, and per pass that computes any. */
  readonly prefillMsPerToken: number;
  readonly prefillMs: number;
  /** Milliseconds per decoding sequence, per KV token held, and per pass that decodes. */
  readonly decodeMsPerSequence: number;
  readonly decodeMsPerContextToken: number;
  readonly decodeMs: number;
}

/** The regression model of Dynamo's planner: prefill a·t + b, decode a·n + b·kv + c. */
export function linearTiming(options: LinearTimingOptions): PassTiming {
  const { prefillMsPerToken, prefillMs, decodeMsPerSequence, decodeMsPerContextToken, decodeMs } = options;
  return {
    passMs(prefillTokens, decodeSequences, contextTokens) {
      const p = prefillTokens > 0 ? prefillMsPerToken * prefillTokens + prefillMs : 0;
      const d = decodeSequences > 0 ? decodeMsPerSequence * decodeSequences + decodeMsPerContextToken * contextTokens + decodeMs : 0;
      return Math.max(0, p) + Math.max(0, d);
    },
  };
}

export interface TimingTable {
  /** Prompt tokens, ascending, and milliseconds of a pass with so many. */
  readonly prefill: { readonly tokens: readonly number[]; readonly ms: readonly number[] };
  /** Decoding sequences and KV tokens held, each ascending; `ms[i][j]` is for sequences i, tokens j. */
  readonly decode: { readonly sequences: readonly number[]; readonly contextTokens: readonly number[]; readonly ms: readonly (readonly number[])[] };
}

/** Measured points, (bi)linearly interpolated; beyond the outermost points the last slope goes on, never below 0. Throws `FLEET_TIMING_INVALID`. */
export function tableTiming(table: TimingTable): PassTiming {
  const { prefill, decode } = table;
  ascending(prefill.tokens, prefill.ms.length, 'prefill.tokens');
  ascending(decode.sequences, decode.ms.length, 'decode.sequences');
  for (const row of decode.ms) ascending(decode.contextTokens, row.length, 'decode.contextTokens');
  const values = [...prefill.ms, ...decode.ms.flat()];
  if (values.some((ms) => !(ms >= 0))) throw new ArmatureError('FLEET_TIMING_INVALID', 'a timing table holds a time that is negative or no number', { hint: 'measure again; passes take 0 ms or more' });
  return {
    passMs(prefillTokens, decodeSequences, contextTokens) {
      const p = prefillTokens > 0 ? interpolate(prefill.tokens, prefill.ms, prefillTokens) : 0;
      if (!(decodeSequences > 0)) return p;
      const at = place(decode.sequences, decodeSequences);
      const low = interpolate(decode.contextTokens, decode.ms[at.index], contextTokens);
      const high = decode.ms.length === 1 ? low : interpolate(decode.contextTokens, decode.ms[at.index + 1], contextTokens);
      return p + Math.max(0, low + (high - low) * at.share);
    },
  };
}

function ascending(axis: readonly number[], rows: number, name: string): void {
  const isSo = axis.length > 0 && axis.every((value, i) => value >= 0 && (i === 0 || value > axis[i - 1]));
  if (!isSo || axis.length !== rows) {
    throw new ArmatureError('FLEET_TIMING_INVALID', `the axis ${name} of a timing table must ascend and have a value per row (${axis.length} points, ${rows} rows)`, { hint: 'sort the measurements and leave none out' });
  }
}

/** Interval of an ascending axis, and how far into it (below 0 or above 1 outside of the axis). */
function place(axis: readonly number[], x: number): { readonly index: number; readonly share: number } {
  if (axis.length === 1) return { index: 0, share: 0 };
  let low = 0;
  let high = axis.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (axis[middle] <= x) low = middle;
    else high = middle;
  }
  return { index: low, share: (x - axis[low]) / (axis[low + 1] - axis[low]) };
}

function interpolate(axis: readonly number[], values: readonly number[], x: number): number {
  if (axis.length === 1) return values[0];
  const { index, share } = place(axis, x);
  return Math.max(0, values[index] + (values[index + 1] - values[index]) * share);
}
