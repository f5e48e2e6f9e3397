// @hot
import type { Candidates, RouterScorer, RoutingRequest } from '@armature/contracts';

/** Weights of the cost; names and defaults follow Dynamo 1.6.1 where it has them. */
export interface KvCostWeights {
  readonly overlapCredit: number;
  readonly overlapDecay: number;
  readonly prefillLoadScale: number;
  readonly activeRequestWeight: number;
  readonly hostCredit: number;
  readonly diskCredit: number;
  readonly objectCredit: number;
}

export const kvCostDefaults: KvCostWeights = Object.freeze({
  overlapCredit: 1,
  overlapDecay: 0,
  prefillLoadScale: 1,
  activeRequestWeight: 0,
  hostCredit: 0.75,
  diskCredit: 0.25,
  objectCredit: 0,
});

/** Names of the terms, in the order of a row. */
const TERM_NAMES = ['requestBlocks', 'rawPrefillBlocks', 'overlapBlocks', 'deviceBlocks', 'hostBlocks', 'diskBlocks', 'objectBlocks', 'overlapDecay', 'creditBlocks', 'adjustedPrefillBlocks', 'decodeBlocks', 'activeRequests', 'cost'] as const;
const TERMS = TERM_NAMES.length;

/**
 * Dynamo 1.6.1's cost (dynamo-kv-router, selector/reference), in blocks: prefill that is waiting on the worker plus this prompt less credit for
 * what the worker holds, plus KV blocks in use there. Prefill counts on every hop but decode, decode blocks on every hop but prefill. A decode hop
 * with credit takes it off its decode blocks.
 */
export class KvCostScorer implements RouterScorer {
  readonly name = 'kv-cost';
  readonly #weights: KvCostWeights;
  readonly #terms: Float64Array;

  constructor(weights: KvCostWeights) {
    this.#weights = weights;
    this.#terms = new Float64Array(TERMS);
  }

  score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    const least = this.#leastPrefill(request, candidates);
    for (let i = 0; i < candidates.count; i++) costs[i] += this.#cost(request, candidates, i, least);
  }

  explain(request: RoutingRequest, candidates: Candidates, index: number): Record<string, number> {
    this.#cost(request, candidates, index, this.#leastPrefill(request, candidates));
    const terms: Record<string, number> = {};
    for (let t = 0; t < TERMS; t++) terms[TERM_NAMES[t]] = this.#terms[t];
    return terms;
  }

  /** Least queued prefill of any candidate; only asked for when the credit decays. */
  #leastPrefill(request: RoutingRequest, candidates: Candidates): number {
    if (!(this.#weights.overlapDecay > 0) || !tracksPrefill(request)) return 0;
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < candidates.count; i++) least = Math.min(least, candidates.activePrefillTokens[i]);
    return least;
  }

  #cost(request: RoutingRequest, candidates: Candidates, i: number, leastPrefill: number): number {
    const weights = this.#weights;
    const terms = this.#terms;
    const { blockSize, promptTokens } = request;
    const tracks = tracksPrefill(request);
    const promptBlocks = Math.ceil(promptTokens / blockSize);
    const credit = request.creditsOverlap ? override(request.overlapCredit, weights.overlapCredit) : 0;
    const host = candidates.hostBlocks[i];
    const disk = candidates.diskBlocks[i];
    const object = candidates.objectBlocks[i];
    const device = candidates.overlapBlocks[i] - host - disk - object;
    const queued = candidates.activePrefillTokens[i];
    const raw = tracks ? (queued + promptTokens) / blockSize : 0;
    const decay = weights.overlapDecay > 0 && tracks ? 1 / (1 + (weights.overlapDecay * ((queued - leastPrefill) / blockSize)) / Math.max(1, promptBlocks)) : 1;
    const lower = weights.hostCredit * host + weights.diskCredit * disk + override(request.sharedCacheMultiplier, weights.objectCredit) * object;
    const creditBlocks = request.creditsOverlap ? credit * decay * device + lower : 0;
    const adjusted = tracks ? Math.max(0, raw - creditBlocks) : 0;
    const decode = candidates.decodeBlocks[i];
    const creditsDecode = request.hop === 'decode' && !tracks && credit > 0;
    const placed = creditsDecode ? Math.max(0, decode - creditBlocks) : override(request.prefillLoadScale, weights.prefillLoadScale) * adjusted + decode;
    const cost = placed + weights.activeRequestWeight * candidates.activeRequests[i];
    terms[0] = promptBlocks;
    terms[1] = raw;
    terms[2] = candidates.overlapBlocks[i];
    terms[3] = device;
    terms[4] = host;
    terms[5] = disk;
    terms[6] = object;
    terms[7] = decay;
    terms[8] = creditBlocks;
    terms[9] = adjusted;
    terms[10] = decode;
    terms[11] = candidates.activeRequests[i];
    terms[12] = cost;
    return cost;
  }
}

/** A decode hop has its prompt computed elsewhere. */
function tracksPrefill(request: RoutingRequest): boolean {
  return request.trackPrefillTokens ?? request.hop !== 'decode';
}

function override(value: number, otherwise: number): number {
  return value === value ? value : otherwise; // NaN = none
}
