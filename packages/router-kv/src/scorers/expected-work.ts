// @hot
import type { Candidates, RouterScorer, RoutingRequest } from '@armature/contracts';

/** Weights of the cost. Its unit is one block of prefill. */
export interface ExpectedWorkWeights {
  /** What a prompt block costs that the worker does not hold: its own prefill, and the cached block it evicts, which somebody will miss. */
  readonly missWeight: number;
  /** Share of a miss that a held block saves, by tier. */
  readonly overlapCredit: number;
  readonly hostCredit: number;
  readonly diskCredit: number;
  readonly objectCredit: number;
  /** A worker that got this much more than its share of the latest requests gets no credit for what it holds (0.15 = 15 %). 0 = no such limit. */
  readonly shareTolerance: number;
  /** Weight of KV utilisation: 1 = on a worker whose KV is full every prompt block costs one more. */
  readonly utilisationWeight: number;
}

export const expectedWorkDefaults: ExpectedWorkWeights = Object.freeze({
  missWeight: 2,
  overlapCredit: 1,
  hostCredit: 0.75,
  diskCredit: 0.25,
  objectCredit: 0,
  shareTolerance: 0.15,
  utilisationWeight: 1,
});

/** Between equals the worker with the least recent requests. Prompts of a few tokens, which cost nothing anywhere, even the shares out. */
const TIE_BLOCKS = 0.01;

const TERM_NAMES = ['queuedBlocks', 'heldBlocks', 'creditShare', 'starvedBlocks', 'missBlocks', 'utilisation', 'decodeBlocks', 'excessShare', 'cost'] as const;
const TERMS = TERM_NAMES.length;

/**
 * What placing a request on a worker adds to everybody's work, in blocks of prefill:
 *
 *     queued prefill + missWeight · (prompt − credit) + utilisationWeight · prompt · KV utilisation + blocks beyond the KV memory
 *
 * The credit fades to nothing, 1 − (excess / tolerance)², while a worker's share of the latest requests rises above the mean: affinity then gives
 * way to load, so that neither a hot prefix nor a lucky first worker draws everything. A worker far below its share is credited with prompt ·
 * deficit², as if it held so much: one that gets nothing at all is as good as one that holds everything, so nobody starves behind a warm pool
 * whose every member is within its tolerance. Measured in docs/routing-quality.md.
 */
export class ExpectedWorkScorer implements RouterScorer {
  readonly name = 'expected-work';
  readonly #weights: ExpectedWorkWeights;
  readonly #terms: Float64Array;

  constructor(weights: ExpectedWorkWeights) {
    this.#weights = weights;
    this.#terms = new Float64Array(TERMS);
  }

  score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    for (let i = 0; i < candidates.count; i++) costs[i] += this.#cost(request, candidates, i);
  }

  explain(request: RoutingRequest, candidates: Candidates, index: number): Record<string, number> {
    this.#cost(request, candidates, index);
    const terms: Record<string, number> = {};
    for (let t = 0; t < TERMS; t++) terms[TERM_NAMES[t]] = this.#terms[t];
    return terms;
  }

  #cost(request: RoutingRequest, candidates: Candidates, i: number): number {
    const weights = this.#weights;
    const terms = this.#terms;
    const { blockSize, promptTokens } = request;
    const tracksPrefill = request.trackPrefillTokens ?? request.hop !== 'decode';
    const prompt = promptTokens / blockSize;
    const host = candidates.hostBlocks[i];
    const disk = candidates.diskBlocks[i];
    const object = candidates.objectBlocks[i];
    const device = candidates.overlapBlocks[i] - host - disk - object;
    const credit = override(request.overlapCredit, weights.overlapCredit);
    const lower = weights.hostCredit * host + weights.diskCredit * disk + override(request.sharedCacheMultiplier, weights.objectCredit) * object;
    const held = request.creditsOverlap ? credit * device + lower : 0;
    const excess = candidates.excessShare[i];
    const kept = creditShare(excess, weights.shareTolerance);
    const queued = tracksPrefill ? candidates.activePrefillTokens[i] / blockSize : 0;
    // Without prefill the prompt is moved, not computed: a block that is there already still saves its move.
    const deficit = weights.shareTolerance > 0 && excess < 0 ? -excess : 0;
    const starved = prompt * deficit * deficit;
    const missed = tracksPrefill || request.creditsOverlap ? weights.missWeight * Math.max(0, prompt - Math.max(kept * held, starved)) : 0;
    const decode = candidates.decodeBlocks[i];
    const total = candidates.totalBlocks[i];
    const utilisation = total > 0 ? decode / total : 0;
    const beyond = total > 0 ? Math.max(0, decode - total) : 0;
    const placed = override(request.prefillLoadScale, 1) * (queued + missed) + weights.utilisationWeight * prompt * utilisation;
    const cost = placed + beyond + TIE_BLOCKS * excess;
    terms[0] = queued;
    terms[1] = held;
    terms[2] = kept;
    terms[3] = starved;
    terms[4] = missed;
    terms[5] = utilisation;
    terms[6] = decode;
    terms[7] = excess;
    terms[8] = cost;
    return cost;
  }
}

function creditShare(excess: number, tolerance: number): number {
  if (!(tolerance > 0) || excess <= 0) return 1;
  const ratio = excess / tolerance;
  return ratio >= 1 ? 0 : 1 - ratio * ratio;
}

function override(value: number, otherwise: number): number {
  return value === value ? value : otherwise; // NaN = none
}
