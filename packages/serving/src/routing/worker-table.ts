// @hot
import type { Candidates, ResponseFormat, WorkerRecord, WorkerRole } from '@armature/contracts';
import { newCandidateColumns } from './candidate-columns.ts';
import type { CandidateColumns } from './candidate-columns.ts';
import { RoleMembers } from './role-members.ts';

const START_CAPACITY = 16;
const NO_TAINTS: readonly string[] = [];
const NOBODY: readonly string[] = [];
const NO_WISHES: CandidateWishes = {};

/** What a request asks of its worker; every router policy keeps it, because other workers are no candidates. */
export interface CandidateWishes {
  readonly only?: string | undefined;
  readonly dpRank?: number | undefined;
  /** The worker must carry them all. */
  readonly taints?: readonly string[] | undefined;
  /** The worker must have it. */
  readonly adapter?: string | undefined;
  /** The worker must be able to guide decoding to it. */
  readonly format?: ResponseFormat['type'] | undefined;
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
  readonly #roles: Readonly<Record<WorkerRole, RoleMembers>> = { both: new RoleMembers(), prefill: new RoleMembers(), decode: new RoleMembers() };
  /** Records come from other processes: one of a role that this version does not know gets nothing, as nobody asks for it. */
  readonly #strangers = new RoleMembers();
  /** Of a decision over a part of a role. */
  #selected: CandidateColumns = newCandidateColumns(START_CAPACITY);
  #leastModelTokens = Infinity;
  #costs = new Float64Array(START_CAPACITY);

  get size(): number {
    return this.#slots.size;
  }

  get costs(): Float64Array {
    return this.#costs;
  }

  /** A new worker's slot. */
  add(record: WorkerRecord): number {
    const free = this.#slots.size === this.#records.length ? -1 : this.#records.indexOf(undefined);
    const slot = free === -1 ? this.#records.length : free;
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
    this.#members(record.role).joined(slot, record);
    this.#leastModelTokens = Math.min(this.#leastModelTokens, record.maxModelTokens);
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
    const record = this.#records[slot];
    if (this.#inhibited[slot] === value || record === undefined) return;
    this.#inhibited[slot] = value;
    this.#inhibitedCount += isInhibited ? 1 : -1;
    if (isInhibited) this.#members(record.role).exclude(slot);
    else this.#members(record.role).admit(slot, record);
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
    const record = this.#records[slot]!;
    this.setInhibited(slot, false);
    this.#slots.delete(instanceId);
    this.#records[slot] = undefined;
    this.#members(record.role).left(slot);
    this.#leastModelTokens = this.records().reduce((least, { maxModelTokens }) => Math.min(least, maxModelTokens), Infinity);
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

  /** Some worker has it, whether or not it gets requests. */
  hasRole(role: WorkerRole): boolean {
    return this.#members(role).workers > 0;
  }

  /** Longest context that every worker takes; Infinity without one. */
  get leastModelTokens(): number {
    return this.#leastModelTokens;
  }

  activePrefillTokens(slot: number): number {
    return this.#activePrefillTokens[slot];
  }

  /** Fewest prompt tokens waiting on any worker of the role (that has the adapter); 0 without one. */
  leastPrefillTokens(role: WorkerRole, adapter?: string): number {
    const { slots, workers, count } = this.#members(role).columns;
    const tokens = this.#activePrefillTokens;
    let least = Infinity;
    for (let i = 0; i < count; i++) {
      const waiting = tokens[slots[i]];
      if (waiting < least && (adapter === undefined || hasAdapter(workers[i], adapter))) least = waiting;
    }
    return least === Infinity ? 0 : least;
  }

  /** Workers of the role (that have the adapter) that get requests. */
  count(role: WorkerRole, excluded: readonly string[] = NOBODY, adapter?: string): number {
    const { workers, count } = this.#members(role).columns;
    if (excluded.length === 0 && adapter === undefined) return count;
    let eligible = 0;
    for (let i = 0; i < count; i++) if (!excluded.includes(workers[i].instanceId) && (adapter === undefined || hasAdapter(workers[i], adapter))) eligible++;
    return eligible;
  }

  /** Fills shared candidate columns; valid until the next call. Read-only: those of a whole role are the table's own. */
  candidates(role: WorkerRole, excluded: readonly string[], wishes: CandidateWishes = NO_WISHES): Candidates {
    const { only, dpRank, taints = NO_TAINTS, adapter, format } = wishes;
    const members = this.#members(role).columns;
    const isWhole = excluded.length === 0 && only === undefined && dpRank === undefined && taints.length === 0 && adapter === undefined && format === undefined;
    const columns = isWhole ? members : this.#select(members, excluded, wishes);
    this.#fill(columns);
    return columns;
  }

  #members(role: WorkerRole): RoleMembers {
    return Object.hasOwn(this.#roles, role) ? this.#roles[role] : this.#strangers;
  }

  #select(members: CandidateColumns, excluded: readonly string[], { only, dpRank, taints = NO_TAINTS, adapter, format }: CandidateWishes): CandidateColumns {
    const columns = this.#selected;
    let count = 0;
    for (let i = 0; i < members.count; i++) {
      const record = members.workers[i];
      if (only !== undefined ? record.instanceId !== only : excluded.includes(record.instanceId)) continue;
      if (dpRank !== undefined && record.dpRank !== dpRank) continue;
      if (taints.length > 0 && !taints.every((taint) => record.taints.includes(taint))) continue;
      if (adapter !== undefined && !hasAdapter(record, adapter)) continue;
      if (format !== undefined && record.responseFormats?.includes(format) !== true) continue;
      columns.slots[count] = members.slots[i];
      columns.totalBlocks[count] = members.totalBlocks[i];
      columns.costPerHour[count] = members.costPerHour[i];
      columns.workers[count] = record;
      count++;
    }
    columns.count = count;
    columns.workers.length = count;
    return columns;
  }

  /** Loads of the candidates, and empty columns for what the policy knows. */
  #fill(columns: CandidateColumns): void {
    const { count, slots, activeRequests, activePrefillTokens, activeBlocks, degraded } = columns;
    const requests = this.#activeRequests;
    const prefillTokens = this.#activePrefillTokens;
    const blocks = this.#activeBlocks;
    const isDegraded = this.#degraded;
    for (let i = 0; i < count; i++) {
      const slot = slots[i];
      activeRequests[i] = requests[slot];
      activePrefillTokens[i] = prefillTokens[slot];
      activeBlocks[i] = blocks[slot];
      degraded[i] = isDegraded[slot];
    }
    columns.overlapBlocks.fill(0, 0, count);
    columns.hostBlocks.fill(0, 0, count);
    columns.diskBlocks.fill(0, 0, count);
    columns.objectBlocks.fill(0, 0, count);
    columns.decodeBlocks.fill(0, 0, count);
    columns.excessShare.fill(0, 0, count);
    this.#costs.fill(0, 0, count);
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
    this.#selected = newCandidateColumns(capacity);
    this.#costs = new Float64Array(capacity);
  }
}

function hasAdapter({ adapters }: WorkerRecord, adapter: string): boolean {
  return adapters !== undefined && adapters.includes(adapter);
}
