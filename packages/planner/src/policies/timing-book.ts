import type { JsonSchema, PassColumns, PoolObservation, WorkerCapacity } from '@armature/contracts';
import { fitTiming, linearTiming } from '@armature/fleet-model';
import type { LinearTimingOptions, PassTiming } from '@armature/fleet-model';

/** Passes of one pool that are remembered, the newest ones. */
const REMEMBERED = 512;
/** A fit is believed from so many passes on, when its residuals are below this share of the mean pass. */
const [MIN_PASSES, MAX_RESIDUAL] = [32, 0.3];
/** Passes after which a fit is made anew. */
const REFIT_PASSES = REMEMBERED;

export interface TimingPrior extends LinearTimingOptions {
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  readonly kvTokens: number;
}

export const timingPriorSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  description: 'What one worker of a hardware profile can do, until its passes have told. Times in milliseconds: prefillMsPerToken · t + prefillMs for t prompt tokens, decodeMsPerSequence · n + decodeMsPerContextToken · kv + decodeMs for n sequences with kv tokens.',
  properties: {
    prefillMsPerToken: { type: 'number', minimum: 0, default: 0.02, description: 'Milliseconds per prompt token of a pass.' },
    prefillMs: { type: 'number', minimum: 0, default: 16, description: 'Milliseconds of a pass that computes prompt tokens, however few.' },
    decodeMsPerSequence: { type: 'number', minimum: 0, default: 0.02, description: 'Milliseconds per decoding sequence of a pass.' },
    decodeMsPerContextToken: { type: 'number', minimum: 0, default: 0.0001, description: 'Milliseconds per KV token that the decoding sequences hold.' },
    decodeMs: { type: 'number', minimum: 0, default: 6, description: 'Milliseconds of a pass that decodes, however few.' },
    maxSequences: { type: 'integer', minimum: 1, default: 256, description: 'Sequences in one pass.' },
    maxBatchedTokens: { type: 'integer', minimum: 1, default: 8192, description: 'Tokens in one pass.' },
    kvTokens: { type: 'integer', minimum: 1, default: 262_144, description: 'KV tokens that a worker holds.' },
  },
};

export const defaultTimingPrior: TimingPrior = { prefillMsPerToken: 0.02, prefillMs: 16, decodeMsPerSequence: 0.02, decodeMsPerContextToken: 0.0001, decodeMs: 6, maxSequences: 256, maxBatchedTokens: 8192, kvTokens: 262_144 };

export interface KnownWorker extends WorkerCapacity {
  readonly timing: PassTiming;
  /** Passes behind the timing; 0: the prior. */
  readonly passes: number;
}

interface PoolPasses {
  readonly passes: PassColumns;
  /** Passes that came since the last fit. */
  readonly unfitted: number;
  readonly known: KnownWorker | undefined;
}

/** What is known of the workers of each pool: fitted from the passes they report, the configured prior before and where passes are silent. */
export class TimingBook {
  readonly #priors: Readonly<Record<string, TimingPrior>>;
  readonly #pools: Map<string, PoolPasses>;

  constructor(priors: Readonly<Record<string, TimingPrior>>) {
    this.#priors = priors;
    this.#pools = new Map();
  }

  learn({ pool, passes }: PoolObservation): void {
    if (passes.ms.length === 0) return;
    const old = this.#pools.get(pool);
    this.#pools.set(pool, { passes: joined(old?.passes, passes), unfitted: (old?.unfitted ?? 0) + passes.ms.length, known: old?.known });
  }

  worker(pool: PoolObservation): KnownWorker {
    const prior = this.#priors[pool.hardware] ?? this.#priors['default'] ?? defaultTimingPrior;
    const { maxSequences, maxBatchedTokens, kvTokens } = pool.capacity ?? prior;
    const seen = this.#pools.get(pool.pool);
    if (seen === undefined || seen.passes.ms.length < MIN_PASSES) return { timing: linearTiming(prior), passes: 0, maxSequences, maxBatchedTokens, kvTokens };
    if (seen.known !== undefined && seen.unfitted < REFIT_PASSES) return { ...seen.known, maxSequences, maxBatchedTokens, kvTokens };
    const fitted = fitTiming(seen.passes, prior);
    const good = fitted !== undefined && fitted.residualShare <= MAX_RESIDUAL && Object.values(fitted.coefficients).every((value) => Number.isFinite(value)) ? fitted : undefined;
    const known = { timing: good?.timing ?? linearTiming(prior), passes: good?.passes ?? 0, maxSequences, maxBatchedTokens, kvTokens };
    this.#pools.set(pool.pool, { passes: seen.passes, unfitted: 0, known });
    return known;
  }
}

/** The newest of both. */
function joined(old: PassColumns | undefined, added: PassColumns): PassColumns {
  const column = (name: 'prefillTokens' | 'decodeSequences' | 'contextTokens' | 'ms'): Float64Array => {
    const before = old?.[name] ?? new Float64Array(0);
    const all = new Float64Array(before.length + added[name].length);
    all.set(before);
    all.set(added[name], before.length);
    return all.slice(-REMEMBERED);
  };
  return { prefillTokens: column('prefillTokens'), decodeSequences: column('decodeSequences'), contextTokens: column('contextTokens'), ms: column('ms') };
}
