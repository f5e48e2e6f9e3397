// @hot
import type { Clock } from '@armature/contracts';
import { CudaResult, isContextLost } from './binding.ts';
import type { CudaHandle } from './binding.ts';
import type { CudaCounters } from './counters.ts';
import type { LaneJob } from './lane-job.ts';
import type { CudaRuntime } from './runtime.ts';

interface Fence {
  /** 0n: recording failed, the stream as a whole is looked at. */
  readonly event: CudaHandle;
  readonly job: LaneJob;
}

export interface LaneOptions {
  readonly runtime: CudaRuntime;
  readonly clock: Clock;
  readonly counters: CudaCounters;
  /** cuMemcpyBatchAsync may be used. */
  readonly batch: boolean;
  /** The context is gone: no lane of this GPU will end anything by itself. */
  readonly lost: (result: number) => void;
}

/** Chunks on the stream at once: the next ones wait here, so that other jobs get their turn and the driver's queue never fills up (it then blocks). */
const MAX_FENCES = 4;
/** Copies between two looks at the clock. */
const CLOCK_EVERY = 16;
/** 4 chunks of these stay below the about 1,024 entries that the driver queues for a stream. */
const MAX_SINGLES = 192;
const MIN_BATCH = 64;
const MAX_BATCH = 8192;
/** What a driver takes for a copy is not known before: at 2 us this many are half a millisecond. */
const FIRST_BATCH = 256;

/** One stream of one GPU. Jobs take turns, a chunk each; chunks end in order. */
export class CopyLane {
  readonly #options: LaneOptions;
  readonly #stream: CudaHandle;
  /** Have copies that are not on the stream yet. */
  readonly #waiting: LaneJob[] = [];
  readonly #fences: Fence[] = [];
  readonly #idleEvents: CudaHandle[] = [];
  #canBatch: boolean;
  /** Copies of one batch call: adapts, so that a call takes an eighth to a half of a turn. */
  #batchCopies = FIRST_BATCH;

  /** The context is current. Throws `TRANSFER_CUDA_FAILED`. */
  constructor(options: LaneOptions) {
    this.#options = options;
    this.#canBatch = options.batch;
    this.#stream = options.runtime.createStream();
  }

  get isIdle(): boolean {
    return this.#waiting.length === 0 && this.#fences.length === 0;
  }

  get isAwaiting(): boolean {
    return this.#fences.length > 0;
  }

  /** Whether `submit` would do something now. */
  get canSubmit(): boolean {
    const job = this.#waiting[0];
    return job !== undefined && this.#fences.length < (job.copies.isStaged ? 1 : MAX_FENCES);
  }

  add(job: LaneJob): void {
    this.#waiting.push(job);
  }

  /** Nothing more of it begins. It settles when what has begun is over; at once when nothing has. */
  stop(job: LaneJob): void {
    if (job.isStopped) return;
    job.isStopped = true;
    const at = this.#waiting.indexOf(job);
    if (at < 0) return; // all of it is on the stream
    this.#waiting.splice(at, 1);
    if (job.fences === 0) job.settled(job.result);
  }

  /** Puts one chunk on the stream. The context is current. */
  submit(endMs: number): void {
    const job = this.#waiting.shift()!;
    if (!job.mayBegin()) job.isStopped = true;
    else if (job.next < job.copies.count) this.#chunk(job, endMs);
    if (job.isStopped || job.next >= job.copies.count) {
      job.isStopped = true;
      if (job.fences === 0) job.settled(job.result);
    } else this.#waiting.push(job);
  }

  /** Ends what is over. True: something was. */
  poll(): boolean {
    const { driver } = this.#options.runtime;
    let ended = 0;
    while (this.#fences.length > 0) {
      const { event, job } = this.#fences[0]!;
      const result = event === 0n ? driver.queryStream(this.#stream) : driver.queryEvent(event);
      if (result === CudaResult.NotReady) {
        this.#options.counters.waits++;
        break;
      }
      if (result !== CudaResult.Success) {
        this.#noted(result);
        if (isContextLost(result) || event === 0n) {
          this.#options.lost(result);
          return true;
        }
        // Says nothing about the copies: the stream does.
        this.#fences[0] = { event: 0n, job };
        this.#idleEvents.push(event);
        if (job.result === CudaResult.Success) job.result = result;
        continue;
      }
      this.#fences.shift();
      if (event !== 0n) this.#idleEvents.push(event);
      ended++;
      this.#ended(job);
    }
    return ended > 0;
  }

  /** The context is gone, and with it everything that was on the stream: no byte moves any more. */
  abandon(result: number): void {
    const jobs = new Set([...this.#waiting, ...this.#fences.map(({ job }) => job)]);
    for (const { event } of this.#fences) if (event !== 0n) this.#idleEvents.push(event);
    this.#waiting.length = 0;
    this.#fences.length = 0;
    for (const job of jobs) {
      job.isStopped = true;
      job.fences = 0;
      job.settled(result);
    }
  }

  /** Nothing is on the stream; the context is current. Errors of a lost context are of no interest. */
  close(): void {
    const { runtime } = this.#options;
    for (const event of this.#idleEvents.splice(0)) this.#quietly(() => runtime.destroyEvent(event));
    this.#quietly(() => runtime.destroyStream(this.#stream));
  }

  #ended(job: LaneJob): void {
    job.fences--;
    if (job.fences === 0 && job.isStopped) job.settled(job.result);
  }

  #chunk(job: LaneJob, endMs: number): void {
    const from = job.next;
    const result = this.#canBatch && !job.copies.isStaged ? this.#batch(job) : this.#singles(job, endMs);
    if (result !== CudaResult.Success) {
      // Copies of the chunk may run: the fence below tells when they are over.
      this.#noted(result);
      job.result = result;
      job.isStopped = true;
    } else this.#count(job, from);
    this.#fence(job);
  }

  #count(job: LaneJob, from: number): void {
    const { counters } = this.#options;
    const { lengths, isStaged } = job.copies;
    let bytes = 0;
    for (let i = from; i < job.next; i++) bytes += lengths[i]!;
    counters.copies += job.next - from;
    counters.bytes += bytes;
    if (isStaged) counters.stagedBytes += bytes;
  }

  #batch(job: LaneJob): number {
    const { runtime, clock, counters } = this.#options;
    const to = Math.min(job.copies.count, job.next + this.#batchCopies);
    const startMs = clock.nowMs();
    const result = runtime.driver.copyBatch(job.copies.tables, job.next, to, this.#stream);
    if (result === CudaResult.NotSupported) {
      this.#canBatch = false;
      return this.#singles(job, Infinity);
    }
    const tookMs = clock.nowMs() - startMs;
    if (tookMs > 0.25) this.#batchCopies = Math.max(MIN_BATCH, this.#batchCopies >> 1);
    else if (tookMs < 0.06 && to - job.next === this.#batchCopies) this.#batchCopies = Math.min(MAX_BATCH, this.#batchCopies << 1);
    counters.batches++;
    job.next = to;
    return result;
  }

  #singles(job: LaneJob, endMs: number): number {
    const { runtime, clock, counters } = this.#options;
    const { direction, tables, isStaged, count } = job.copies;
    const last = Math.min(count, job.next + (isStaged ? 1 : MAX_SINGLES));
    let at = job.next;
    let result: number = CudaResult.Success;
    while (at < last) {
      result = runtime.driver.copy(direction, tables.targets[at]!, tables.sources[at]!, tables.lengths[at]!, this.#stream);
      if (result !== CudaResult.Success) break;
      at++;
      if (at % CLOCK_EVERY === 0 && clock.nowMs() >= endMs) break;
    }
    counters.singles += at - job.next;
    job.next = at;
    return result;
  }

  #fence(job: LaneJob): void {
    const { runtime } = this.#options;
    let event = this.#idleEvents.pop() ?? this.#newEvent();
    if (event !== 0n) {
      const result = runtime.driver.record(event, this.#stream);
      if (result !== CudaResult.Success) {
        this.#noted(result);
        this.#idleEvents.push(event);
        event = 0n;
      }
    }
    job.fences++;
    this.#fences.push({ event, job });
  }

  #newEvent(): CudaHandle {
    try {
      return this.#options.runtime.createEvent();
    } catch {
      this.#options.counters.failed('cuEventCreate');
      return 0n;
    }
  }

  #noted(result: number): void {
    this.#options.counters.failed(this.#options.runtime.driver.errorName(result));
  }

  #quietly(call: () => void): void {
    try {
      call();
    } catch {
      this.#options.counters.failed('close');
    }
  }
}
