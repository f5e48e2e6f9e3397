import { FinishCode } from '@armature/contracts';
import type { Clock, ErrorData, PlaneMessage, PlaneStream, Random, RequestPlane, StreamHandler, StreamOpen, StreamSink, Timer, WorkerRecord, WorkerRole } from '@armature/contracts';
import { Method } from '../messages.ts';
import { workerRecord } from '../test-support/fakes.ts';

/** What an engine draws: a function of seed, choice and output index alone. */
export function draw(seed: number, choice: number, index: number): number {
  let hash = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(choice + 1, 0xc2b2ae35) ^ Math.imul(index + 1, 0x27d4eb2f);
  hash ^= hash >>> 15;
  return (Math.imul(hash, 0x2c1b3c6d) >>> 8) & 0xffff;
}

const gone: ErrorData = { code: 'PLANE_DISCONNECTED', message: 'the connection was lost', retryable: true };
const late: ErrorData = { code: 'PLANE_DEADLINE_EXCEEDED', message: 'late' };

/** Workers that compute by `draw`, on a plane with random delays; they can be killed, stopped, drained. */
export class FakeCluster implements RequestPlane {
  readonly supports = { processes: true };
  readonly clock: Clock;
  readonly random: Random;
  readonly workers = new Map<string, FakeWorker>();
  readonly streams = new Set<FakeStream>();
  /** What engines found wrong with what they were given. */
  readonly complaints: string[] = [];
  prefills = 0;
  /** Fewer words of the truth: breaks the property, for sabotage. */
  sabotage: 'none' | 'no-choice' | 'no-output' = 'none';

  constructor(clock: Clock, random: Random) {
    this.clock = clock;
    this.random = random;
  }

  add(name: string, role: WorkerRole): FakeWorker {
    const worker = new FakeWorker(this, workerRecord(name, role, { instanceId: `${name}@${this.random.u32()}`, address: `fake:${name}:${this.random.u32()}` }));
    this.workers.set(worker.record.address, worker);
    return worker;
  }

  delay(): number {
    return 1 + this.random.below(8);
  }

  async serve(_name: string, _handler: StreamHandler): Promise<{ address: string; close(): Promise<void> }> {
    throw new Error('the workers are made of paper');
  }

  open(address: string, open: StreamOpen, sink: StreamSink): PlaneStream {
    const stream = new FakeStream(this, this.workers.get(address), open, sink);
    this.streams.add(stream);
    stream.begin();
    return stream;
  }

  get leases(): number {
    let count = 0;
    for (const worker of this.workers.values()) count += worker.leases.size;
    return count;
  }
}

export class FakeWorker {
  readonly cluster: FakeCluster;
  readonly record: WorkerRecord;
  readonly streams = new Set<FakeStream>();
  /** Until when each lives, Infinity while its prefill runs. */
  readonly leases = new Map<number, { untilMs: number }>();
  state: 'running' | 'stopped' | 'dead' = 'running';
  isDraining = false;
  #held: (() => void)[] = [];
  #lease = 0;

  constructor(cluster: FakeCluster, record: WorkerRecord) {
    this.cluster = cluster;
    this.record = record;
  }

  /** Runs now, or when the worker runs again; never when it is dead. */
  act(what: () => void): void {
    if (this.state === 'running') what();
    else if (this.state === 'stopped') this.#held.push(what);
  }

  later(delayMs: number, what: () => void): void {
    this.cluster.clock.setTimer(delayMs, () => this.act(what));
  }

  stop(): void {
    if (this.state === 'running') this.state = 'stopped';
  }

  resume(): void {
    if (this.state !== 'stopped') return;
    this.state = 'running';
    for (const what of this.#held.splice(0)) this.act(what);
  }

  kill(): void {
    this.state = 'dead';
    this.#held = [];
    this.leases.clear();
    for (const stream of [...this.streams]) stream.lose();
  }

  grant(): number {
    this.leases.set(++this.#lease, { untilMs: Infinity });
    return this.#lease;
  }

  isLeased(lease: number): boolean {
    return (this.leases.get(lease)?.untilMs ?? -1) > this.cluster.clock.nowMs();
  }

  renew(lease: number, ttlMs: number): boolean {
    const entry = this.leases.get(lease);
    if (entry === undefined || !this.isLeased(lease)) return false;
    entry.untilMs = this.cluster.clock.nowMs() + ttlMs;
    return true;
  }

  release(lease: number): boolean {
    const isValid = this.isLeased(lease);
    this.leases.delete(lease);
    return isValid;
  }

  expire(): void {
    for (const lease of [...this.leases.keys()]) if (!this.isLeased(lease)) this.leases.delete(lease);
  }
}

/** One stream with both its ends: the caller's `PlaneStream`, and the leg that the worker computes. */
export class FakeStream implements PlaneStream {
  readonly #cluster: FakeCluster;
  readonly #worker: FakeWorker | undefined;
  readonly #open: StreamOpen;
  readonly #sink: StreamSink;
  readonly #timer: Timer;
  #isClosed = false;
  /** Nothing overtakes on the way to the caller, nor to the worker. */
  #arrivesAtMs = 0;
  #reachesAtMs = 0;
  #isCancelled = false;
  #lease = 0;
  /** Of a decode leg. */
  #source: { address: string; lease: number; tokens: number } | undefined = undefined;
  #isStarted = false;
  #isDecoding = false;

  constructor(cluster: FakeCluster, worker: FakeWorker | undefined, open: StreamOpen, sink: StreamSink) {
    this.#cluster = cluster;
    this.#worker = worker;
    this.#open = open;
    this.#sink = sink;
    this.#timer = cluster.clock.setTimer(open.deadlineMs, () => this.#expire());
  }

  begin(): void {
    const worker = this.#worker;
    if (worker === undefined || worker.state === 'dead') {
      this.#cluster.clock.setTimer(this.#cluster.delay(), () => this.#end({ code: 'PLANE_UNREACHABLE', message: 'nobody there', retryable: true }));
      return;
    }
    worker.streams.add(this);
    this.#reach(() => this.#accept(worker));
  }

  send(message: PlaneMessage): boolean {
    if (!this.#isClosed) this.#reach(() => this.#told(message));
    return true;
  }

  close(error?: ErrorData): void {
    if (this.#isClosed) return;
    this.#end(error);
    this.#reach(() => this.#cancelled(error?.code));
  }

  /** The worker's host is gone. */
  lose(): void {
    this.#cluster.clock.setTimer(this.#cluster.delay(), () => this.#end(gone));
  }

  #reach(what: () => void): void {
    const { clock } = this.#cluster;
    this.#reachesAtMs = Math.max(this.#reachesAtMs, clock.nowMs() + this.#cluster.delay());
    this.#worker?.later(this.#reachesAtMs - clock.nowMs(), what);
  }

  #end(error: ErrorData | undefined): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#cluster.clock.clearTimer(this.#timer);
    this.#cluster.streams.delete(this);
    this.#worker?.streams.delete(this);
    this.#sink.closed(error);
    if (this.#cluster.random.below(4) > 0) return;
    this.#sink.closed(gone); // said twice, and something after it: nobody may listen
    this.#sink.message({ type: 'tokens', count: 1, tokenIds: Int32Array.of(99), finish: Uint8Array.of(FinishCode.None), topCount: 0 });
    this.#sink.message({ type: 'end', promptTokens: 1, cachedTokens: 0, outputTokens: 1, eventId: 0 });
  }

  /** The plane's own timer: it ends on both sides. */
  #expire(): void {
    this.#end(late);
    this.#worker?.act(() => this.#cancelled(late.code));
  }

  #reply(message: PlaneMessage, closes = false): void {
    const { clock } = this.#cluster;
    this.#arrivesAtMs = Math.max(this.#arrivesAtMs, clock.nowMs() + this.#cluster.delay());
    clock.setTimer(this.#arrivesAtMs - clock.nowMs(), () => {
      if (this.#isClosed) return;
      this.#sink.message(message);
      if (closes) this.#end(undefined);
    });
  }

  #refuse(error: ErrorData): void {
    this.#cluster.clock.setTimer(this.#cluster.delay(), () => this.#end(error));
  }

  // ---------------------------------------------------------------- the worker's side

  #accept(worker: FakeWorker): void {
    const { method, message } = this.#open;
    if (this.#isCancelled) return;
    if (method === Method.Probe) return this.#reply({ type: 'probe', well: !worker.isDraining }, true);
    if (method === Method.RenewLease) return this.#reply({ type: 'lease', valid: worker.renew(Number(message['lease']), Number(message['ttlMs'])) }, true);
    if (method === Method.ReleaseLease) return this.#reply({ type: 'lease', valid: worker.release(Number(message['lease'])) }, true);
    if (worker.isDraining) return this.#refuse({ code: 'SERVING_WORKER_DRAINING', message: 'draining', retryable: true });
    if (method === Method.Decode) this.#source = { address: String((message['source'] as { address: string }).address), lease: 0, tokens: 0 };
    else if (message['leg'] === 'prefill') this.#prefill(worker);
    else this.#decode(worker, this.#outputs());
  }

  get #seed(): number {
    return (this.#open.message['sampling'] as { seedLo: number }).seedLo;
  }

  get #firstChoice(): number {
    return this.#cluster.sabotage === 'no-choice' ? 0 : Number(this.#open.message['firstChoice']);
  }

  /** Output so far of each choice; what came with the request must be what another worker would have drawn. */
  #outputs(firstTokens?: Int32Array): number[] {
    const { message } = this.#open;
    const given = (message['tokenIds'] as Int32Array).subarray(Number(message['promptTokens']));
    const choices = Number(message['choices']);
    for (let i = 0; i < given.length; i++) {
      if (given[i] !== draw(this.#seed, this.#firstChoice, i)) this.#cluster.complaints.push(`output token ${i} of choice ${this.#firstChoice} is not that of the run before`);
    }
    if (given.length > 0 && choices !== 1) this.#cluster.complaints.push('output of several choices in one sequence');
    const lengths = Array.from({ length: choices }, () => (this.#cluster.sabotage === 'no-output' ? 0 : given.length));
    firstTokens?.forEach((token, choice) => (lengths[choice] = token === -1 ? Infinity : 1));
    return lengths;
  }

  #tokens(lengths: number[]): PlaneMessage {
    const maxTokens = Number((this.#open.message['stop'] as { maxTokens: number }).maxTokens);
    const open = lengths.flatMap((length, choice) => (length < maxTokens ? [choice] : []));
    const finish = Uint8Array.from(open, (choice) => (lengths[choice]! + 1 === maxTokens ? FinishCode.Length : FinishCode.None));
    const tokenIds = Int32Array.from(open, (choice) => draw(this.#seed, this.#firstChoice + choice, lengths[choice]!));
    for (const choice of open) lengths[choice]!++;
    return { type: 'tokens', count: open.length, tokenIds, choices: lengths.length > 1 ? Uint8Array.from(open) : undefined, finish, topCount: 0 };
  }

  #prefill(worker: FakeWorker): void {
    const tokens = Number(this.#open.message['promptTokens']);
    const ttlMs = Number(this.#open.message['leaseTtlMs']);
    this.#cluster.prefills++;
    this.#lease = worker.grant();
    const progress = (done: number): PlaneMessage => ({ type: 'prefilled', lease: this.#lease, blocks: Int32Array.of(1, 2, 3), tokens: done, cachedTokens: 0 });
    worker.later(5 + this.#cluster.random.below(20), () => {
      if (this.#isCancelled) return;
      this.#reply(progress(4));
      worker.later(5 + this.#cluster.random.below(40), () => {
        if (this.#isCancelled) return;
        this.#reply(progress(tokens));
        worker.renew(this.#lease, ttlMs);
        this.#reply(this.#tokens(Array.from({ length: Number(this.#open.message['choices']) }, () => 0)));
        this.#reply({ type: 'end', promptTokens: tokens, cachedTokens: 0, outputTokens: 1, eventId: 0 }, true);
      });
    });
  }

  #decode(worker: FakeWorker, lengths: number[]): void {
    this.#isDecoding = true;
    const maxTokens = Number((this.#open.message['stop'] as { maxTokens: number }).maxTokens);
    const step = (): void => {
      if (this.#isCancelled) return;
      this.#reply(this.#tokens(lengths));
      if (lengths.every((length) => length >= maxTokens)) this.#reply({ type: 'end', promptTokens: Number(this.#open.message['promptTokens']), cachedTokens: 0, outputTokens: 1, eventId: 0 }, true);
      else worker.later(1 + this.#cluster.random.below(12), step);
    };
    worker.later(5 + this.#cluster.random.below(20), step);
  }

  #told(message: PlaneMessage): void {
    const source = this.#source;
    const worker = this.#worker;
    if (this.#isCancelled || source === undefined || worker === undefined) return;
    if (message.type === 'prefilled') {
      source.lease = Number(message['lease']);
      source.tokens = Number(message['tokens']);
    } else if (message.type === 'start' && !this.#isStarted) {
      this.#isStarted = true;
      worker.later(5 + this.#cluster.random.below(60), () => this.#pulled(worker, source, message['firstTokens'] as Int32Array | undefined));
    }
  }

  #pulled(worker: FakeWorker, source: { address: string; lease: number }, firstTokens: Int32Array | undefined): void {
    if (this.#isCancelled) return;
    const isValid = this.#releaseAt(source);
    this.#reply({ type: 'transferred', matchedBlocks: 0, movedBlocks: isValid ? 3 : 0, movedBytes: 0, durationMs: 1, outcome: isValid ? 'valid' : 'lease-expired' });
    this.#decode(worker, this.#outputs(firstTokens));
  }

  #releaseAt({ address, lease }: { address: string; lease: number }): boolean {
    const from = this.#cluster.workers.get(address);
    return lease !== 0 && from?.state === 'running' && from.release(lease);
  }

  #cancelled(code: string | undefined): void {
    if (this.#isCancelled) return;
    this.#isCancelled = true;
    if (this.#lease !== 0) this.#worker?.renew(this.#lease, Number(this.#open.message['leaseTtlMs'])); // its time begins
    if (this.#source !== undefined && !this.#isDecoding && code !== 'SERVING_DECODE_MOVED') this.#releaseAt(this.#source);
  }
}
