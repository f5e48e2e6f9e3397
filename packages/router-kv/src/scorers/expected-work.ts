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
    this.#walk(request, candidates, { first: 0, end: candidates.count, costs, terms: undefined });
  }

  explain(request: RoutingRequest, candidates: Candidates, index: number): Record<string, number> {
    const values = this.#terms;
    this.#walk(request, candidates, { first: index, end: index + 1, costs: undefined, terms: values });
    const terms: Record<string, number> = {};
    for (let t = 0; t < TERMS; t++) terms[TERM_NAMES[t]] = values[t];
    return terms;
  }

  /** Adds the costs of some rows, or writes the terms of the last of them. What is the same for all rows is computed once. */
  #walk(request: RoutingRequest, candidates: Candidates, { first, end, costs, terms }: Walk): void {
    const { missWeight, hostCredit, diskCredit, shareTolerance, utilisationWeight, overlapCredit, objectCredit } = this.#weights;
    const { blockSize, creditsOverlap } = request;
    const { overlapBlocks, hostBlocks, diskBlocks, objectBlocks, excessShare, activePrefillTokens, decodeBlocks, totalBlocks } = candidates;
    const tracksPrefill = request.trackPrefillTokens ?? request.hop !== 'decode';
    // Without prefill the prompt is moved, not computed: a block that is there already still saves its move.
    const countsMisses = tracksPrefill || creditsOverlap;
    const prompt = request.promptTokens / blockSize;
    const deviceCredit = override(request.overlapCredit, overlapCredit);
    const sharedCredit = override(request.sharedCacheMultiplier, objectCredit);
    const prefillScale = override(request.prefillLoadScale, 1);
    for (let i = first; i < end; i++) {
      const host = hostBlocks[i];
      const disk = diskBlocks[i];
      const object = objectBlocks[i];
      const device = overlapBlocks[i] - host - disk - object;
      const lower = hostCredit * host + diskCredit * disk + sharedCredit * object;
      const held = creditsOverlap ? deviceCredit * device + lower : 0;
      const excess = excessShare[i];
      const kept = creditShare(excess, shareTolerance);
      const queued = tracksPrefill ? activePrefillTokens[i] / blockSize : 0;
      const deficit = shareTolerance > 0 && excess < 0 ? -excess : 0;
      const starved = prompt * deficit * deficit;
      const missed = countsMisses ? missWeight * Math.max(0, prompt - Math.max(kept * held, starved)) : 0;
      const decode = decodeBlocks[i];
      const total = totalBlocks[i];
      const utilisation = total > 0 ? decode / total : 0;
      const beyond = total > 0 ? Math.max(0, decode - total) : 0;
      const placed = prefillScale * (queued + missed) + utilisationWeight * prompt * utilisation;
      const cost = placed + beyond + TIE_BLOCKS * excess;
      if (costs !== undefined) costs[i] += cost;
      if (terms === undefined) continue;
      terms[0] = queued;
      terms[1] = held;
      terms[2] = kept;
      terms[3] = starved;
      terms[4] = missed;
      terms[5] = utilisation;
      terms[6] = decode;
      terms[7] = excess;
      terms[8] = cost;
    }
  }
}

interface Walk {
  readonly first: number;
  readonly end: number;
  readonly costs: Float64Array | undefined;
  readonly terms: Float64Array | undefined;
}

function creditShare(excess: number, tolerance: number): number {
  if (!(tolerance > 0) || excess <= 0) return 1;
  const ratio = excess / tolerance;
  return ratio >= 1 ? 0 : 1 - ratio * ratio;
}

function override(value: number, otherwise: number): number {
  return value === value ? value : otherwise; // NaN = none
}
