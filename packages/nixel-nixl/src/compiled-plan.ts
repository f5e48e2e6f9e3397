import { TransferStatus } from '@armature/contracts';
import type { DescriptorColumns, TransferPlan } from '@armature/contracts';
import type { NixlAgent, NixlHandle, NixlRows } from './binding.ts';
import type { NixlSegment } from './segments.ts';

/** How both sides of a plan are resolved. Called once per row of a plan's first use. */
export interface PlanSides {
  readonly agent: NixlAgent;
  readonly backend: NixlHandle;
  /** NIXL name of the peer. */
  readonly peer: string;
  /** Longest part: a part may be copied inside its post. */
  readonly splitBytes: number;
  local(segment: number): NixlSegment | TransferStatus;
  remote(segment: number): NixlSegment | TransferStatus;
}

/** Rows of one NIXL request. */
export interface PlanPart {
  readonly bytes: number;
  readonly rows: Int32Array;
  /** Requests that do not run now; one plan may run several times at once. */
  readonly idle: NixlHandle[];
}

interface Columns {
  count: number;
  readonly segments: NixlSegment[];
  readonly local: bigint[];
  readonly remote: bigint[];
  readonly localDevices: bigint[];
  readonly remoteDevices: bigint[];
  readonly lengths: number[];
}

/** A plan as NIXL knows it: both descriptor lists prepared, requests kept for the next post. */
export class CompiledPlan {
  readonly op: 'read' | 'write';
  readonly parts: readonly PlanPart[];
  /** Distinct segments, looked at again by every post. */
  readonly localSegments: readonly number[];
  readonly remoteSegments: readonly number[];
  readonly #sides: PlanSides;
  readonly #local: NixlHandle;
  readonly #remote: NixlHandle;
  #isReleased = false;

  constructor(plan: TransferPlan, sides: PlanSides, parts: readonly PlanPart[], lists: { readonly local: NixlHandle; readonly remote: NixlHandle }) {
    this.op = plan.op;
    this.parts = parts;
    this.localSegments = distinct(plan.local);
    this.remoteSegments = distinct(plan.remote);
    this.#sides = sides;
    this.#local = lists.local;
    this.#remote = lists.remote;
  }

  get isReleased(): boolean {
    return this.#isReleased;
  }

  /** A request for one part; 0n when NIXL makes none. */
  take(part: PlanPart): NixlHandle {
    const { agent, backend } = this.#sides;
    return part.idle.pop() ?? agent.request(backend, this.op, this.#local, part.rows, this.#remote, part.rows);
  }

  /** A request that has ended well. */
  giveBack(part: PlanPart, request: NixlHandle): void {
    if (this.#isReleased) this.#sides.agent.releaseRequest(request);
    else part.idle.push(request);
  }

  /** Requests that run are the caller's. Idempotent. */
  release(): void {
    if (this.#isReleased) return;
    this.#isReleased = true;
    const { agent } = this.#sides;
    for (const part of this.parts) for (const request of part.idle.splice(0)) agent.releaseRequest(request);
    if (this.#local !== 0n) agent.releasePrepared(this.#local);
    if (this.#remote !== 0n) agent.releasePrepared(this.#remote);
  }
}

/** Resolves and prepares a plan, or says why it cannot run. Every row is checked before anything is prepared. */
export function compilePlan(plan: TransferPlan, sides: PlanSides): CompiledPlan | TransferStatus {
  const columns = resolve(plan, sides);
  if (typeof columns === 'number') return columns;
  if (columns.count === 0) return new CompiledPlan(plan, sides, [], { local: 0n, remote: 0n });
  const { agent, backend, peer } = sides;
  const [localMemory, remoteMemory] = [columns.segments[0]!.memory, columns.segments[1]!.memory];
  const local = agent.prepare(backend, '', localMemory, rowsOf(columns, columns.local, columns.localDevices));
  if (local === 0n) return TransferStatus.NotSupported;
  const remote = agent.prepare(backend, peer, remoteMemory, rowsOf(columns, columns.remote, columns.remoteDevices));
  if (remote === 0n) {
    agent.releasePrepared(local);
    return TransferStatus.RemoteDisconnected;
  }
  return new CompiledPlan(plan, sides, split(columns.lengths, sides.splitBytes), { local, remote });
}

function resolve(plan: TransferPlan, sides: PlanSides): Columns | TransferStatus {
  const { local, remote } = plan;
  if (local.count !== remote.count) return TransferStatus.InvalidDescriptor;
  const columns: Columns = { count: 0, segments: [], local: [], remote: [], localDevices: [], remoteDevices: [], lengths: [] };
  for (let i = 0; i < local.count; i++) {
    const length = local.lengths[i]!;
    const here = sides.local(local.segments[i]!);
    if (typeof here === 'number') return here;
    const there = sides.remote(remote.segments[i]!);
    if (typeof there === 'number') return there;
    if (length !== remote.lengths[i] || !inside(here, local.offsets[i]!, length) || !inside(there, remote.offsets[i]!, length)) return TransferStatus.InvalidDescriptor;
    if (columns.segments.length === 0) columns.segments.push(here, there);
    // One request moves between one kind of memory and one kind of memory.
    else if (columns.segments[0]!.memory !== here.memory || columns.segments[1]!.memory !== there.memory) return TransferStatus.NotSupported;
    append(columns, here, there, { from: local.offsets[i]!, to: remote.offsets[i]!, length, splitBytes: sides.splitBytes });
  }
  return columns;
}

function inside(segment: NixlSegment, offset: number, length: number): boolean {
  return Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && offset + length <= segment.lengthBytes;
}

/** Long rows become several, so that parts keep their size; empty ones vanish. */
function append(columns: Columns, here: NixlSegment, there: NixlSegment, row: { from: number; to: number; length: number; splitBytes: number }): void {
  for (let at = 0; at < row.length; at += row.splitBytes) {
    columns.local.push(here.address + BigInt(row.from + at));
    columns.remote.push(there.address + BigInt(row.to + at));
    columns.localDevices.push(here.device);
    columns.remoteDevices.push(there.device);
    columns.lengths.push(Math.min(row.splitBytes, row.length - at));
    columns.count++;
  }
}

function rowsOf(columns: Columns, addresses: readonly bigint[], devices: readonly bigint[]): NixlRows {
  return { count: columns.count, addresses: BigUint64Array.from(addresses), lengths: Float64Array.from(columns.lengths), devices: BigUint64Array.from(devices) };
}

function split(lengths: readonly number[], splitBytes: number): PlanPart[] {
  const parts: PlanPart[] = [];
  for (let from = 0, to = 0; from < lengths.length; from = to) {
    let bytes = 0;
    while (to < lengths.length && (to === from || bytes + lengths[to]! <= splitBytes)) bytes += lengths[to++]!;
    parts.push({ bytes, rows: Int32Array.from({ length: to - from }, (_, i) => from + i), idle: [] });
  }
  return parts;
}

function distinct(columns: DescriptorColumns): number[] {
  return [...new Set(columns.segments.subarray(0, columns.count))];
}
