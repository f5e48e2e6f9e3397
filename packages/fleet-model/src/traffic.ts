import type { Random } from '@armature/contracts';

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

/** Shares of the mean by which lengths vary. */
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
      const promptTokens = length(phase.promptTokens, random);
      yield { atMs, promptTokens, cachedTokens: Math.floor(promptTokens * phase.hitRate), outputTokens: length(phase.outputTokens, random) };
    }
  }
}

function length(mean: number, random: Random): number {
  const normal = Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next());
  return Math.max(1, Math.round(mean * Math.exp(LENGTH_SIGMA * normal - (LENGTH_SIGMA * LENGTH_SIGMA) / 2)));
}
