import type {
  Clock,
  ErrorData,
  Logger,
  Metrics,
  PlaneMessage,
  PlaneStream,
  Random,
  RequestPlane,
  StreamHandler,
  StreamOpen,
  StreamSink,
  Timer,
  WorkerRecord,
} from '@armature/contracts';

/** A clock that moves only when told. */
export class ManualClock implements Clock {
  #now = 0;
  #sequence = 0;
  readonly #timers = new Map<Timer, { readonly dueMs: number; readonly order: number; readonly callback: () => void }>();

  nowMs(): number {
    return this.#now;
  }
  wallMs(): number {
    return this.#now;
  }
  setTimer(delayMs: number, callback: () => void): Timer {
    const timer = {};
    this.#timers.set(timer, { dueMs: this.#now + delayMs, order: this.#sequence++, callback });
    return timer;
  }
  clearTimer(timer: Timer): void {
    this.#timers.delete(timer);
  }
  defer(callback: () => void): void {
    this.setTimer(0, callback);
  }
  async sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => void this.setTimer(delayMs, resolve));
  }
  get pendingTimers(): number {
    return this.#timers.size;
  }
  advance(byMs: number): void {
    const until = this.#now + byMs;
    for (;;) {
      const next = [...this.#timers].filter(([, t]) => t.dueMs <= until).sort(([, a], [, b]) => a.dueMs - b.dueMs || a.order - b.order)[0];
      if (next === undefined) break;
      this.#timers.delete(next[0]);
      this.#now = next[1].dueMs;
      next[1].callback();
    }
    this.#now = until;
  }
}

export const silentLog: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLog,
  isEnabled: () => false,
};

/** Metrics whose counters can be read. */
export class CountingMetrics implements Metrics {
  readonly values = new Map<string, number>();

  counter(spec: { readonly name: string }): ReturnType<Metrics['counter']> {
    return { with: (...labels) => ({ inc: (by = 1) => this.#add(spec.name, labels, by) }) };
  }
  gauge(spec: { readonly name: string }): ReturnType<Metrics['gauge']> {
    return { with: (...labels) => ({ set: (value) => void this.values.set(key(spec.name, labels), value), add: (by) => this.#add(spec.name, labels, by) }) };
  }
  histogram(): ReturnType<Metrics['histogram']> {
    return { with: () => ({ observe: () => undefined }) };
  }
  onCollect(): () => void {
    return () => undefined;
  }
  /** Sum over all label sets of a name. */
  total(name: string): number {
    let sum = 0;
    for (const [id, value] of this.values) if (id === name || id.startsWith(`${name}{`)) sum += value;
    return sum;
  }
  #add(name: string, labels: readonly string[], by: number): void {
    const id = key(name, labels);
    this.values.set(id, (this.values.get(id) ?? 0) + by);
  }
}

function key(name: string, labels: readonly string[]): string {
  return labels.length === 0 ? name : `${name}{${labels.join(',')}}`;
}

/** mulberry32: small, seeded, good enough for tests. */
export function testRandom(seed: number): Random {
  let state = seed >>> 0;
  const u32 = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
  return { u32, next: () => u32() / 2 ** 32, below: (bound) => Math.floor((u32() / 2 ** 32) * bound), fork: (label) => testRandom(seed + label.length * 7919) };
}

/** One opened stream as the fake plane sees it; the test plays the worker. */
export class FakeCall implements PlaneStream {
  readonly address: string;
  readonly open: StreamOpen;
  readonly received: PlaneMessage[] = [];
  closedByCaller: ErrorData | 'normal' | undefined;
  readonly #sink: StreamSink;
  #isClosed = false;

  constructor(address: string, open: StreamOpen, sink: StreamSink) {
    this.address = address;
    this.open = open;
    this.#sink = sink;
  }
  /** The caller sends. */
  send(message: PlaneMessage): boolean {
    this.received.push(message);
    return true;
  }
  /** The caller closes. */
  close(error?: ErrorData): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.closedByCaller = error ?? 'normal';
    this.#sink.closed(error);
  }
  /** The worker answers. */
  reply(message: PlaneMessage): void {
    if (!this.#isClosed) this.#sink.message(message);
  }
  /** The worker ends the stream. */
  finish(error?: ErrorData): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#sink.closed(error);
  }
  get isClosed(): boolean {
    return this.#isClosed;
  }
}

/** Records every opened stream; nothing is delivered by itself. */
export class FakePlane implements RequestPlane {
  readonly supports = { processes: false };
  readonly calls: FakeCall[] = [];
  /** Called for each new stream. */
  onOpen: ((call: FakeCall) => void) | undefined;

  async serve(name: string, _handler: StreamHandler): Promise<{ address: string; close(): Promise<void> }> {
    return { address: `fake:${name}`, close: async () => undefined };
  }
  open(address: string, open: StreamOpen, sink: StreamSink): PlaneStream {
    const call = new FakeCall(address, open, sink);
    this.calls.push(call);
    this.onOpen?.(call);
    return call;
  }
  to(address: string, method?: string): FakeCall[] {
    return this.calls.filter((call) => call.address === address && (method === undefined || call.open.method === method));
  }
}

export function workerRecord(name: string, role: WorkerRecord['role'], more: Partial<WorkerRecord> = {}): WorkerRecord {
  return {
    instanceId: `${name}@1`,
    model: 'm',
    pool: name.split('/')[0] ?? name,
    index: 0,
    dpRank: 0,
    role,
    address: `fake:${name}`,
    engine: 'fake',
    hardware: 'default',
    costPerHour: 1,
    taints: [],
    kvEvents: true,
    blockSize: 4,
    totalBlocks: 100,
    maxModelTokens: 1000,
    maxBatchedTokens: 512,
    firstToken: 'prefill',
    modelFingerprint: 'f',
    layoutFingerprint: 'layout',
    agentMetadata: new Uint8Array([1]),
    protocol: 1,
    ...more,
  };
}
