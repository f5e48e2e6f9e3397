import type { Objective, Random } from '@armature/contracts';
import { arrivals, decodeRate, polynomialTiming, prefillRate, shiftPhases } from '@armature/fleet-model';
import type { Arrival, TrafficPhase } from '@armature/fleet-model';
import type { TimingPrior } from '../policies/timing-book.ts';
import type { GroundOptions, GroundPool } from './fleet-ground.ts';

/** Facts of a fleet of one prefill and one decode pool of equal workers. Times in milliseconds, rates per second, lengths in tokens. */
export interface Scenario {
  /** Of the quiet phases; busy ones have three times as much. */
  readonly requestsPerSecond: number;
  readonly longTokens: number;
  readonly shortTokens: number;
  readonly hitRate: number;
  /** Divides all times of the workers. */
  readonly speed: number;
  readonly startupMs: number;
  readonly roleChange: 'live' | 'none';
  readonly ttftMs: number;
  readonly itlMs: number;
  readonly durationMs: number;
  /** Undefined: shifts. Otherwise steady traffic whose lengths have this standard deviation of their logarithm, prompts long and answers short. */
  readonly steadySigma?: number;
}

const [KV_TOKENS, MAX_REPLICAS, TICK_MS] = [262_144, 24, 15_000];
/** Of Dynamo's mocker: the shape of its prefill and decode times. */
const [PREFILL, DECODE] = [[0, 0.08, 10], [-25.74, 54.01, 5.74]] as const;

/** Of the scenarios drawn: an agent shall learn to sit still too. */
const STEADY_SHARE = 0.35;

/** The generator of the planner's claims: load × 3, input and output lengths exchanged, every 10 to 20 minutes for two hours. */
export const shiftScenario: Scenario = {
  requestsPerSecond: 3,
  longTokens: 3_000,
  shortTokens: 200,
  hitRate: 0.2,
  speed: 1,
  startupMs: 30_000,
  roleChange: 'live',
  ttftMs: 1_000,
  itlMs: 30,
  durationMs: 7_200_000,
};

/** A fleet and traffic near `shiftScenario`, never the same: what an agent trains on, so that it does not learn one fleet by heart. */
export function drawScenario(random: Random, durationMs: number): Scenario {
  const between = (low: number, high: number): number => low * (high / low) ** random.next();
  const speed = between(0.7, 1.5);
  return {
    requestsPerSecond: between(1.5, 5),
    longTokens: between(1_500, 4_000),
    shortTokens: between(100, 400),
    hitRate: 0.5 * random.next(),
    speed,
    startupMs: between(15_000, 90_000),
    roleChange: random.next() < 0.7 ? 'live' : 'none',
    ttftMs: between(700, 2_500),
    itlMs: between(20, 45) / speed,
    durationMs,
    ...(random.next() < STEADY_SHARE ? { steadySigma: between(0.3, 1.2), requestsPerSecond: between(4, 16) } : {}),
  };
}

/** What the planner is told of the workers before they have run: right within a fifth. */
export function priorOf({ speed }: Scenario): TimingPrior {
  return {
    prefillMsPerToken: PREFILL[1] / speed,
    prefillMs: PREFILL[2] / speed,
    decodeMsPerSequence: 0.02 / speed,
    decodeMsPerContextToken: (0.8 * DECODE[1]) / KV_TOKENS / speed,
    decodeMs: DECODE[2] / speed,
    maxSequences: 256,
    maxBatchedTokens: 8_192,
    kvTokens: KV_TOKENS,
  };
}

function phasesOf(scenario: Scenario, random: Random): TrafficPhase[] {
  const { steadySigma, durationMs, requestsPerSecond, longTokens, shortTokens, hitRate } = scenario;
  if (steadySigma === undefined) return shiftPhases(scenario, random);
  return [{ untilMs: durationMs, requestsPerSecond, promptTokens: longTokens, outputTokens: shortTokens, hitRate, lengthSigma: steadySigma }];
}

/** Half of what a GPU serves in an hour when all are busy all the time: latencies count for more than cost, and cost counts. */
function worthOf(scenario: Scenario): number {
  const { longTokens, shortTokens, hitRate, speed, itlMs } = scenario;
  const worker = { timing: polynomialTiming({ prefill: PREFILL, decode: DECODE, kvTokens: KV_TOKENS, speedup: speed }), maxSequences: 256, maxBatchedTokens: 8_192, kvTokens: KV_TOKENS };
  const mean = (longTokens + shortTokens) / 2;
  const traffic = { requestsPerSecond: 1, promptTokens: mean, outputTokens: mean, hitRate };
  return 1_800 / (1 / prefillRate(worker, traffic) + 1 / decodeRate(worker, traffic, itlMs));
}

/** `requests`: traffic of another kind than the scenario's shifts. */
export function groundOf(scenario: Scenario, replicas: { readonly prefill: number; readonly decode: number }, requests?: (random: Random) => Iterable<Arrival>): GroundOptions {
  const timing = polynomialTiming({ prefill: PREFILL, decode: DECODE, kvTokens: KV_TOKENS, speedup: scenario.speed });
  const pool = (role: 'prefill' | 'decode'): GroundPool => ({
    pool: role,
    role,
    hardware: 'default',
    gpusPerWorker: 1,
    costPerHour: 1,
    roleChange: scenario.roleChange,
    minReplicas: 1,
    maxReplicas: MAX_REPLICAS,
    startupMs: scenario.startupMs,
    timing,
    capacity: { maxSequences: 256, maxBatchedTokens: 8_192, kvTokens: KV_TOKENS },
    replicas: replicas[role],
  });
  const objective: Objective = { goal: 'cost', ttftMs: scenario.ttftMs, itlMs: scenario.itlMs, quantile: 0.95, maxGpus: undefined, maxCostPerHour: undefined };
  return {
    pools: [pool('prefill'), pool('decode')],
    objective,
    tickMs: TICK_MS,
    durationMs: scenario.durationMs,
    transferMs: 2,
    transferMsPerToken: 0.005,
    drainMs: 180_000,
    roleChangeMs: 1_000,
    requestsPerUnit: worthOf(scenario),
    requests: requests ?? ((random) => arrivals(phasesOf(scenario, random.fork('phases')), random.fork('arrivals'))),
  };
}
