import { CudaResult, cudaFailed } from './binding.ts';
import type { CopyDirection, CopyTables, CudaDriver, CudaHandle } from './binding.ts';

// GPUs in memory, with the rules of the real driver that this package depends on: copies run later and in stream order, streams in any order
// among each other, host memory must be pinned for that, pages are pinned once, handles open in other processes only.

interface Allocation {
  readonly base: bigint;
  readonly bytes: Uint8Array;
  readonly ordinal: number;
  readonly handle: string;
  /** Mappings in other processes. */
  opened: number;
  isFreed: boolean;
}

type Operation = { readonly type: 'copy'; readonly run: () => void } | { readonly type: 'event'; readonly event: CudaHandle };

interface Stream {
  readonly handle: CudaHandle;
  readonly operations: Operation[];
  isStuck: boolean;
}

const PAGE = 4096n;

/** What the processes of one host share. */
export class FakeGpus {
  readonly count: number;
  readonly allocations = new Set<Allocation>();
  #next = 0x7f00_0000_0000n;
  #handles = 0;

  constructor(count = 2) {
    this.count = count;
  }

  allocate(ordinal: number, lengthBytes: number): Allocation {
    const base = this.#next;
    this.#next += ((BigInt(lengthBytes) + 0xf_ffffn) / 0x10_0000n + 1n) * 0x10_0000n;
    const allocation = { base, bytes: new Uint8Array(lengthBytes), ordinal, handle: `gpu handle ${++this.#handles}`, opened: 0, isFreed: false };
    this.allocations.add(allocation);
    return allocation;
  }
}

/** The driver as one process sees it. */
export class FakeDriver implements CudaDriver {
  readonly file = '/fake/libcuda.so.1';
  readonly version: number;
  readonly hasBatch: boolean;
  readonly gpus: FakeGpus;
  /** By call: results to come; `0` lets one pass. */
  readonly failures = new Map<string, number[]>();
  /** Sees each copy's bytes at its target; sabotage changes them. Returning false drops the copy. */
  tap: ((target: Uint8Array) => boolean) | undefined = undefined;
  /** Nothing runs by itself: `runAll`, `runSome`. */
  isManual = false;
  lostResult: number = CudaResult.Success;
  canShare = true;
  readonly counts = { contexts: 0, streams: 0, events: 0, pins: 0, imports: 0, allocations: 0, batchCalls: 0, singleCalls: 0, queries: 0, maxBlockingBytes: 0, maxQueued: 0 };
  readonly #contexts = new Map<bigint, { ordinal: number; users: number }>();
  readonly #streams = new Map<CudaHandle, Stream>();
  readonly #events = new Map<CudaHandle, boolean>();
  readonly #pins = new Map<bigint, bigint>();
  readonly #visible = new Map<Allocation, bigint>();
  readonly #hosts = new Map<ArrayBufferLike, bigint>();
  #nextHost = 0x1000_0000n;
  #next = 1n;
  #current = 0n;
  #seed = 7;
  #isScheduled = false;

  constructor(gpus = new FakeGpus(), options: { readonly batch?: boolean } = {}) {
    this.gpus = gpus;
    this.hasBatch = options.batch ?? true;
    this.version = this.hasBatch ? 12_080 : 12_040;
  }

  fail(call: string, ...results: number[]): void {
    this.failures.set(call, results);
  }

  deviceCount(): number {
    return this.gpus.count;
  }
  deviceName(ordinal: number): string {
    return `fake ${ordinal}`;
  }
  deviceUuid(ordinal: number): Uint8Array {
    return new Uint8Array(16).fill(ordinal + 1);
  }

  retainPrimaryContext(ordinal: number): CudaHandle {
    this.#throws('cuDevicePrimaryCtxRetain');
    const handle = BigInt(ordinal + 1) << 20n;
    const known = this.#contexts.get(handle);
    if (known === undefined) this.#contexts.set(handle, { ordinal, users: 1 });
    else known.users++;
    this.counts.contexts++;
    return handle;
  }

  releasePrimaryContext(ordinal: number): void {
    const handle = BigInt(ordinal + 1) << 20n;
    const known = this.#contexts.get(handle)!;
    this.counts.contexts--;
    if (--known.users > 0) return;
    this.#contexts.delete(handle);
    if (this.#current === handle) this.#current = 0n;
  }

  setCurrent(context: CudaHandle): number {
    const result = this.#result('cuCtxSetCurrent');
    if (result !== CudaResult.Success) return result;
    if (!this.#contexts.has(context)) return CudaResult.InvalidContext;
    this.#current = context;
    return CudaResult.Success;
  }

  allocate(lengthBytes: number): bigint {
    this.#throws('cuMemAlloc');
    const allocation = this.gpus.allocate(this.#ordinal(), lengthBytes);
    this.#visible.set(allocation, allocation.base);
    this.counts.allocations++;
    return allocation.base;
  }

  free(address: bigint): void {
    this.#throws('cuMemFree');
    const [allocation] = this.#at(address)!;
    allocation.isFreed = true;
    this.#visible.delete(allocation);
    this.counts.allocations--;
    this.gpus.allocations.delete(allocation);
  }

  rangeOf(address: bigint): { base: bigint; lengthBytes: number; ordinal: number } | undefined {
    const found = this.#at(address);
    return found === undefined ? undefined : { base: found[1], lengthBytes: found[0].bytes.length, ordinal: found[0].ordinal };
  }

  pin(address: bigint, lengthBytes: number): void {
    this.#throws('cuMemHostRegister');
    this.#ordinal();
    const end = address + BigInt(lengthBytes);
    for (const [start, stop] of this.#pins) if (address < stop && end > start) throw this.#error('cuMemHostRegister', CudaResult.AlreadyRegistered);
    if (address % PAGE !== 0n || end % PAGE !== 0n) throw this.#error('cuMemHostRegister', CudaResult.InvalidValue);
    this.#pins.set(address, end);
    this.counts.pins++;
  }

  unpin(address: bigint): void {
    if (!this.#pins.delete(address)) throw this.#error('cuMemHostUnregister', 713);
    this.counts.pins--;
    for (const { operations } of this.#streams.values()) if (operations.some(({ type }) => type === 'copy')) this.unpinnedWhileBusy++;
  }
  /** Unregistered while copies were on a stream: the worst bug there can be here. Tests that have only one user look at it. */
  unpinnedWhileBusy = 0;

  exportHandle(base: bigint): Uint8Array {
    this.#throws('cuIpcGetMemHandle');
    const found = this.#at(base);
    if (!this.canShare) throw this.#error('cuIpcGetMemHandle', CudaResult.NotSupported);
    if (found === undefined || found[1] !== base || found[0].base !== base) throw this.#error('cuIpcGetMemHandle', CudaResult.InvalidValue);
    return Buffer.alloc(64, found[0].handle.padEnd(64, '\0'));
  }

  openHandle(handle: Uint8Array): bigint {
    this.#throws('cuIpcOpenMemHandle');
    this.#ordinal();
    const name = Buffer.from(handle).toString().replace(/\0+$/, '');
    const allocation = [...this.gpus.allocations].find((each) => each.handle === name);
    if (allocation === undefined) throw this.#error('cuIpcOpenMemHandle', CudaResult.InvalidValue);
    if (this.#visible.has(allocation)) throw this.#error('cuIpcOpenMemHandle', CudaResult.InvalidContext);
    const base = allocation.base + 0x1000_0000_0000n; // another address than in the owner
    this.#visible.set(allocation, base);
    allocation.opened++;
    this.counts.imports++;
    return base;
  }

  closeHandle(base: bigint): void {
    const [allocation] = this.#at(base)!;
    this.#visible.delete(allocation);
    allocation.opened--;
    this.counts.imports--;
    for (const { operations } of this.#streams.values()) if (operations.some(({ type }) => type === 'copy')) this.unpinnedWhileBusy++;
  }

  createStream(): CudaHandle {
    this.#throws('cuStreamCreate');
    this.#ordinal();
    const handle = this.#next++;
    this.#streams.set(handle, { handle, operations: [], isStuck: false });
    this.counts.streams++;
    return handle;
  }

  destroyStream(stream: CudaHandle): void {
    this.#streams.delete(stream);
    this.counts.streams--;
  }

  createEvent(): CudaHandle {
    this.#throws('cuEventCreate');
    const event = this.#next++;
    this.#events.set(event, true);
    this.counts.events++;
    return event;
  }

  destroyEvent(event: CudaHandle): void {
    if (!this.#events.delete(event)) throw new Error('event destroyed twice');
    this.counts.events--;
  }

  copy(direction: CopyDirection, target: bigint, source: bigint, length: bigint, stream: CudaHandle): number {
    const result = this.#result('cuMemcpyAsync');
    if (result !== CudaResult.Success) return result;
    this.counts.singleCalls++;
    return this.#enqueue(direction, target, source, Number(length), stream);
  }

  copyBatch({ targets, sources, lengths }: CopyTables, from: number, to: number, stream: CudaHandle): number {
    const failure = this.#result('cuMemcpyBatchAsync');
    if (failure === CudaResult.NotSupported) return failure;
    this.counts.batchCalls++;
    // A failing batch may have begun: half of it has.
    const end = failure === CudaResult.Success ? to : from + ((to - from) >> 1);
    for (let i = from; i < end; i++) {
      if (lengths[i] === 0n) return CudaResult.InvalidValue;
      const result = this.#enqueue(undefined, targets[i]!, sources[i]!, Number(lengths[i]), stream);
      if (result !== CudaResult.Success) return result;
    }
    return failure;
  }

  record(event: CudaHandle, stream: CudaHandle): number {
    const result = this.#result('cuEventRecord');
    if (result !== CudaResult.Success) return result;
    this.#events.set(event, false);
    this.#streams.get(stream)!.operations.push({ type: 'event', event });
    this.#schedule();
    return CudaResult.Success;
  }

  queryEvent(event: CudaHandle): number {
    this.counts.queries++;
    const result = this.#result('cuEventQuery');
    if (result !== CudaResult.Success) return result;
    return this.#events.get(event) === true ? CudaResult.Success : CudaResult.NotReady;
  }

  queryStream(stream: CudaHandle): number {
    const result = this.#result('cuStreamQuery');
    if (result !== CudaResult.Success) return result;
    return this.#streams.get(stream)!.operations.length === 0 ? CudaResult.Success : CudaResult.NotReady;
  }

  synchronize(): number {
    return this.#result('cuStreamSynchronize');
  }

  errorName(result: number): string {
    return Object.entries(CudaResult).find(([, value]) => value === result)?.[0] ?? `E${result}`;
  }

  addressOf(bytes: Uint8Array): bigint {
    let base = this.#hosts.get(bytes.buffer);
    if (base === undefined) {
      base = this.#nextHost;
      this.#nextHost += ((BigInt(bytes.buffer.byteLength) + PAGE) / PAGE + 1n) * PAGE;
      this.#hosts.set(bytes.buffer, base);
    }
    return base + BigInt(bytes.byteOffset);
  }

  /** Bytes of device or host memory; undefined when this process has none there. */
  view(address: bigint, length: number): Uint8Array | undefined {
    const found = this.#at(address);
    if (found !== undefined) {
      const at = Number(address - found[1]);
      return at + length <= found[0].bytes.length ? found[0].bytes.subarray(at, at + length) : undefined;
    }
    for (const [buffer, base] of this.#hosts) {
      if (address >= base && address + BigInt(length) <= base + BigInt(buffer.byteLength)) return new Uint8Array(buffer, Number(address - base), length);
    }
    return undefined;
  }

  /** Streams from the first: manual tests choose the order. */
  streams(): CudaHandle[] {
    return [...this.#streams.keys()];
  }

  stick(stream: CudaHandle, isStuck: boolean): void {
    this.#streams.get(stream)!.isStuck = isStuck;
    this.#schedule();
  }

  runSome(stream: CudaHandle, operations: number): void {
    const queue = this.#streams.get(stream)?.operations ?? [];
    for (const operation of queue.splice(0, operations)) {
      if (operation.type === 'event') {
        if (this.#events.has(operation.event)) this.#events.set(operation.event, true);
      } else if (this.lostResult === CudaResult.Success) operation.run();
    }
  }

  runAll(): void {
    for (const stream of this.streams()) this.runSome(stream, Infinity);
  }

  #enqueue(direction: CopyDirection | undefined, target: bigint, source: bigint, length: number, stream: CudaHandle): number {
    this.#ordinal();
    const [to, from] = [this.view(target, length), this.view(source, length)];
    if (to === undefined || from === undefined) return CudaResult.InvalidValue;
    const isDirect = this.#isDirect(target) && this.#isDirect(source);
    if (direction === 'onDevice' && (this.#at(target) === undefined || this.#at(source) === undefined)) return CudaResult.InvalidValue;
    const run = (): void => {
      if (this.view(target, length) === undefined || this.view(source, length) === undefined) throw new Error('copied from or to memory that was freed or closed');
      if (this.tap?.(to) === false) return;
      to.set(from);
    };
    if (!isDirect || stream === 0n) {
      // Not pinned: the call itself stages.
      if (stream !== 0n) this.runSome(stream, Infinity);
      if (stream !== 0n) this.counts.maxBlockingBytes = Math.max(this.counts.maxBlockingBytes, length);
      run();
      return CudaResult.Success;
    }
    const { operations } = this.#streams.get(stream)!;
    operations.push({ type: 'copy', run });
    this.counts.maxQueued = Math.max(this.counts.maxQueued, operations.length);
    this.#schedule();
    return CudaResult.Success;
  }

  #isDirect(address: bigint): boolean {
    if (this.#at(address) !== undefined) return true;
    for (const [start, end] of this.#pins) if (address >= start && address < end) return true;
    return false;
  }

  #at(address: bigint): [Allocation, bigint] | undefined {
    for (const [allocation, base] of this.#visible) {
      if (!allocation.isFreed && address >= base && address < base + BigInt(allocation.bytes.length)) return [allocation, base];
    }
    return undefined;
  }

  /** Between turns of the event loop, now this stream, now that one. */
  #schedule(): void {
    if (this.#isScheduled || this.isManual) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      let isLeft = false;
      for (const stream of this.#streams.values()) {
        this.#seed = (Math.imul(this.#seed, 1_103_515_245) + 12_345) >>> 0;
        if (!stream.isStuck) this.runSome(stream.handle, this.#seed % 300);
        isLeft ||= !stream.isStuck && stream.operations.length > 0;
      }
      if (isLeft) this.#schedule();
    });
  }

  #ordinal(): number {
    const context = this.#contexts.get(this.#current);
    if (context === undefined) throw this.#error('no current context', CudaResult.InvalidContext);
    return context.ordinal;
  }

  #result(call: string): number {
    if (this.lostResult !== CudaResult.Success) return this.lostResult;
    return this.failures.get(call)?.shift() ?? CudaResult.Success;
  }

  #throws(call: string): void {
    const result = this.#result(call);
    if (result !== CudaResult.Success) throw this.#error(call, result);
  }

  #error(call: string, result: number): Error {
    return cudaFailed(call, result, this.errorName(result));
  }
}
