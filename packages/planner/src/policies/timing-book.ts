import type { JsonSchema, PassColumns, PoolObservation, WorkerCapacity } from '@armature/contracts';
import { fitTiming, linearTiming } from '@armature/fleet-model';
import type { LinearTimingOptions, PassTiming } from '@armature/fleet-model';

/** Passes of one pool that are remembered, the newest ones. */
const REMEMBERED = 512;
/** A fit is believed from so many passes on, when its residuals are below this share of the mean pass. */
const [MIN_PASSES, MAX_RESIDUAL] = [32, 0.3];

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

/** What is known of the workers of each pool: fitted from the passes they report, the configured prior before and where passes are silent. */
export class TimingBook {
  readonly #priors: Readonly<Record<string, TimingPrior>>;
  readonly #pools: Map<string, PassColumns>;

  constructor(priors: Readonly<Record<string, TimingPrior>>) {
    this.#priors = priors;
    this.#pools = new Map();
  }

  learn(pool: PoolObservation): void {
    if (pool.passes.ms.length === 0) return;
    const old = this.#pools.get(pool.pool);
    this.#pools.set(pool.pool, old === undefined ? tail(pool.passes) : tail(joined(old, pool.passes)));
  }

  worker(pool: PoolObservation): KnownWorker {
    const prior = this.#priors[pool.hardware] ?? this.#priors['default'] ?? defaultTimingPrior;
    const capacity = pool.capacity ?? prior;
    const seen = this.#pools.get(pool.pool);
    const fitted = seen !== undefined && seen.ms.length >= MIN_PASSES ? fitTiming(seen, prior) : undefined;
    const isGood = fitted !== undefined && fitted.residualShare <= MAX_RESIDUAL && Object.values(fitted.coefficients).every((value) => Number.isFinite(value));
    const { maxSequences, maxBatchedTokens, kvTokens } = capacity;
    return { timing: isGood ? fitted.timing : linearTiming(prior), passes: isGood ? fitted.passes : 0, maxSequences, maxBatchedTokens, kvTokens };
  }
}

const names = ['prefillTokens', 'decodeSequences', 'contextTokens', 'ms'] as const;

function joined(a: PassColumns, b: PassColumns): PassColumns {
  const column = (name: (typeof names)[number]): Float64Array => Float64Array.of(...a[name], ...b[name]);
  return { prefillTokens: column('prefillTokens'), decodeSequences: column('decodeSequences'), contextTokens: column('contextTokens'), ms: column('ms') };
}

function tail(passes: PassColumns): PassColumns {
  const from = Math.max(0, passes.ms.length - REMEMBERED);
  return { prefillTokens: passes.prefillTokens.slice(from), decodeSequences: passes.decodeSequences.slice(from), contextTokens: passes.contextTokens.slice(from), ms: passes.ms.slice(from) };
}
