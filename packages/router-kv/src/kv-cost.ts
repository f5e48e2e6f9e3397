// @hot
import type { Candidates, RoutingRequest } from '@armature/contracts';
import type { OverlapColumns } from './block-sets.ts';
import type { KvPolicyConfig } from './config.ts';

/** Load facts the cost needs, by worker slot. */
export interface LoadColumns {
  /** Blocks in use on a worker. */
  blocks(slot: number): number;
}

/** Names of the terms, in the order of the rows of `CostTerms`. */
export const TERM_NAMES = [
  'requestBlocks',
  'rawPrefillBlocks',
  'overlapBlocks',
  'deviceBlocks',
  'hostBlocks',
  'diskBlocks',
  'objectBlocks',
  'overlapDecay',
  'creditBlocks',
  'adjustedPrefillBlocks',
  'decodeBlocks',
  'activeRequests',
  'cost',
] as const;
const TERMS = TERM_NAMES.length;

/** The terms of the last score, `TERM_NAMES.length` per candidate. */
export class CostTerms {
  #rows = new Float64Array(TERMS * 64);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** Room for `count` candidates. */
  begin(count: number): Float64Array {
    if (count * TERMS > this.#rows.length) this.#rows = new Float64Array(count * TERMS * 2);
    this.#count = count;
    return this.#rows;
  }

  explain(index: number): Record<string, number> {
    const terms: Record<string, number> = {};
    if (index < 0 || index >= this.#count) return terms;
    for (let t = 0; t < TERMS; t++) terms[TERM_NAMES[t]] = this.#rows[index * TERMS + t];
    return terms;
  }
}

/** What `scoreCandidates` reads: the KV each worker holds, the KV already in use that the request would share, the load. */
export interface CostInputs {
  readonly overlap: OverlapColumns;
  readonly shared: OverlapColumns;
  readonly load: LoadColumns;
  /** Blocks the request would occupy on an idle worker. */
  readonly requestBlocks: number;
}

/**
 * Dynamo 1.6.1's cost (kv-router, selector/reference), in blocks; added to `costs`. Prefill tokens count on every hop but
 * decode, decode blocks on every hop but prefill. A decode hop with credit takes it off its decode blocks.
 */
export function scoreCandidates(request: RoutingRequest, candidates: Candidates, costs: Float64Array, config: KvPolicyConfig, inputs: CostInputs, terms: CostTerms): void {
  const { count, slots, activePrefillTokens } = candidates;
  const { overlap, shared, requestBlocks } = inputs;
  const rows = terms.begin(count);
  const isDecode = request.hop === 'decode';
  const tracksBlocks = request.hop !== 'prefill';
  const credits = request.creditsOverlap;
  const credit = Number.isNaN(request.overlapCredit) ? config.overlapCredit : request.overlapCredit;
  const promptBlocks = Math.ceil(request.promptTokens / request.blockSize);
  const decays = config.overlapDecay > 0 && !isDecode;
  let leastPrefill = Number.POSITIVE_INFINITY;
  if (decays) for (let i = 0; i < count; i++) leastPrefill = Math.min(leastPrefill, activePrefillTokens[i]);

  for (let i = 0; i < count; i++) {
    // `| 0`: a slot that never joined lies outside the columns and holds nothing.
    const slot = slots[i];
    const total = overlap.total[slot] | 0;
    const host = overlap.host[slot] | 0;
    const disk = overlap.disk[slot] | 0;
    const object = overlap.object[slot] | 0;
    const device = total - host - disk - object;
    candidates.overlapBlocks[i] = total;
    const rawPrefill = isDecode ? 0 : (activePrefillTokens[i] + request.promptTokens) / request.blockSize;
    const decay = decays ? 1 / (1 + (config.overlapDecay * ((activePrefillTokens[i] - leastPrefill) / request.blockSize)) / Math.max(1, promptBlocks)) : 1;
    const creditBlocks = credits ? credit * decay * device + config.hostCredit * host + config.diskCredit * disk + config.objectCredit * object : 0;
    const adjusted = isDecode ? 0 : Math.max(0, rawPrefill - creditBlocks);
    const decode = tracksBlocks ? inputs.load.blocks(slot) + requestBlocks - (isDecode && !credits ? 0 : shared.total[slot] | 0) : 0;
    const placed = isDecode && credits && credit > 0 ? Math.max(0, decode - creditBlocks) : config.prefillLoadScale * adjusted + decode;
    const cost = placed + config.activeRequestWeight * candidates.activeRequests[i];
    costs[i] += cost;
    const at = i * TERMS;
    rows[at] = requestBlocks;
    rows[at + 1] = rawPrefill;
    rows[at + 2] = total;
    rows[at + 3] = device;
    rows[at + 4] = host;
    rows[at + 5] = disk;
    rows[at + 6] = object;
    rows[at + 7] = decay;
    rows[at + 8] = creditBlocks;
    rows[at + 9] = adjusted;
    rows[at + 10] = decode;
    rows[at + 11] = candidates.activeRequests[i];
    rows[at + 12] = cost;
  }
}
