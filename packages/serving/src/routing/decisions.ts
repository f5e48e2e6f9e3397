import type { Candidates, RouterPolicy, RoutingHop, RoutingRequest, WorkerRecord } from '@armature/contracts';
import { newCandidateColumns } from './candidate-columns.ts';
import type { CandidateColumns } from './candidate-columns.ts';
import type { CandidateRecord, DecisionRecord } from './records.ts';

/** Columns of a candidate's row in the ring. */
const FACTS = 15;
const CAPACITY_DOUBLES = 1 << 20;
const GONE_WORKERS = 4_096;
const NO_BYTES = new Uint8Array(0);
const NO_HOLDERS: readonly { readonly slot: number; readonly blocks: number }[] = [];

export interface DecisionRingOptions {
  /** False: nobody will ask for the candidates of a decision, and none are kept. */
  readonly keepsCandidates?: boolean;
  readonly capacityDoubles?: number;
}

/**
 * The facts behind the last decisions of one model, as rows of doubles in one ring of 8 MiB: recording copies numbers and makes one object per
 * decision, whatever the number of candidates. What is overwritten is gone: its decision then has no candidates.
 */
export class DecisionRing {
  readonly #policy: RouterPolicy;
  readonly #parts: readonly string[];
  readonly #width: number;
  readonly #capacity: number;
  readonly #keepsCandidates: boolean;
  /** Some worker lends KV: decisions are asked who holds what, whether or not they are kept. */
  #hasLenders: boolean;
  #rows: Float64Array | undefined;
  /** Doubles ever written; a row set at `offset` is alive while `offset + capacity >= head`. */
  #head: number;
  /** Workers by the number the host gave them at joining: those that live, and the last that left. */
  readonly #workers: Map<number, WorkerRecord>;
  readonly #gone: number[];

  constructor(policy: RouterPolicy, { keepsCandidates = true, capacityDoubles = CAPACITY_DOUBLES }: DecisionRingOptions = {}) {
    this.#policy = policy;
    this.#parts = policy.parts?.names ?? [];
    this.#width = FACTS + this.#parts.length;
    this.#capacity = capacityDoubles;
    this.#keepsCandidates = keepsCandidates;
    this.#hasLenders = false;
    this.#rows = undefined;
    this.#head = 0;
    this.#workers = new Map();
    this.#gone = [];
  }

  /** The worker behind `number`; its metadata for transfers is not kept. */
  joined(number: number, worker: WorkerRecord): void {
    if (worker.kvTiers !== undefined) this.#hasLenders = true;
    this.#workers.set(number, { ...worker, agentMetadata: NO_BYTES });
  }

  /** Kept a while for the decisions that name it. */
  left(number: number): void {
    if (this.#gone.push(number) > GONE_WORKERS) this.#workers.delete(this.#gone.shift()!);
  }

  record(request: RoutingRequest, candidates: Candidates, costs: Float64Array, chosen: DecisionFields): Decision {
    const { count } = candidates;
    const width = this.#width;
    const size = count * width;
    const hindsight = { cost: costs[chosen.index]!, overlapBlocks: candidates.overlapBlocks[chosen.index]!, bestOther: bestOther(costs, count, chosen.index) };
    if ((!this.#keepsCandidates && !this.#hasLenders) || size > this.#capacity) return new Decision(this, request, chosen, { offset: -1, count: 0, hindsight });
    this.#rows ??= new Float64Array(this.#capacity);
    // Row sets do not wrap: the rest of the ring is skipped when it is too short.
    const tail = this.#capacity - (this.#head % this.#capacity);
    if (tail < size) this.#head += tail;
    const offset = this.#head;
    this.#head += size;
    const rows = this.#rows;
    const parts = this.#policy.parts;
    let at = offset % this.#capacity;
    for (let i = 0; i < count; i++, at += width) {
      rows[at] = chosen.numbers[candidates.slots[i]]!;
      rows[at + 1] = costs[i]!;
      rows[at + 2] = candidates.activeRequests[i]!;
      rows[at + 3] = candidates.activePrefillTokens[i]!;
      rows[at + 4] = candidates.activeBlocks[i]!;
      rows[at + 5] = candidates.totalBlocks[i]!;
      rows[at + 6] = candidates.costPerHour[i]!;
      rows[at + 7] = candidates.degraded[i]!;
      rows[at + 8] = candidates.overlapBlocks[i]!;
      rows[at + 9] = candidates.hostBlocks[i]!;
      rows[at + 10] = candidates.diskBlocks[i]!;
      rows[at + 11] = candidates.objectBlocks[i]!;
      rows[at + 12] = candidates.decodeBlocks[i]!;
      rows[at + 13] = candidates.slots[i]!;
      rows[at + 14] = candidates.excessShare[i]!;
      if (parts !== undefined) for (let p = 0; p < this.#parts.length; p++) rows[at + FACTS + p] = parts.costs[i * this.#parts.length + p]!;
    }
    return new Decision(this, request, chosen, { offset, count, hindsight });
  }

  /** The candidates of a decision with the terms of their cost; empty when overwritten. */
  candidates(decision: Decision): CandidateRecord[] {
    const { offset, count } = decision;
    const rows = this.#rows;
    if (rows === undefined || count === 0 || offset < 0 || offset + this.#capacity < this.#head) return [];
    const columns = newCandidateColumns(count);
    columns.count = count;
    const records: CandidateRecord[] = [];
    for (let i = 0; i < count; i++) columns.workers[i] = this.#read(rows, (offset % this.#capacity) + i * this.#width, columns, i);
    for (let i = 0; i < count; i++) {
      const at = (offset % this.#capacity) + i * this.#width;
      records.push({
        worker: columns.workers[i]!.instanceId,
        cost: rows[at + 1]!,
        overlapBlocks: columns.overlapBlocks[i]!,
        hostBlocks: columns.hostBlocks[i]!,
        diskBlocks: columns.diskBlocks[i]!,
        objectBlocks: columns.objectBlocks[i]!,
        decodeBlocks: columns.decodeBlocks[i]!,
        excessShare: columns.excessShare[i]!,
        activeRequests: columns.activeRequests[i]!,
        activePrefillTokens: columns.activePrefillTokens[i]!,
        activeBlocks: columns.activeBlocks[i]!,
        totalBlocks: columns.totalBlocks[i]!,
        costPerHour: columns.costPerHour[i]!,
        degraded: columns.degraded[i] !== 0,
        taints: columns.workers[i]!.taints,
        parts: Object.fromEntries(this.#parts.map((name, p) => [name, rows[at + FACTS + p]!])),
        terms: this.#terms(decision, columns, i),
      });
    }
    return records;
  }

  /**
   * Slots of the candidates that hold more than `beyond` leading blocks, and how many each holds; a look at the facts, which allocates only for what it
   * finds. The slots are those of the time of the decision.
   */
  holders({ offset, count }: Decision, beyond: number): readonly { readonly slot: number; readonly blocks: number }[] {
    const rows = this.#rows;
    if (rows === undefined || offset < 0 || offset + this.#capacity < this.#head) return NO_HOLDERS;
    const first = offset % this.#capacity;
    let found: { slot: number; blocks: number }[] | undefined;
    for (let i = 0; i < count; i++) {
      const at = first + i * this.#width;
      if (rows[at + 8]! > beyond) (found ??= []).push({ slot: rows[at + 13]!, blocks: rows[at + 8]! });
    }
    return found ?? NO_HOLDERS;
  }

  #read(rows: Float64Array, at: number, columns: CandidateColumns, i: number): WorkerRecord {
    columns.activeRequests[i] = rows[at + 2]!;
    columns.activePrefillTokens[i] = rows[at + 3]!;
    columns.activeBlocks[i] = rows[at + 4]!;
    columns.totalBlocks[i] = rows[at + 5]!;
    columns.costPerHour[i] = rows[at + 6]!;
    columns.degraded[i] = rows[at + 7]!;
    columns.overlapBlocks[i] = rows[at + 8]!;
    columns.hostBlocks[i] = rows[at + 9]!;
    columns.diskBlocks[i] = rows[at + 10]!;
    columns.objectBlocks[i] = rows[at + 11]!;
    columns.decodeBlocks[i] = rows[at + 12]!;
    columns.slots[i] = rows[at + 13]!;
    columns.excessShare[i] = rows[at + 14]!;
    return this.#workers.get(rows[at]!) ?? ({ instanceId: `worker ${rows[at]} (gone)`, taints: [] as readonly string[] } as WorkerRecord);
  }

  #terms(decision: Decision, columns: CandidateColumns, i: number): Readonly<Record<string, number>> {
    try {
      return this.#policy.explain?.(decision.request, columns, i) ?? {};
    } catch {
      return {};
    }
  }
}

/** What the router says of a decision beside the facts. */
export interface DecisionFields {
  readonly policy: string;
  readonly chosen: string;
  /** Row of the chosen candidate. */
  readonly index: number;
  readonly atMs: number;
  readonly policyError: string | undefined;
  /** Number of the worker in each slot. */
  readonly numbers: readonly number[];
}

/** What regret is counted from. */
interface Hindsight {
  /** Of the chosen candidate. */
  readonly cost: number;
  readonly overlapBlocks: number;
  /** Lowest cost of the others; Infinity without any. */
  readonly bestOther: number;
}

interface KeptFacts {
  /** Where the candidates lie in the ring; -1 = they are not kept. */
  readonly offset: number;
  readonly count: number;
  readonly hindsight: Hindsight;
}

function bestOther(costs: Float64Array, count: number, chosen: number): number {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < chosen; i++) best = Math.min(best, costs[i]!);
  for (let i = chosen + 1; i < count; i++) best = Math.min(best, costs[i]!);
  return best;
}

const NO_HASHES = new Int32Array(0);

/** One decision; its candidates are read from the ring when somebody asks. */
export class Decision implements DecisionRecord {
  readonly hop: RoutingHop;
  readonly policy: string;
  readonly atMs: number;
  readonly chosen: string;
  readonly index: number;
  readonly policyError: string | undefined;
  readonly request: RoutingRequest;
  readonly offset: number;
  readonly count: number;
  /** Prompt tokens whose KV the engine did not compute; undefined until it has said so. */
  actualCachedTokens: number | undefined;
  /** See `settle`. */
  regretBlocks: number | undefined;
  readonly #ring: DecisionRing;
  readonly #hindsight: Hindsight;

  constructor(ring: DecisionRing, request: RoutingRequest, fields: DecisionFields, { offset, count, hindsight }: KeptFacts) {
    this.#ring = ring;
    this.hop = request.hop;
    this.policy = fields.policy;
    this.atMs = fields.atMs;
    this.chosen = fields.chosen;
    this.index = fields.index;
    this.policyError = fields.policyError;
    this.request = { ...request, sequenceHashes: NO_HASHES };
    this.offset = offset;
    this.count = count;
    this.#hindsight = hindsight;
    this.actualCachedTokens = undefined;
    this.regretBlocks = undefined;
  }

  get blocks(): number {
    return this.request.blocks;
  }

  get candidates(): readonly CandidateRecord[] {
    return this.#ring.candidates(this);
  }

  /** See `DecisionRing.holders`. */
  holders(beyond: number): readonly { readonly slot: number; readonly blocks: number }[] {
    return this.#ring.holders(this, beyond);
  }

  /**
   * The engine has said how many prompt tokens it had. Regret, in blocks: what the chosen worker cost after all (each block that was expected
   * and not there is one block of prefill more) less the lowest cost among the others; 0 when it was still the best.
   */
  settle(cachedTokens: number): void {
    this.actualCachedTokens = cachedTokens;
    const { cost, overlapBlocks, bestOther } = this.#hindsight;
    if (!Number.isFinite(cost)) return;
    // An engine computes at least one token itself: a prompt of whole blocks that is all there counts as all there.
    const actual = cachedTokens >= this.request.promptTokens - 1 ? this.request.blocks : Math.floor(cachedTokens / this.request.blockSize);
    this.regretBlocks = Number.isFinite(bestOther) ? Math.max(0, cost + Math.max(0, overlapBlocks - actual) - bestOther) : 0;
  }

  toJSON(): Readonly<Record<string, unknown>> {
    const { id, promptTokens, blocks, blockSize, hop: _hop, sequenceHashes: _hashes, ...wishes } = this.request;
    return {
      id,
      hop: this.hop,
      policy: this.policy,
      atMs: this.atMs,
      chosen: this.chosen,
      promptTokens,
      blocks,
      blockSize,
      request: Object.fromEntries(Object.entries(wishes).filter(([, value]) => value !== undefined && !Number.isNaN(value))),
      policyError: this.policyError,
      actualCachedTokens: this.actualCachedTokens,
      regretBlocks: this.regretBlocks,
      candidates: this.candidates,
    };
  }
}
