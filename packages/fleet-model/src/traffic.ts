import type { Random, RequestSamples } from '@armature/contracts';
import type { SteadyTraffic } from './required.ts';

/** One request of a traffic. */
export interface Arrival {
  readonly atMs: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
}

/** Steady traffic for a while. */
export interface TrafficPhase {
  readonly untilMs: number;
  readonly requestsPerSecond: number;
  /** Means; lengths are log-normal around them. */
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Share of prompt tokens that are cached. */
  readonly hitRate: number;
  /** Standard deviation of the logarithm of lengths; left out: 0.5. */
  readonly lengthSigma?: number;
}

export interface Lengths {
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
}

export interface ShiftOptions {
  readonly durationMs: number;
  /** Of quiet phases; busy ones have three times as much. */
  readonly requestsPerSecond: number;
  /** Means of a phase with long prompts; the next one has them exchanged. */
  readonly longTokens: number;
  readonly shortTokens: number;
  readonly hitRate: number;
}

/** Of the logarithm of lengths. */
const LENGTH_SIGMA = 0.5;
const [SHORTEST_PHASE_MS, LONGEST_PHASE_MS] = [600_000, 1_200_000];

/**
 * The shift generator of our planner claims: every 10 to 20 minutes input and output lengths are exchanged, and the load goes from one to three times or back.
 * Where in the cycle it begins, and how long each phase is, is drawn.
 */
export function shiftPhases(options: ShiftOptions, random: Random): TrafficPhase[] {
  const phases: TrafficPhase[] = [];
  let isLong = random.next() < 0.5;
  let isBusy = random.next() < 0.5;
  for (let atMs = 0; atMs < options.durationMs; ) {
    atMs = Math.min(options.durationMs, atMs + SHORTEST_PHASE_MS + random.next() * (LONGEST_PHASE_MS - SHORTEST_PHASE_MS));
    phases.push({
      untilMs: atMs,
      requestsPerSecond: options.requestsPerSecond * (isBusy ? 3 : 1),
      promptTokens: isLong ? options.longTokens : options.shortTokens,
      outputTokens: isLong ? options.shortTokens : options.longTokens,
      hitRate: options.hitRate,
    });
    isLong = !isLong;
    isBusy = !isBusy;
  }
  return phases;
}

/** Poisson arrivals with log-normal lengths, in order of time. */
export function* arrivals(phases: readonly TrafficPhase[], random: Random, fromMs = 0): Generator<Arrival> {
  let atMs = fromMs;
  for (const phase of phases) {
    if (phase.untilMs <= atMs) continue;
    if (!(phase.requestsPerSecond > 0)) {
      atMs = phase.untilMs;
      continue;
    }
    for (;;) {
      // The time to the next arrival has no memory: what goes beyond the phase is drawn anew at its rate.
      atMs += (-Math.log(1 - random.next()) / phase.requestsPerSecond) * 1000;
      if (atMs >= phase.untilMs) {
        atMs = phase.untilMs;
        break;
      }
      const sigma = phase.lengthSigma ?? LENGTH_SIGMA;
      const promptTokens = length(phase.promptTokens, sigma, random);
      yield { atMs, promptTokens, cachedTokens: Math.floor(promptTokens * phase.hitRate), outputTokens: length(phase.outputTokens, sigma, random) };
    }
  }
}

function length(mean: number, sigma: number, random: Random): number {
  const normal = Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next());
  return Math.max(1, Math.round(mean * Math.exp(sigma * normal - (sigma * sigma) / 2)));
}

/**
 * Draws lengths that go together as those of requests seen, stretched so that their means are those of `traffic`. `weight`: how often a sample is drawn, for
 * example its output length for those that run just now, of which long ones are more.
 */
export function lengthsLike(samples: RequestSamples, traffic: SteadyTraffic, random: Random, weight: (sample: number) => number = () => 1): () => Lengths {
  const count = samples.promptTokens.length;
  const mean = (column: (i: number) => number): number => {
    let sum = 0;
    for (let i = 0; i < count; i++) sum += column(i);
    return sum / count;
  };
  const uncached = (i: number): number => samples.promptTokens[i] - samples.cachedTokens[i];
  const stretch = (wanted: number, seen: number): number => (seen > 0 ? wanted / seen : 1);
  const prompts = stretch(traffic.promptTokens, mean((i) => samples.promptTokens[i]));
  const computed = stretch(traffic.promptTokens * (1 - traffic.hitRate), mean(uncached));
  const outputs = stretch(traffic.outputTokens, mean((i) => samples.outputTokens[i]));
  const upTo = new Float64Array(count);
  for (let i = 0, sum = 0; i < count; i++) upTo[i] = sum += weight(i);
  return () => {
    const at = random.next() * upTo[count - 1];
    let [low, high] = [0, count - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (upTo[middle] > at) high = middle;
      else low = middle + 1;
    }
    const promptTokens = Math.max(1, Math.round(samples.promptTokens[low] * prompts));
    const toCompute = Math.min(promptTokens, Math.max(1, Math.round(uncached(low) * computed)));
    return { promptTokens, cachedTokens: promptTokens - toCompute, outputTokens: Math.max(1, Math.round(samples.outputTokens[low] * outputs)) };
  };
}

/** Poisson arrivals of such requests until `untilMs`. */
export function* arrivalsLike(samples: RequestSamples, traffic: SteadyTraffic, untilMs: number, random: Random): Generator<Arrival> {
  if (!(traffic.requestsPerSecond > 0)) return;
  const next = lengthsLike(samples, traffic, random.fork('lengths'));
  for (let atMs = 0; ; ) {
    atMs += (-Math.log(1 - random.next()) / traffic.requestsPerSecond) * 1000;
    if (atMs >= untilMs) return;
    yield { atMs, ...next() };
  }
}
