import assert from 'node:assert/strict';
import { TransferStatus } from '../transfer-transport.ts';
import type { DescriptorColumns, MemoryKind, PeerSegment, SegmentLocation, TransferPeer, TransferPlan, TransferSegment, TransferTransport, TransportEndpoint, TransportHost } from '../transfer-transport.ts';

// What the transfer-transport suite stands on: fake agents, memory of any kind, plans, seeded layouts.

/** Memory of the suite, when a transport does not serve plain memory of the process (mapped memory, files, device memory). */
export interface SuiteMemory {
  readonly kind: MemoryKind;
  /** `dram`: the memory itself; other kinds: empty. */
  readonly bytes: Uint8Array;
  /** Of the first byte. */
  readonly location?: SegmentLocation | undefined;
  /** The content, as others see it. Needed where `bytes` is empty. */
  load?(): Uint8Array;
  store?(bytes: Uint8Array): void;
  /** Called when the rule has ended and the endpoints are closed. */
  release?(): void;
}

export type SuiteSide = 'initiator' | 'owner';
export type AllocateMemory = (side: SuiteSide, lengthBytes: number) => SuiteMemory;

/** A registered segment that rules can fill and compare whatever its kind. */
export interface SuiteSegment extends TransferSegment {
  load(): Uint8Array;
  store(bytes: Uint8Array): void;
}

export type SuiteAccess = 'open' | 'read' | 'closed';

const GUARD_BYTES = 67;
/** What fresh memory is filled with, inside and around segments. */
export const GUARD = 0xa5;

/** What an agent is to a transport: segments, grants, and a record of what it was told. */
export class FakeTransferHost implements TransportHost {
  readonly agentName: string;
  readonly incarnation: string;
  readonly segments = new Map<number, TransferSegment>();
  /** Segments that peers may not touch. */
  readonly closedSegments = new Set<number>();
  /** Segments that peers may only read. */
  readonly readOnlySegments = new Set<number>();
  readonly notifications: { peer: string; payload: Uint8Array }[] = [];
  readonly lost: string[] = [];
  onNotified: (() => void) | undefined = undefined;
  /** Told of each new segment; access is set before. */
  onAdded: ((segment: TransferSegment) => void) | undefined = undefined;
  readonly #memories: { memory: SuiteMemory; segment: TransferSegment }[] = [];
  readonly #guarded: Uint8Array[] = [];
  #nextId = 1;

  constructor(agentName: string, incarnation = `${agentName}-1`) {
    this.agentName = agentName;
    this.incarnation = incarnation;
  }

  /** Registers `lengthBytes` bytes of plain memory at an odd offset of a larger buffer, so that writes outside show. */
  add(lengthBytes: number, shared = false, access: SuiteAccess = 'open'): SuiteSegment {
    const length = lengthBytes + 2 * GUARD_BYTES;
    return this.addMemory({ kind: 'dram', bytes: new Uint8Array(shared ? new SharedArrayBuffer(length) : new ArrayBuffer(length)) }, lengthBytes, access);
  }

  /** Registers memory of the suite's options. `dram` comes with room for guards: `suiteMemoryBytes(lengthBytes)`. */
  addMemory(memory: SuiteMemory, lengthBytes: number, access: SuiteAccess = 'open'): SuiteSegment {
    let bytes = memory.bytes;
    if (memory.kind === 'dram') {
      bytes.fill(GUARD);
      this.#guarded.push(bytes);
      bytes = bytes.subarray(GUARD_BYTES, GUARD_BYTES + lengthBytes);
    } else memory.store?.(new Uint8Array(lengthBytes).fill(GUARD));
    const segment: SuiteSegment = {
      id: this.#nextId++,
      kind: memory.kind,
      bytes,
      lengthBytes,
      location: memory.kind === 'dram' ? shifted(memory.location) : memory.location,
      load: () => (memory.kind === 'dram' ? bytes : (memory.load?.() ?? bytes).subarray(0, lengthBytes)),
      store: (content) => (memory.kind === 'dram' ? bytes.set(content) : memory.store?.(content)),
    };
    this.#memories.push({ memory, segment });
    this.segments.set(segment.id, segment);
    if (access === 'closed') this.closedSegments.add(segment.id);
    if (access === 'read') this.readOnlySegments.add(segment.id);
    this.onAdded?.(segment);
    return segment;
  }

  segment(id: number): TransferSegment | undefined {
    return this.segments.get(id);
  }

  allows(_peer: string, id: number, offset: number, length: number, op: 'read' | 'write'): TransferStatus {
    const segment = this.segments.get(id);
    if (segment === undefined) return TransferStatus.NotFound;
    if (offset < 0 || length < 0 || offset + length > segment.lengthBytes) return TransferStatus.InvalidDescriptor;
    return this.closedSegments.has(id) || (op === 'write' && this.readOnlySegments.has(id)) ? TransferStatus.NotAllowed : TransferStatus.Done;
  }

  notified(peer: string, payload: Uint8Array): void {
    this.notifications.push({ peer, payload });
    this.onNotified?.();
  }

  disconnected(peer: string): void {
    this.lost.push(peer);
  }

  /** Throws when bytes around a segment have changed. */
  assertGuards(): void {
    this.#guarded.forEach((bytes, i) => {
      const before = bytes.subarray(0, GUARD_BYTES);
      const after = bytes.subarray(bytes.length - GUARD_BYTES);
      assert.ok(before.every((byte) => byte === GUARD) && after.every((byte) => byte === GUARD), `bytes outside memory ${i} of ${this.agentName} were written`);
    });
  }

  releaseMemory(): void {
    for (const { memory } of this.#memories.splice(0)) memory.release?.();
    this.#guarded.length = 0;
  }
}

/** What `allocate` is asked for when a rule wants `lengthBytes` of `dram`: the segment is its middle. */
export function suiteMemoryBytes(lengthBytes: number): number {
  return lengthBytes + 2 * GUARD_BYTES;
}

function shifted(location: SegmentLocation | undefined): SegmentLocation | undefined {
  if (location?.type !== 'shared') return location;
  const { mapping } = location;
  return { type: 'shared', mapping: { ...mapping, offsetBytes: mapping.offsetBytes + GUARD_BYTES, address: mapping.address + BigInt(GUARD_BYTES) } };
}

export interface Row {
  readonly segment: number;
  readonly offset: number;
  readonly length: number;
}

function columns(rows: readonly Row[]): DescriptorColumns {
  return {
    count: rows.length,
    segments: Int32Array.from(rows, (row) => row.segment),
    offsets: Float64Array.from(rows, (row) => row.offset),
    lengths: Int32Array.from(rows, (row) => row.length),
  };
}

export function plan(op: 'read' | 'write', peer: string, local: readonly Row[], remote: readonly Row[]): TransferPlan {
  return { op, peer, local: columns(local), remote: columns(remote), bytes: local.reduce((sum, row) => sum + row.length, 0) };
}

/** Mulberry32: small, seeded. */
export function random(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % bound;
  };
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export async function until(what: string, holds: () => boolean, limitMs = 5000): Promise<void> {
  for (let waitedMs = 0; !holds(); waitedMs += 2) {
    assert.ok(waitedMs < limitMs, `not within ${limitMs} ms: ${what}`);
    await pause(2);
  }
}

/** Two agents on one transport that know each other; with `supports.selfOnly`, one agent that is its own peer. */
export class Pair {
  readonly transport: TransferTransport;
  readonly a = new FakeTransferHost('a');
  readonly b: FakeTransferHost;
  /** Name of the owner of remote memory. */
  readonly peer: string;
  endpointA!: TransportEndpoint;
  endpointB!: TransportEndpoint;
  readonly #allocate: AllocateMemory | undefined;
  readonly #segmentsOfA = new Map<number, PeerSegment>();
  readonly #segmentsOfB: Map<number, PeerSegment>;
  #posted = 0;
  readonly #dones: number[] = [];

  constructor(transport: TransferTransport, allocate?: AllocateMemory) {
    this.transport = transport;
    this.#allocate = allocate;
    const isSelf = transport.supports.selfOnly === true;
    this.b = isSelf ? this.a : new FakeTransferHost('b');
    this.peer = this.b.agentName;
    this.#segmentsOfB = isSelf ? this.#segmentsOfA : new Map();
  }

  async open(): Promise<this> {
    await this.transport.start?.();
    this.endpointA = await this.transport.open(this.a);
    this.endpointB = this.b === this.a ? this.endpointA : await this.transport.open(this.b);
    this.a.onAdded = (segment) => publish(this.endpointA, segment, this.#segmentsOfA);
    if (this.b !== this.a) this.b.onAdded = (segment) => publish(this.endpointB, segment, this.#segmentsOfB);
    this.endpointA.connect(this.peerOf(this.b));
    if (this.b !== this.a) this.endpointB.connect(this.peerOf(this.a));
    return this;
  }

  /** As the other side gets to know it. */
  peerOf(host: FakeTransferHost): TransferPeer {
    const isA = host === this.a;
    return {
      name: host.agentName,
      incarnation: host.incarnation,
      metadata: (isA ? this.endpointA : this.endpointB).metadata(),
      segments: isA ? this.#segmentsOfA : this.#segmentsOfB,
    };
  }

  /** Registers memory of the initiator. */
  here(lengthBytes: number, shared = false): SuiteSegment {
    return this.#add(this.a, 'initiator', lengthBytes, shared, 'open');
  }

  /** Registers memory of the owner. */
  there(lengthBytes: number, shared = false, access: SuiteAccess = 'open'): SuiteSegment {
    return this.#add(this.b, 'owner', lengthBytes, shared, access);
  }

  /** The owner takes a segment away; the initiator is not told. */
  releaseThere(segment: TransferSegment): void {
    this.b.segments.delete(segment.id);
    this.endpointB.deregistered?.(segment);
  }

  #add(host: FakeTransferHost, side: SuiteSide, lengthBytes: number, shared: boolean, access: SuiteAccess): SuiteSegment {
    if (this.#allocate === undefined) return host.add(lengthBytes, shared, access);
    return host.addMemory(this.#allocate(side, suiteMemoryBytes(lengthBytes)), lengthBytes, access);
  }

  /** From a to b. */
  run(transfer: TransferPlan, notification?: Uint8Array): Promise<TransferStatus> {
    return this.start(transfer, notification).ended;
  }

  start(transfer: TransferPlan, notification?: Uint8Array): { token: number; ended: Promise<TransferStatus> } {
    const index = this.#posted++;
    this.#dones[index] = 0;
    let token = 0;
    const ended = new Promise<TransferStatus>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('done was not called within 10 s')), 10_000);
      token = this.endpointA.post(transfer, notification, (status) => {
        clearTimeout(timer);
        this.#dones[index]!++;
        resolve(status);
      });
    });
    return { token, ended };
  }

  /** A new life of the owner's agent: its endpoint is closed, another one opened and made known. */
  async restartOwner(): Promise<FakeTransferHost> {
    await this.endpointB.close();
    const again = new FakeTransferHost('b', 'b-2');
    this.endpointB = await this.transport.open(again);
    const segments = new Map<number, PeerSegment>();
    again.onAdded = (segment) => publish(this.endpointB, segment, segments);
    this.endpointA.connect({ name: 'b', incarnation: again.incarnation, metadata: this.endpointB.metadata(), segments });
    this.endpointB.connect(this.peerOf(this.a));
    return again;
  }

  /** Memory of the owner for another host than `b`. */
  addTo(host: FakeTransferHost, lengthBytes: number): SuiteSegment {
    return this.#add(host, 'owner', lengthBytes, false, 'open');
  }

  async close(): Promise<void> {
    await this.endpointA.close();
    if (this.endpointB !== this.endpointA) await this.endpointB.close();
    await this.transport.close?.();
    await pause(1);
    try {
      assert.ok(
        this.#dones.every((count) => count === 1),
        `done was called ${this.#dones.join(', ')} times for the transfers posted`,
      );
      this.a.assertGuards();
      this.b.assertGuards();
    } finally {
      this.a.releaseMemory();
      this.b.releaseMemory();
    }
  }
}

function publish(endpoint: TransportEndpoint, segment: TransferSegment, segments: Map<number, PeerSegment>): void {
  endpoint.registered?.(segment);
  segments.set(segment.id, { id: segment.id, kind: segment.kind, lengthBytes: segment.lengthBytes, metadata: overTheWire(endpoint.segmentMetadata?.(segment)) });
}

/** Metadata travels as JSON. */
function overTheWire<T>(metadata: T): T {
  return metadata === undefined ? metadata : (JSON.parse(JSON.stringify(metadata)) as T);
}

export function isFilledWith(bytes: Uint8Array, value: number): boolean {
  return Buffer.compare(bytes, Buffer.alloc(bytes.length, value)) === 0;
}

export function randomContent(length: number, below: (bound: number) => number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = below(256);
  return bytes;
}

function shuffle<T>(items: T[], below: (bound: number) => number): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [items[i], items[j]] = [items[j]!, items[i]!];
  }
  return items;
}

/** Random rows; the target side does not overlap itself, the source side may. */
export function randomLayout(below: (bound: number) => number, target: TransferSegment, source: TransferSegment): { target: Row[]; source: Row[] } {
  const rows: Row[] = [];
  const scale = [1, 100, 5000, 70_000][below(4)]!;
  for (let at = 0; rows.length < 200; ) {
    at += below(3) * below(50);
    const length = below(5) === 0 ? 0 : Math.min(below(scale * 2), source.lengthBytes);
    if (at + length > target.lengthBytes) break;
    rows.push({ segment: target.id, offset: at, length });
    at += length;
  }
  shuffle(rows, below);
  return { target: rows, source: rows.map(({ length }) => ({ segment: source.id, offset: below(source.lengthBytes - length + 1), length })) };
}

/** Equal pieces, the target's in shuffled order. */
export function shuffledPieces(below: (bound: number) => number, target: TransferSegment, source: TransferSegment, pieceBytes: number): { target: Row[]; source: Row[] } {
  const pieces = Math.floor(target.lengthBytes / pieceBytes);
  const order = shuffle(Array.from({ length: pieces }, (_, i) => i), below);
  const row = (segment: TransferSegment, at: number): Row => ({ segment: segment.id, offset: at * pieceBytes, length: pieceBytes });
  return { target: order.map((at) => row(target, at)), source: order.map((_, i) => row(source, i)) };
}

/** What the target must look like afterwards. */
export function expected(target: SuiteSegment, rows: { target: Row[]; source: Row[] }, source: SuiteSegment): Uint8Array {
  const bytes = target.load().slice();
  const from = source.load();
  rows.target.forEach((row, i) => bytes.set(from.subarray(rows.source[i]!.offset, rows.source[i]!.offset + row.length), row.offset));
  return bytes;
}
