import { latencyBucketBoundsMs } from '@armature/contracts';

const BUCKETS = latencyBucketBoundsMs.length;

/** Index of the bucket of `latencyBucketBoundsMs` that counts a latency. */
export function latencyBucket(ms: number): number {
  if (!(ms > latencyBucketBoundsMs[0])) return 0;
  const index = Math.ceil(16 * Math.log2(ms / 0.25) - 1e-9);
  return Math.min(BUCKETS - 1, index);
}

/** Value below which `quantile` of the counted latencies lie, interpolated in its bucket; NaN when nothing was counted. */
export function latencyQuantile(counts: ArrayLike<number>, quantile: number): number {
  let total = 0;
  for (let i = 0; i < BUCKETS; i++) total += counts[i];
  if (total === 0) return NaN;
  const rank = quantile * total;
  let before = 0;
  for (let i = 0; i < BUCKETS; i++) {
    if (before + counts[i] >= rank && counts[i] > 0) {
      const low = i === 0 ? 0 : latencyBucketBoundsMs[i - 1];
      if (i === BUCKETS - 1) return low;
      return low + (latencyBucketBoundsMs[i] - low) * Math.max(0, (rank - before) / counts[i]);
    }
    before += counts[i];
  }
  return latencyBucketBoundsMs[BUCKETS - 2];
}

const SAMPLES = 64;

/** What happened between two looks. */
export class Measures {
  arrived = 0;
  arrivedPromptTokens = 0;
  finished = 0;
  promptTokens = 0;
  cachedTokens = 0;
  outputTokens = 0;
  /** By all requests, finished or not. */
  generatedTokens = 0;
  remotePrefills = 0;
  withinObjective = 0;
  /** GPU time and money of all workers, start-up and drain included. */
  gpuMs = 0;
  cost = 0;
  /** The latest of the finished requests: prompt, cached and output tokens, `SAMPLES` of each at most. */
  readonly samples: [number, number, number][] = [];
  readonly ttft = new Uint32Array(BUCKETS);
  readonly itl = new Uint32Array(BUCKETS);

  /** A request has finished. */
  sample(promptTokens: number, cachedTokens: number, outputTokens: number): void {
    if (this.samples.length === SAMPLES) this.samples.shift();
    this.samples.push([promptTokens, cachedTokens, outputTokens]);
  }
}
