import type { Candidates, WorkerRecord, WorkerRole } from '@armature/contracts';
import { newCandidateColumns } from './candidate-columns.ts';
import type { CandidateColumns } from './candidate-columns.ts';

const START_CAPACITY = 16;
const NO_TAINTS: readonly string[] = [];
const NO_WISHES: CandidateWishes = {};

/** What a request asks of its worker; every router policy keeps it, because other workers are no candidates. */
export interface CandidateWishes {
  readonly only?: string | undefined;
  readonly dpRank?: number | undefined;
  /** The worker must carry them all. */
  readonly taints?: readonly string[] | undefined;
  /** The worker must have it. */
  readonly adapter?: string | undefined;
}

/** What one request is charged for on one worker, to be taken back exactly. */
export interface Charge {
  readonly slot: number;
  /** The worker's generation when charged: a charge of a worker that left is void. */
  readonly generation: number;
  prefillTokens: number;
  blocks: number;
}

/**
 * The live workers of one model as columns. A slot is a small number that names a worker towards the router policy;
 * slots of workers that left are reused. Loads are what this process sent and has not seen end.
 */
export class WorkerTable {
  #records: (WorkerRecord | undefined)[] = [];
  #generations: number[] = [];
  readonly #slots = new Map<string, number>();
  #activeRequests = new Int32Array(START_CAPACITY);
  #activePrefillTokens = new Float64Array(START_CAPACITY);
  #activeBlocks = new Float64Array(START_CAPACITY);
  readonly #numbers: number[] = [];
  #joined = 0;
  #degraded = new Uint8Array(START_CAPACITY);
  /** By slot: gets no new requests until a probe has been answered. */
  #inhibited = new Uint8Array(START_CAPACITY);
  #inhibitedCount = 0;
  #candidates: CandidateColumns = newCandidateColumns(START_CAPACITY);
  #costs = new Float64Array(START_CAPACITY);

  get size(): number {
    return this.#slots.size;
  }

  get costs(): Float64Array {
    return this.#costs;
  }

  /** A new worker's slot. */
  add(record: WorkerRecord): number {
    let slot = this.#records.findIndex((entry) => entry === undefined);
    if (slot === -1) slot = this.#records.length;
    if (slot >= this.#activeRequests.length) this.#grow();
    this.#records[slot] = record;
    this.#generations[slot] = (this.#generations[slot] ?? 0) + 1;
    this.#slots.set(record.instanceId, slot);
    this.#numbers[slot] = ++this.#joined;
    this.#degraded[slot] = 0;
    this.#inhibited[slot] = 0;
    this.#activeRequests[slot] = 0;
    this.#activePrefillTokens[slot] = 0;
    this.#activeBlocks[slot] = 0;
    return slot;
  }

  /** Number of the worker in each slot: counts joins, never reused. */
  get numbers(): readonly number[] {
    return this.#numbers;
  }

  /** What is known of the worker's cache may be out of date. */
  setDegraded(slot: number, isDegraded: boolean): void {
    this.#degraded[slot] = isDegraded ? 1 : 0;
  }

  /** It answers nobody: no candidate until this is taken back. */
  setInhibited(slot: number, isInhibited: boolean): void {
    const value = isInhibited ? 1 : 0;
    if (this.#inhibited[slot] === value || this.#records[slot] === undefined) return;
    this.#inhibited[slot] = value;
    this.#inhibitedCount += isInhibited ? 1 : -1;
  }

  isInhibited(slot: number): boolean {
    return this.#inhibited[slot] === 1;
  }

  get inhibitedWorkers(): number {
    return this.#inhibitedCount;
  }

  isDegraded(slot: number): boolean {
    return this.#degraded[slot] === 1;
  }

  remove(instanceId: string): number | undefined {
    const slot = this.#slots.get(instanceId);
    if (slot === undefined) return undefined;
    this.setInhibited(slot, false);
    this.#slots.delete(instanceId);
    this.#records[slot] = undefined;
    return slot;
  }

  slotOf(instanceId: string): number | undefined {
    return this.#slots.get(instanceId);
  }

  record(slot: number): WorkerRecord | undefined {
    return this.#records[slot];
  }

  records(): WorkerRecord[] {
    return this.#records.filter((entry) => entry !== undefined);
  }

  hasRole(role: WorkerRole): boolean {
    return this.#records.some((entry) => entry?.role === role);
  }

  activePrefillTokens(slot: number): number {
    return this.#activePrefillTokens[slot];
  }

  /** Fewest prompt tokens waiting on any worker of the role (that has the adapter); 0 without one. */
  leastPrefillTokens(role: WorkerRole, adapter?: string): number {
    let least = Infinity;
    this.#records.forEach((entry, slot) => {
      if (entry?.role === role && this.#inhibited[slot] === 0 && (adapter === undefined || hasAdapter(entry, adapter))) least = Math.min(least, this.#activePrefillTokens[slot]);
    });
    return least === Infinity ? 0 : least;
  }

  /** Workers of the role (that have the adapter). */
  count(role: WorkerRole, excluded: readonly string[] = [], adapter?: string): number {
    let count = 0;
    for (let slot = 0; slot < this.#records.length; slot++) {
      const entry = this.#records[slot];
      if (entry?.role !== role || this.#inhibited[slot] === 1 || excluded.includes(entry.instanceId)) continue;
      if (adapter === undefined || hasAdapter(entry, adapter)) count++;
    }
    return count;
  }

  /** Fills the shared candidate columns; valid until the next call. */
  candidates(role: WorkerRole, excluded: readonly string[], { only, dpRank, taints = NO_TAINTS, adapter }: CandidateWishes = NO_WISHES): Candidates {
    const columns = this.#candidates;
    let count = 0;
    for (let slot = 0; slot < this.#records.length; slot++) {
      const record = this.#records[slot];
      if (record === undefined || record.role !== role || this.#inhibited[slot] === 1) continue;
      if (dpRank !== undefined && record.dpRank !== dpRank) continue;
      if (taints.length > 0 && !taints.every((taint) => record.taints.includes(taint))) continue;
      if (adapter !== undefined && !hasAdapter(record, adapter)) continue;
      if (only !== undefined ? record.instanceId !== only : excluded.includes(record.instanceId)) continue;
      columns.slots[count] = slot;
      columns.activeRequests[count] = this.#activeRequests[slot];
      columns.activePrefillTokens[count] = this.#activePrefillTokens[slot];
      columns.activeBlocks[count] = this.#activeBlocks[slot];
      columns.totalBlocks[count] = record.totalBlocks;
      columns.costPerHour[count] = record.costPerHour;
      columns.degraded[count] = this.#degraded[slot];
      columns.workers[count] = record;
      columns.overlapBlocks[count] = 0;
      columns.hostBlocks[count] = 0;
      columns.diskBlocks[count] = 0;
      columns.objectBlocks[count] = 0;
      columns.decodeBlocks[count] = 0;
      columns.excessShare[count] = 0;
      this.#costs[count] = 0;
      count++;
    }
    columns.count = count;
    columns.workers.length = count;
    return columns;
  }

  charge(slot: number, prefillTokens: number, blocks: number): Charge {
    this.#activeRequests[slot]++;
    this.#activePrefillTokens[slot] += prefillTokens;
    this.#activeBlocks[slot] += blocks;
    return { slot, generation: this.#generations[slot], prefillTokens, blocks };
  }

  /** The prompt is computed: its prefill charge ends. */
  prefilled(charge: Charge): void {
    if (!this.isLive(charge)) return;
    this.#activePrefillTokens[charge.slot] -= charge.prefillTokens;
    charge.prefillTokens = 0;
  }

  /** The output fills `blocks` more. */
  grow(charge: Charge, blocks: number): void {
    charge.blocks += blocks;
    if (this.isLive(charge)) this.#activeBlocks[charge.slot] += blocks;
  }

  discharge(charge: Charge): void {
    this.prefilled(charge);
    if (!this.isLive(charge)) return;
    this.#activeRequests[charge.slot]--;
    this.#activeBlocks[charge.slot] -= charge.blocks;
  }

  /** True while the charged worker has not left. */
  isLive(charge: Charge): boolean {
    return this.#records[charge.slot] !== undefined && this.#generations[charge.slot] === charge.generation;
  }

  load(slot: number): { readonly requests: number; readonly prefillTokens: number; readonly blocks: number } {
    return { requests: this.#activeRequests[slot], prefillTokens: this.#activePrefillTokens[slot], blocks: this.#activeBlocks[slot] };
  }

  #grow(): void {
    const capacity = this.#activeRequests.length * 2;
    const ints = new Int32Array(capacity);
    ints.set(this.#activeRequests);
    this.#activeRequests = ints;
    const tokens = new Float64Array(capacity);
    tokens.set(this.#activePrefillTokens);
    this.#activePrefillTokens = tokens;
    const blocks = new Float64Array(capacity);
    blocks.set(this.#activeBlocks);
    this.#activeBlocks = blocks;
    const degraded = new Uint8Array(capacity);
    degraded.set(this.#degraded);
    this.#degraded = degraded;
    const inhibited = new Uint8Array(capacity);
    inhibited.set(this.#inhibited);
    this.#inhibited = inhibited;
    this.#candidates = newCandidateColumns(capacity);
    this.#costs = new Float64Array(capacity);
  }
}

function hasAdapter({ adapters }: WorkerRecord, adapter: string): boolean {
  return adapters !== undefined && adapters.includes(adapter);
}
