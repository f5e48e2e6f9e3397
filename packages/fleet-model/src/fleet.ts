import { ArmatureError } from '@armature/contracts';
import type { PassColumns, PlannedPool, PlannedState, WorkerRole } from '@armature/contracts';
import { latencyBucket, Measures } from './measures.ts';
import { ModelWorker } from './model-worker.ts';
import type { WorkerListener } from './model-worker.ts';
import { newSequence } from './sequence.ts';
import type { Sequence } from './sequence.ts';
import { TimeHeap } from './time-heap.ts';
import type { PassTiming } from './timing.ts';

export interface FleetPool extends PlannedPool {
  readonly timing: PassTiming;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  /** KV capacity of one worker. */
  readonly kvTokens: number;
  /** Ready at the beginning. */
  readonly replicas: number;
}

export interface FleetOptions {
  readonly pools: readonly FleetPool[];
  readonly objective: { readonly ttftMs: number; readonly itlMs: number };
  /** Prompts with fewer uncached tokens are prefilled where they decode. */
  readonly thresholdTokens?: number;
  /** Of the KV of a remote prefill: milliseconds per request and per prompt token. */
  readonly transferMs: number;
  readonly transferMsPerToken: number;
  /** How long a draining worker may go on with what it has; then that moves elsewhere and is computed again. */
  readonly drainMs: number;
  /** From the end of a worker's drain until it takes requests in another role. */
  readonly roleChangeMs: number;
  /** Workers that play another pool's role at the beginning, beside the `replicas` of their own. */
  readonly lent?: readonly { readonly from: string; readonly to: string; readonly workers: number }[];
  /** Workers that were ordered before the beginning, and when they come. */
  readonly starting?: readonly { readonly pool: string; readonly inMs: number }[];
}

/** What a pool has to do at the beginning. */
export interface PreloadedWork {
  /** Sequences that decode. */
  readonly running: number;
  /** Prompt tokens that wait. */
  readonly prefillTokens: number;
  /** Lengths of the next sequence of them. */
  readonly lengths: () => { readonly promptTokens: number; readonly outputTokens: number };
  /** How long their tokens took so far. */
  readonly itlMs: number;
}

/** Workers of a pool by what they do, and sums over those that take requests. */
export interface FleetPoolState {
  readonly pool: string;
  readonly desired: number;
  readonly ready: number;
  readonly starting: number;
  readonly draining: number;
  readonly lent: number;
  readonly running: number;
  readonly waiting: number;
  readonly prefillTokens: number;
  /** KV tokens promised to sequences. */
  readonly claimedTokens: number;
  readonly kvTokens: number;
}

interface Member {
  readonly id: number;
  readonly home: number;
  /** Pool whose work it does. */
  plays: number;
  state: 'starting' | 'ready' | 'draining' | 'gone';
  engine: ModelWorker;
}

/**
 * Request-level model of a fleet: arrivals, least-loaded placement, continuous batching pass by pass, KV transfer, start-up, drain, role change. Tokens are
 * counts and cached tokens are given, so that a request costs a few microseconds: for what-if questions and for training. Deterministic; virtual time is
 * given by the caller. The whole cluster on production code is @armature/simulator's.
 */
export class FleetModel {
  readonly #options: FleetOptions;
  readonly #listener: WorkerListener;
  readonly #members: Member[];
  readonly #desired: number[];
  readonly #steps: TimeHeap;
  readonly #timers: TimeHeap;
  readonly #actions: (() => void)[];
  readonly #freeActions: number[];
  readonly #onDrained: Map<Member, () => void>;
  /** Requests that no worker can take now. */
  readonly #backlog: Sequence[];
  #threshold: number;
  #nowMs: number;
  #gpuRate: number;
  #costRate: number;
  #acting: Member | undefined;
  #measures: Measures;

  constructor(options: FleetOptions) {
    if (options.pools.length === 0) throw new ArmatureError('FLEET_POOLS_MISSING', 'a fleet needs a pool', { hint: 'name at least one pool of workers' });
    this.#options = options;
    this.#members = [];
    this.#desired = options.pools.map(({ replicas }) => replicas);
    this.#steps = new TimeHeap();
    this.#timers = new TimeHeap();
    this.#actions = [];
    this.#freeActions = [];
    this.#onDrained = new Map();
    this.#backlog = [];
    this.#threshold = options.thresholdTokens ?? 0;
    this.#nowMs = 0;
    this.#gpuRate = 0;
    this.#costRate = 0;
    this.#acting = undefined;
    this.#measures = new Measures();
    this.#listener = {
      prefilled: (sequence, atMs) => this.#prefilled(sequence, atMs),
      finished: (sequence, atMs) => this.#finished(sequence, atMs),
    };
    options.pools.forEach((pool, i) => {
      for (let k = 0; k < pool.replicas; k++) this.#newMember(i).state = 'ready';
    });
    for (const { from, to, workers } of options.lent ?? []) {
      for (let k = 0; k < workers; k++) Object.assign(this.#newMember(this.#indexOf(from)), { state: 'ready', plays: this.#indexOf(to) });
    }
    for (const { pool, inMs } of options.starting ?? []) {
      const member = this.#newMember(this.#indexOf(pool));
      this.#desired[member.home]++;
      this.#after(inMs, () => this.#join(member));
    }
    options.pools.forEach(({ pool }, i) => {
      this.#desired[i] += (options.lent ?? []).filter(({ from }) => from === pool).reduce((sum, { workers }) => sum + workers, 0);
    });
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Requests that are somewhere in the fleet. */
  get inFlight(): number {
    return this.#backlog.length + this.#members.reduce((sum, { engine }) => sum + engine.running + engine.waiting, 0);
  }

  /** A request arrives; time must not go back. `cachedTokens` of its prompt are held by the worker it will get. */
  arrive(atMs: number, promptTokens: number, cachedTokens: number, outputTokens: number): void {
    this.advance(atMs);
    const sequence = newSequence(atMs, promptTokens, cachedTokens, outputTokens);
    this.#measures.arrived++;
    this.#measures.arrivedPromptTokens += promptTokens;
    this.#place(sequence);
  }

  /** Everything until then happens. */
  advance(toMs: number): void {
    for (;;) {
      const [stepMs, timerMs] = [this.#steps.nextMs, this.#timers.nextMs];
      const nextMs = Math.min(stepMs, timerMs);
      if (nextMs > toMs) break;
      this.#pass(nextMs);
      if (timerMs <= stepMs) this.#act(this.#timers.pop());
      else this.#step(this.#members[this.#steps.pop()], nextMs);
    }
    this.#pass(toMs);
  }

  /** Passes of a pool's workers since the last call, the latest 16 of each. */
  passes(poolName: string): PassColumns {
    const rows: number[][] = [[], [], [], []];
    const index = this.#indexOf(poolName);
    for (const member of this.#members) {
      if (member.plays !== index || member.state === 'gone') continue;
      member.engine.takePasses((...values) => values.forEach((value, k) => rows[k].push(value)));
    }
    const [prefillTokens, decodeSequences, contextTokens, ms] = rows.map((row) => Float64Array.from(row));
    return { prefillTokens, decodeSequences, contextTokens, ms };
  }

  /** What happened since the last call. */
  measure(): Measures {
    const measures = this.#measures;
    this.#measures = new Measures();
    for (const { engine } of this.#members) measures.generatedTokens += engine.takeGenerated();
    return measures;
  }

  /** Orders workers; what is left out stays. Starting and draining take their time. */
  apply(state: PlannedState): void {
    const { pools } = this.#options;
    pools.forEach(({ pool }, i) => {
      const wanted = state.replicas[pool];
      if (wanted === undefined) return;
      this.#desired[i] = wanted;
      this.#resize(i, wanted);
    });
    for (const { from, to, workers } of state.lent) this.#lend(this.#indexOf(from), this.#indexOf(to), workers);
    if (state.thresholdTokens !== undefined) this.#threshold = state.thresholdTokens;
  }

  pools(): FleetPoolState[] {
    return this.#options.pools.map((pool, i) => {
      const home = this.#members.filter((member) => member.home === i && member.state !== 'gone');
      const here = this.#members.filter((member) => member.plays === i && member.state === 'ready');
      const sum = (of: (engine: ModelWorker) => number): number => here.reduce((total, { engine }) => total + of(engine), 0);
      return {
        pool: pool.pool,
        desired: this.#desired[i],
        ready: home.filter(({ state, plays }) => state === 'ready' && plays === i).length,
        starting: home.filter(({ state }) => state === 'starting').length,
        draining: home.filter(({ state }) => state === 'draining').length,
        lent: home.filter(({ state, plays }) => state === 'ready' && plays !== i).length,
        running: sum((engine) => engine.running),
        waiting: sum((engine) => engine.waiting),
        prefillTokens: sum((engine) => engine.prefillTokens),
        claimedTokens: sum((engine) => engine.claimedTokens),
        kvTokens: pool.kvTokens * here.length,
      };
    });
  }

  /**
   * Work that is there already, spread evenly: for questions that begin in the middle. Decoding sequences have got half of their output, on average, at
   * `itlMs` per token, and are measured as the others; `random` gives the progress of each. Prompts that wait take time and are not measured: since when they
   * wait is not known.
   */
  preload(poolName: string, work: PreloadedWork, random: () => number): void {
    const index = this.#indexOf(poolName);
    const here = this.#members.filter(({ plays, state }) => plays === index && state === 'ready');
    if (here.length === 0) return;
    if (this.#roleOf(index) !== 'prefill') {
      for (let i = 0; i < work.running; i++) {
        const lengths = work.lengths();
        const outputTokens = Math.max(2, Math.round(lengths.outputTokens));
        const produced = 1 + Math.floor(random() * (outputTokens - 1));
        const sequence = newSequence(this.#nowMs - produced * work.itlMs, Math.max(1, Math.round(lengths.promptTokens)), 0, outputTokens);
        sequence.produced = produced;
        sequence.firstTokenMs = sequence.arrivedMs;
        this.#give(here[i % here.length], sequence, true);
      }
    }
    let left = work.prefillTokens;
    for (let i = 0; left > 0; i++) {
      const { promptTokens, outputTokens } = work.lengths();
      const tokens = Math.min(left, Math.max(1, Math.round(promptTokens)));
      const sequence = newSequence(this.#nowMs, tokens, 0, Math.max(1, Math.round(outputTokens)));
      sequence.isCounted = false;
      this.#give(here[i % here.length], sequence, false);
      left -= tokens;
    }
  }

  #indexOf(name: string): number {
    const index = this.#options.pools.findIndex(({ pool }) => pool === name);
    if (index < 0) throw new ArmatureError('FLEET_POOL_UNKNOWN', `the fleet has no pool "${name}"`, { hint: `it has: ${this.#options.pools.map(({ pool }) => pool).join(', ')}` });
    return index;
  }

  #roleOf(index: number): WorkerRole {
    return this.#options.pools[index].role;
  }

  #newMember(home: number): Member {
    const pool = this.#options.pools[home];
    const member: Member = { id: this.#members.length, home, plays: home, state: 'starting', engine: new ModelWorker(pool) };
    this.#members.push(member);
    this.#gpuRate += pool.gpusPerWorker;
    this.#costRate += pool.costPerHour;
    return member;
  }

  /** Time goes on: what runs is paid. */
  #pass(toMs: number): void {
    const ms = toMs - this.#nowMs;
    if (ms <= 0) return;
    this.#measures.gpuMs += ms * this.#gpuRate;
    this.#measures.cost += (ms / 3_600_000) * this.#costRate;
    this.#nowMs = toMs;
  }

  #after(ms: number, action: () => void): void {
    const slot = this.#freeActions.pop() ?? this.#actions.length;
    this.#actions[slot] = action;
    this.#timers.push(this.#nowMs + ms, slot);
  }

  #act(slot: number): void {
    const action = this.#actions[slot];
    this.#freeActions.push(slot);
    action();
  }

  #step(member: Member, atMs: number): void {
    // Entries of steps that were cut short, or of a worker that is gone, are outdated.
    if (member.state === 'gone' || member.engine.stepEndsMs !== atMs) return;
    this.#acting = member;
    member.engine.turn(atMs, this.#listener);
    this.#acting = undefined;
    if (member.engine.isBusy) this.#steps.push(member.engine.stepEndsMs, member.id);
    else if (member.state === 'draining') this.#drained(member);
  }

  /** Least loaded first; a tie goes to the oldest worker. */
  #least(role: 'prefill' | 'decode', load: (engine: ModelWorker) => number): Member | undefined {
    let best: Member | undefined;
    let least = Infinity;
    for (const member of this.#members) {
      if (member.state !== 'ready') continue;
      const plays = this.#roleOf(member.plays);
      if (plays !== role && plays !== 'both') continue;
      const value = load(member.engine);
      if (value < least) {
        least = value;
        best = member;
      }
    }
    return best;
  }

  #place(sequence: Sequence): void {
    const decode = this.#least('decode', (engine) => engine.claimedTokens + 8 * engine.prefillTokens);
    const isLocal = sequence.toPrefill < this.#threshold && decode !== undefined;
    const prefill = isLocal ? undefined : this.#least('prefill', (engine) => engine.prefillTokens + engine.claimedTokens / 1024);
    if (prefill !== undefined && decode !== undefined && this.#roleOf(prefill.plays) === 'prefill') {
      this.#measures.remotePrefills++;
      this.#give(prefill, sequence, false);
    } else if (decode !== undefined) this.#give(decode, sequence, false);
    else this.#backlog.push(sequence);
  }

  #give(member: Member, sequence: Sequence, isReady: boolean): void {
    const { engine } = member;
    const endsBefore = engine.stepEndsMs;
    if (isReady) engine.addReady(sequence, this.#nowMs);
    else engine.addPrompt(sequence, this.#nowMs);
    if (!engine.isBusy && member !== this.#acting) engine.turn(this.#nowMs, this.#listener);
    if (engine.stepEndsMs !== endsBefore && engine.isBusy) this.#steps.push(engine.stepEndsMs, member.id);
  }

  #prefilled(sequence: Sequence, atMs: number): 'stays' | 'leaves' {
    this.#countFirst(sequence, atMs);
    if (this.#acting === undefined || this.#roleOf(this.#acting.plays) !== 'prefill') return 'stays';
    const { transferMs, transferMsPerToken } = this.#options;
    this.#after(transferMs + transferMsPerToken * sequence.promptTokens, () => this.#arriveForDecode(sequence));
    return 'leaves';
  }

  #arriveForDecode(sequence: Sequence): void {
    const decode = this.#least('decode', (engine) => engine.claimedTokens + 8 * engine.prefillTokens);
    if (decode !== undefined) this.#give(decode, sequence, true);
    else this.#again(sequence);
  }

  /** Its KV is lost: prompt and output so far are computed again. */
  #again(sequence: Sequence): void {
    sequence.toPrefill = sequence.promptTokens + sequence.produced;
    this.#place(sequence);
  }

  #countFirst(sequence: Sequence, atMs: number): void {
    if (sequence.isCounted && sequence.firstTokenMs === atMs && sequence.produced === 1) this.#measures.ttft[latencyBucket(atMs - sequence.arrivedMs)]++;
  }

  #finished(sequence: Sequence, atMs: number): void {
    if (!sequence.isCounted) return;
    if (sequence.outputTokens === 1) this.#countFirst(sequence, atMs);
    const { objective } = this.#options;
    const measures = this.#measures;
    const ttftMs = sequence.firstTokenMs - sequence.arrivedMs;
    const itlMs = sequence.outputTokens > 1 ? (atMs - sequence.firstTokenMs) / (sequence.outputTokens - 1) : 0;
    measures.finished++;
    measures.promptTokens += sequence.promptTokens;
    measures.cachedTokens += sequence.cachedTokens;
    measures.outputTokens += sequence.outputTokens;
    measures.sample(sequence.promptTokens, sequence.cachedTokens, sequence.outputTokens);
    if (sequence.outputTokens > 1) measures.itl[latencyBucket(itlMs)]++;
    if (ttftMs <= objective.ttftMs && itlMs <= objective.itlMs) measures.withinObjective++;
  }

  #resize(index: number, wanted: number): void {
    const alive = this.#members.filter(({ home, state }) => home === index && (state === 'starting' || state === 'ready'));
    for (let k = alive.length; k < wanted; k++) {
      const member = this.#newMember(index);
      this.#after(this.#options.pools[index].startupMs, () => this.#join(member));
    }
    // Those that do not work yet first, then the youngest.
    const leaving = [...alive].sort((a, b) => Number(a.state === 'ready') - Number(b.state === 'ready') || b.id - a.id).slice(0, Math.max(0, alive.length - wanted));
    for (const member of leaving) {
      if (member.state === 'starting') this.#leave(member);
      else this.#drain(member, () => this.#leave(member));
    }
  }

  #lend(from: number, to: number, workers: number): void {
    const kind = this.#options.pools[from].roleChange;
    if (kind === 'none') return;
    const lent = this.#members.filter(({ home, plays, state }) => home === from && plays === to && state === 'ready');
    const own = this.#members.filter(({ home, plays, state }) => home === from && plays === from && state === 'ready');
    const move = (member: Member, role: number): void => {
      const delay = kind === 'restart' ? this.#options.pools[from].startupMs : this.#options.roleChangeMs;
      this.#drain(member, () => {
        member.plays = role;
        member.state = 'starting';
        this.#after(delay, () => this.#join(member));
      });
    };
    for (const member of own.slice(own.length - Math.max(0, Math.min(own.length, workers - lent.length)))) move(member, to);
    for (const member of lent.slice(workers)) move(member, from);
  }

  #join(member: Member): void {
    if (member.state !== 'starting') return;
    member.state = 'ready';
    for (const sequence of this.#backlog.splice(0)) this.#place(sequence);
  }

  #drain(member: Member, then: () => void): void {
    member.state = 'draining';
    this.#onDrained.set(member, then);
    if (member.engine.isIdle) {
      this.#drained(member);
      return;
    }
    this.#after(this.#options.drainMs, () => {
      if (member.state !== 'draining' || this.#onDrained.get(member) !== then) return;
      const left = member.engine.evacuate(this.#nowMs);
      this.#drained(member);
      for (const sequence of left) this.#again(sequence);
    });
  }

  #drained(member: Member): void {
    const then = this.#onDrained.get(member);
    this.#onDrained.delete(member);
    then?.();
  }

  #leave(member: Member): void {
    const { gpusPerWorker, costPerHour } = this.#options.pools[member.home];
    member.state = 'gone';
    this.#gpuRate -= gpusPerWorker;
    this.#costRate -= costPerHour;
  }
}
