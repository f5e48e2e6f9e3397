import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import { TransferStatus } from '@armature/contracts';
import type { Clock, Logger, TransferPeer, TransferPlan, TransferSegment, TransportEndpoint, TransportHost, TransportMetadata } from '@armature/contracts';
import { PathEstimate } from '../estimate.ts';
import { vectorIo } from '../tcp/vector-io.ts';
import { DIRECT_ALIGNMENT, OpenSegment } from './descriptors.ts';
import { FileCounters, statusOf } from './file-status.ts';
import { planFile } from './operations.ts';
import type { FileOperation, FilePlan } from './operations.ts';

/** The system calls of transfers; tests pass failing ones. */
export type FileIo = Pick<typeof fs, 'read' | 'readv' | 'write' | 'writev' | 'fsync' | 'fdatasync'>;

export interface FileEndpointOptions {
  /** Default node:fs. */
  readonly io?: FileIo | undefined;
  readonly host: TransportHost;
  readonly clock: Clock;
  readonly log: Logger;
  readonly queueDepth: number;
  readonly maxOperationBytes: number;
  readonly sync: 'none' | 'data' | 'full';
}

/** A posted plan: operations not begun, begun, and what became of them. */
class Transfer {
  readonly plan: FilePlan;
  readonly bytes: number;
  readonly startMs: number;
  readonly done: (status: TransferStatus) => void;
  next = 0;
  inFlight = 0;
  status: TransferStatus = TransferStatus.Done;
  isEnding = false;

  constructor(plan: FilePlan, bytes: number, startMs: number, done: (status: TransferStatus) => void) {
    this.plan = plan;
    this.bytes = bytes;
    this.startMs = startMs;
    this.done = done;
  }
}

/** Most posted and not ended transfers. */
const MAX_TRANSFERS = 4096;

/**
 * Moves bytes between an agent's own memory and its files, on libuv's threads. A transfer ends only when none of its operations is in
 * the kernel any more: neither memory nor file changes after its status, whatever it is. A disk that hangs cannot be hurried.
 */
export class FileEndpoint implements TransportEndpoint {
  readonly #options: FileEndpointOptions;
  readonly #io: FileIo;
  readonly #id = randomUUID();
  readonly #estimate = new PathEstimate(150, 1000);
  readonly #plans = new WeakMap<TransferPlan, FilePlan>();
  readonly #files = new Map<number, OpenSegment>();
  readonly #transfers = new Map<number, Transfer>();
  /** Take turns, one operation each. */
  readonly #ready: Transfer[] = [];
  readonly counters = new FileCounters();
  #self: string | undefined = undefined;
  #inFlight = 0;
  #nextToken = 1;
  #isClosed = false;
  #closing: Promise<void> | undefined = undefined;
  #whenIdle: (() => void) | undefined = undefined;

  constructor(options: FileEndpointOptions) {
    this.#options = options;
    this.#io = options.io ?? fs;
  }

  metadata(): TransportMetadata {
    return { endpoint: this.#id };
  }

  /** Itself only. */
  canReach(metadata: TransportMetadata): boolean {
    return metadata['endpoint'] === this.#id;
  }

  canMove(plan: TransferPlan): boolean {
    const { memoryColumns, fileColumns } = this.#planned(plan) ?? {};
    return memoryColumns !== undefined && this.#areAll(memoryColumns, 'dram') && this.#areAll(fileColumns!, 'file');
  }

  connect(peer: TransferPeer): void {
    if (peer.metadata['endpoint'] === this.#id) this.#self = peer.name;
  }

  disconnect(peer: string): void {
    if (peer !== this.#self) return;
    this.#self = undefined;
    for (const transfer of [...this.#transfers.values()]) this.#stop(transfer, TransferStatus.RemoteDisconnected);
  }

  estimateMicros(peer: string, bytes: number, count: number): number {
    return peer === this.#self && !this.#isClosed ? this.#estimate.micros(bytes, count, this.#pieceMicros(count)) : Infinity;
  }

  /** Overlapping pieces within one post are written in no particular order. */
  post(plan: TransferPlan, _notification: Uint8Array | undefined, done: (status: TransferStatus) => void): number {
    const planned = this.#self === plan.peer && !this.#isClosed ? this.#planned(plan) : undefined;
    const refused = this.#refusal(plan, planned);
    if (planned === undefined || refused !== TransferStatus.Done) {
      // An empty list has no side that is a file, and nothing to do.
      done(refused === TransferStatus.NotSupported && plan.local.count === 0 ? TransferStatus.Done : refused);
      return 0;
    }
    const token = this.#nextToken++;
    const transfer = new Transfer(planned, plan.bytes, this.#options.clock.nowMs(), (status) => {
      this.#transfers.delete(token);
      done(status);
      if (this.#transfers.size === 0) this.#whenIdle?.();
    });
    this.#transfers.set(token, transfer);
    if (planned.operations.length === 0) this.#settle(transfer);
    else this.#ready.push(transfer);
    this.#pump();
    return token;
  }

  cancel(token: number): void {
    const transfer = this.#transfers.get(token);
    if (transfer !== undefined) this.#stop(transfer, TransferStatus.Canceled);
  }

  notify(): boolean {
    return false;
  }

  registered(segment: TransferSegment): void {
    if (segment.kind === 'file') this.#open(segment);
  }

  deregistered(segment: TransferSegment): void {
    for (const transfer of [...this.#transfers.values()]) {
      if (transfer.plan.files.includes(segment.id) || transfer.plan.memories.includes(segment.id)) this.#stop(transfer, TransferStatus.NotFound);
    }
    this.#files.get(segment.id)?.release();
    this.#files.delete(segment.id);
  }

  /** What was written to the segment is on the disk when this resolves. Throws the system's error. */
  async flush(segment: number): Promise<void> {
    const file = this.#files.get(segment);
    if (file !== undefined) await this.#sync(file, false);
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#isClosed = true;
    for (const transfer of [...this.#transfers.values()]) this.#stop(transfer, TransferStatus.Canceled);
    if (this.#transfers.size > 0) await new Promise<void>((resolve) => (this.#whenIdle = resolve));
    for (const file of this.#files.values()) file.release();
    this.#files.clear();
  }

  /** As many as the queue is deep are under way at a time. */
  #pieceMicros(count: number): number {
    return 20 / Math.min(count || 1, this.#options.queueDepth);
  }

  #planned(plan: TransferPlan): FilePlan | undefined {
    let planned = this.#plans.get(plan);
    if (planned !== undefined) return planned;
    planned = planFile(plan, (side) => this.#isFile(plan[side].segments[0]), this.#options.maxOperationBytes);
    if (planned !== undefined) this.#plans.set(plan, planned);
    return planned;
  }

  #isFile(segment: number | undefined): boolean {
    return segment !== undefined && this.#options.host.segment(segment)?.kind === 'file';
  }

  #areAll(columns: FilePlan['fileColumns'], kind: 'dram' | 'file'): boolean {
    for (let i = 0; i < columns.count; i++) if (this.#options.host.segment(columns.segments[i]!)?.kind !== kind) return false;
    return true;
  }

  /** Everything is checked before the first byte moves. */
  #refusal(plan: TransferPlan, planned: FilePlan | undefined): TransferStatus {
    if (this.#self !== plan.peer || this.#isClosed) return TransferStatus.NotFound;
    for (const columns of [plan.local, plan.remote]) {
      for (let i = 0; i < columns.count; i++) {
        const segment = this.#options.host.segment(columns.segments[i]!);
        if (segment === undefined) return TransferStatus.NotFound;
        const length = columns.lengths[i]!;
        const offset = columns.offsets[i]!;
        if (length !== plan.local.lengths[i] || !(length >= 0 && offset >= 0 && offset + length <= segment.lengthBytes)) return TransferStatus.InvalidDescriptor;
      }
    }
    if (planned === undefined || !this.#areAll(planned.memoryColumns, 'dram') || !this.#areAll(planned.fileColumns, 'file')) return TransferStatus.NotSupported;
    if (this.#transfers.size >= MAX_TRANSFERS) return TransferStatus.TransportError;
    for (const id of planned.files) {
      const file = this.#files.get(id) ?? this.#open(this.#options.host.segment(id)!);
      if (file === undefined) return TransferStatus.NotFound;
      if (planned.toFile && file.isReadOnly) return TransferStatus.NotAllowed;
    }
    return TransferStatus.Done;
  }

  #open(segment: TransferSegment): OpenSegment | undefined {
    try {
      const file = new OpenSegment(segment);
      this.#files.set(segment.id, file);
      return file;
    } catch (error) {
      this.#failed(error as NodeJS.ErrnoException, segment.id);
      return undefined;
    }
  }

  #pump(): void {
    while (this.#inFlight < this.#options.queueDepth && this.#ready.length > 0) {
      const transfer = this.#ready.shift()!;
      const operation = transfer.plan.operations[transfer.next++]!;
      if (transfer.next < transfer.plan.operations.length) this.#ready.push(transfer);
      this.#begin(transfer, operation);
    }
  }

  #begin(transfer: Transfer, operation: FileOperation): void {
    const file = this.#files.get(operation.segment);
    const views: Buffer[] = [];
    for (const { segment, offset, bytes } of operation.memory) {
      const memory = this.#options.host.segment(segment)?.bytes;
      if (memory !== undefined) views.push(Buffer.from(memory.buffer as ArrayBuffer, memory.byteOffset + offset, bytes));
    }
    if (file === undefined || views.length < operation.memory.length) {
      this.#stop(transfer, TransferStatus.NotFound);
      return;
    }
    this.#inFlight++;
    transfer.inFlight++;
    this.counters.operations++;
    this.counters.joinedRows += operation.memory.length - 1;
    this.counters.maxInFlight = Math.max(this.counters.maxInFlight, this.#inFlight);
    this.#call({ transfer, file, views, offset: operation.offset, left: operation.bytes });
  }

  /** One system call; a short one is continued. */
  #call(step: { transfer: Transfer; file: OpenSegment; views: Buffer[]; offset: number; left: number }): void {
    const { transfer, file, views, offset, left } = step;
    const direct = file.canBeDirect && isAligned(views, offset);
    if (direct) this.counters.directOperations++;
    else if (file.canBeDirect) this.counters.bufferedFallbacks++;
    const fd = file.begin(direct);
    const ended = (error: NodeJS.ErrnoException | null, moved: number): void => {
      file.ended();
      if (error === null && moved > 0 && moved < left && transfer.status === TransferStatus.Done) {
        this.counters.shortCalls++;
        this.#call({ transfer, file, views: rest(views, moved), offset: offset + moved, left: left - moved });
        return;
      }
      if (error !== null) this.#stop(transfer, this.#failed(error));
      else if (moved === 0) this.#stop(transfer, this.#failed(Object.assign(new Error('the file is shorter than its segment'), { code: 'EOF' })));
      this.#inFlight--;
      transfer.inFlight--;
      this.#settle(transfer);
      this.#pump();
    };
    const single = views.length === 1 ? views[0]! : undefined;
    if (transfer.plan.toFile) {
      if (single !== undefined) this.#io.write(fd, single, 0, single.length, offset, ended);
      else this.#io.writev(fd, views, offset, ended);
    } else if (single !== undefined) this.#io.read(fd, single, 0, single.length, offset, ended);
    else this.#io.readv(fd, views, offset, ended);
  }

  /** Nothing more of it begins; it ends when what has begun is over. The first reason counts. */
  #stop(transfer: Transfer, status: TransferStatus): void {
    if (transfer.status === TransferStatus.Done) transfer.status = status;
    transfer.next = transfer.plan.operations.length;
    const at = this.#ready.indexOf(transfer);
    if (at >= 0) this.#ready.splice(at, 1);
    this.#settle(transfer);
  }

  #settle(transfer: Transfer): void {
    if (transfer.inFlight > 0 || transfer.isEnding || transfer.next < transfer.plan.operations.length) return;
    if (transfer.status === TransferStatus.Done && transfer.plan.toFile && this.#options.sync !== 'none') {
      transfer.isEnding = true;
      const files = transfer.plan.files.map((id) => this.#files.get(id)).filter((file) => file !== undefined);
      Promise.all(files.map((file) => this.#sync(file, this.#options.sync === 'data')))
        .catch((error: unknown) => (transfer.status = this.#failed(error as NodeJS.ErrnoException)))
        .finally(() => transfer.done(transfer.status));
      return;
    }
    if (transfer.status === TransferStatus.Done) this.#estimate.observe(transfer.bytes, transfer.plan.fileColumns.count, this.#pieceMicros(transfer.plan.fileColumns.count), (this.#options.clock.nowMs() - transfer.startMs) * 1000);
    transfer.isEnding = true;
    transfer.done(transfer.status);
  }

  #sync(file: OpenSegment, dataOnly: boolean): Promise<void> {
    this.counters.syncs++;
    const fd = file.begin(false);
    return new Promise((resolve, reject) => {
      const synced = (error: NodeJS.ErrnoException | null): void => {
        file.ended();
        if (error === null) resolve();
        else reject(error);
      };
      if (dataOnly) this.#io.fdatasync(fd, synced);
      else this.#io.fsync(fd, synced);
    });
  }

  #failed(error: NodeJS.ErrnoException, segment?: number): TransferStatus {
    const code = error.code ?? 'UNKNOWN';
    this.counters.errors.set(code, (this.counters.errors.get(code) ?? 0) + 1);
    this.#options.log.warn('file transfer failed', { code: 'TRANSFER_FILE_FAILED', system: code, reason: error.message, ...(segment === undefined ? {} : { segment }) });
    return statusOf(code);
  }
}

function isAligned(views: readonly Buffer[], offset: number): boolean {
  const io = vectorIo();
  if (io === undefined || offset % DIRECT_ALIGNMENT !== 0) return false;
  return views.every((view) => view.length % DIRECT_ALIGNMENT === 0 && io.addressOf(view) % DIRECT_ALIGNMENT === 0);
}

function rest(views: readonly Buffer[], moved: number): Buffer[] {
  const left: Buffer[] = [];
  let skip = moved;
  for (const view of views) {
    if (skip < view.length) left.push(view.subarray(skip));
    skip = Math.max(0, skip - view.length);
  }
  return left;
}
