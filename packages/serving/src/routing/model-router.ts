import { ArmatureError } from '@armature/contracts';
import type {
  Candidates,
  Clock,
  Counter,
  KvEvent,
  Logger,
  Metrics,
  Random,
  RouterPolicy,
  RoutingHop,
  RoutingOverrides,
  RoutingRequest,
  WorkerRecord,
  WorkerRole,
} from '@armature/contracts';
import type { DecisionRecord } from './records.ts';
import { WorkerTable } from './worker-table.ts';
import type { Charge } from './worker-table.ts';

/** Longest that a request's end waits for its KV events to arrive on the other plane. */
const FENCE_TIMEOUT_MS = 250;
/** Events kept for a worker while it is asked for its state. */
const MAX_PENDING_EVENTS = 10_000;

export interface ModelRouterOptions {
  readonly model: string;
  readonly policy: RouterPolicy;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Asks a worker for its cache state; `undefined` when it cannot be reached. */
  readonly snapshot: (worker: WorkerRecord, done: (events: readonly KvEvent[] | undefined) => void) => void;
}

export interface RouteQuery {
  readonly id: string;
  readonly hop: RoutingHop;
  readonly role: WorkerRole;
  readonly promptTokens: number;
  readonly sequenceHashes: Int32Array;
  readonly blockSize: number;
  readonly creditsOverlap: boolean;
  readonly overrides: RoutingOverrides;
  /** Instances that have failed this request already. */
  readonly excluded: readonly string[];
  readonly startedAtMs: number;
}

export interface Route {
  readonly slot: number;
  readonly worker: WorkerRecord;
  readonly overlapBlocks: number;
  readonly decision: DecisionRecord;
}

interface Follower {
  /** Last event id applied. */
  applied: number;
  /** Events that came during a resync; undefined = in step. */
  pending: KvEvent[] | undefined;
  waiters: { readonly eventId: number; readonly resume: () => void }[];
}

/** Chooses workers of one model: keeps the worker table, feeds the policy, isolates its failures, records its decisions. */
export class ModelRouter {
  readonly table = new WorkerTable();
  readonly policy: RouterPolicy;
  readonly #options: ModelRouterOptions;
  readonly #followers: (Follower | undefined)[] = [];
  readonly #request: RoutingRequest;
  readonly #decisions: Counter;
  readonly #policyErrors: Counter;
  readonly #gaps: Counter;
  readonly #fenceTimeouts: Counter;
  #fingerprint: { readonly model: string; readonly blockSize: number } | undefined;

  constructor(options: ModelRouterOptions) {
    this.#options = options;
    this.policy = options.policy;
    this.#request = {
      id: '',
      hop: 'aggregated',
      promptTokens: 0,
      sequenceHashes: new Int32Array(0),
      blocks: 0,
      blockSize: 1,
      creditsOverlap: true,
      overlapCredit: NaN,
      temperature: NaN,
    };
    const { metrics, model } = options;
    const counter = (name: string, help: string): Counter => metrics.counter({ name, help, labelNames: ['model'] }).with(model);
    this.#decisions = counter('armature_router_decisions_total', 'Routing decisions.');
    this.#policyErrors = counter('armature_router_policy_errors_total', 'Decisions in which the policy threw or wrote NaN.');
    this.#gaps = counter('armature_router_kv_event_gaps_total', 'Gaps found in the KV events of a worker; each is followed by a resync.');
    this.#fenceTimeouts = counter('armature_router_fence_timeouts_total', 'Requests whose end was shown before their KV events had arrived.');
  }

  /** A worker has registered. False: it does not fit the model's other workers and gets no requests. */
  join(record: WorkerRecord): boolean {
    if (this.table.slotOf(record.instanceId) !== undefined) return true;
    const first = this.#fingerprint;
    if (this.table.size === 0 || first === undefined) {
      this.#fingerprint = { model: record.modelFingerprint, blockSize: record.blockSize };
    } else if (first.model !== record.modelFingerprint || first.blockSize !== record.blockSize) {
      this.#options.log.error('worker refused: it serves another model or block size than the pool', {
        code: 'SERVING_WORKER_MISMATCH',
        worker: record.instanceId,
        modelFingerprint: record.modelFingerprint,
        blockSize: record.blockSize,
        expected: first,
      });
      return false;
    }
    const slot = this.table.add(record);
    this.#followers[slot] = { applied: 0, pending: undefined, waiters: [] };
    this.#isolated('kv.joined', () => this.policy.kv?.joined(slot, record));
    if (this.policy.kv !== undefined) this.#resync(slot);
    return true;
  }

  leave(instanceId: string): void {
    const slot = this.table.remove(instanceId);
    if (slot === undefined) return;
    const follower = this.#followers[slot];
    this.#followers[slot] = undefined;
    this.#isolated('kv.left', () => this.policy.kv?.left(slot));
    for (const waiter of follower?.waiters ?? []) waiter.resume();
  }

  /** One KV event of a worker, as it came from the event plane. */
  apply(instanceId: string, event: KvEvent): void {
    const slot = this.table.slotOf(instanceId);
    const follower = slot === undefined ? undefined : this.#followers[slot];
    if (slot === undefined || follower === undefined) return;
    if (follower.pending !== undefined) {
      if (follower.pending.length < MAX_PENDING_EVENTS) follower.pending.push(event); // what is dropped is a gap, found later
      return;
    }
    if (!this.#applied(slot, event)) {
      this.#gaps.inc();
      this.#resync(slot, event);
      return;
    }
    this.#advance(follower, event.eventId);
  }

  /** Calls back when the worker's events up to `eventId` are applied, at once if they are; after a bounded wait in any case. */
  whenApplied(slot: number, eventId: number, resume: () => void): void {
    const follower = this.#followers[slot];
    // A policy without an index has nothing to wait for (and has not asked a worker that was there before for its state).
    if (this.policy.kv === undefined || follower === undefined || follower.applied >= eventId) {
      resume();
      return;
    }
    let settled = false;
    const { clock } = this.#options;
    const once = (): void => {
      if (settled) return;
      settled = true;
      clock.clearTimer(timer);
      resume();
    };
    const waiter = { eventId, resume: once };
    const timer = clock.setTimer(FENCE_TIMEOUT_MS, () => {
      this.#fenceTimeouts.inc();
      follower.waiters = follower.waiters.filter((entry) => entry !== waiter);
      once();
    });
    follower.waiters.push(waiter);
  }

  /** The best worker, or a typed reason why there is none. */
  route(query: RouteQuery): Route | ArmatureError {
    const wanted = query.hop === 'prefill' ? query.overrides.prefillWorker : query.overrides.worker;
    const candidates = this.table.candidates(query.role, query.excluded, wanted);
    if (candidates.count === 0) return this.#noWorker(query, wanted);
    const request = this.#fill(query);
    const costs = this.table.costs;
    const policyError = this.#score(request, candidates, costs);
    const index = policyError === undefined ? this.#pick(request, candidates, costs) : leastLoaded(candidates);
    this.#decisions.inc();
    const slot = candidates.slots[index];
    const worker = this.table.record(slot) as WorkerRecord;
    return {
      slot,
      worker,
      overlapBlocks: candidates.overlapBlocks[index],
      decision: this.#record(query, candidates, worker.instanceId, policyError),
    };
  }

  /** The request goes to the worker as `hop` (a decode worker that computes the prompt itself is charged as aggregated). */
  dispatch(route: Route, query: RouteQuery, hop: RoutingHop): Charge {
    const uncached = Math.max(0, query.promptTokens - route.overlapBlocks * query.blockSize);
    const prefillTokens = hop === 'decode' ? 0 : uncached;
    const charge = this.table.charge(route.slot, prefillTokens, Math.ceil(query.promptTokens / query.blockSize));
    const request = this.#fill(query);
    request.hop = hop;
    this.#isolated('load.dispatched', () => this.policy.load?.dispatched(route.slot, request));
    return charge;
  }

  prefilled(charge: Charge, requestId: string): void {
    this.table.prefilled(charge);
    if (this.table.isLive(charge)) this.#isolated('load.firstToken', () => this.policy.load?.firstToken(charge.slot, requestId));
  }

  grown(charge: Charge, requestId: string, outputTokens: number): void {
    this.table.grow(charge, 1);
    if (this.table.isLive(charge)) this.#isolated('load.grown', () => this.policy.load?.grown(charge.slot, requestId, outputTokens));
  }

  ended(charge: Charge, requestId: string): void {
    if (this.table.isLive(charge)) this.#isolated('load.ended', () => this.policy.load?.ended(charge.slot, requestId));
    this.table.discharge(charge);
  }

  /** False: the policy found a gap. One that throws is not asked for a resync, which would throw again. */
  #applied(slot: number, event: KvEvent): boolean {
    if (this.policy.kv === undefined) return true;
    return this.#isolated('kv.apply', () => this.policy.kv?.apply(slot, event)) ?? true;
  }

  #noWorker(query: RouteQuery, wanted: string | undefined): ArmatureError {
    if (wanted !== undefined) {
      return new ArmatureError('SERVING_WORKER_UNKNOWN', `worker "${wanted}" is not a live ${query.role === 'both' ? '' : `${query.role} `}worker of model "${this.#options.model}"`, {
        hint: 'see /workers on the admin listener, or leave the choice to the router',
      });
    }
    const lost = query.excluded.length > 0 ? ` (${query.excluded.length} failed this request already)` : '';
    return new ArmatureError('SERVING_NO_WORKER', `no ${query.role === 'both' ? '' : `${query.role} `}worker of model "${this.#options.model}" is ready${lost}`, {
      hint: 'start workers for this model, or retry later',
      retryable: true,
    });
  }

  #fill(query: RouteQuery): RoutingRequest {
    const request = this.#request;
    request.id = query.id;
    request.hop = query.hop;
    request.promptTokens = query.promptTokens;
    request.sequenceHashes = query.sequenceHashes;
    request.blocks = query.sequenceHashes.length >> 1;
    request.blockSize = query.blockSize;
    request.creditsOverlap = query.creditsOverlap;
    request.overlapCredit = query.overrides.overlapCredit ?? NaN;
    request.temperature = query.overrides.temperature ?? NaN;
    return request;
  }

  #score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): string | undefined {
    try {
      this.policy.score(request, candidates, costs);
    } catch (error) {
      return this.#policyFailed(ArmatureError.from(error, 'ROUTER_POLICY_FAILED').message);
    }
    let finite = 0;
    for (let i = 0; i < candidates.count; i++) {
      if (Number.isNaN(costs[i])) return this.#policyFailed(`cost of candidate ${i} is NaN`);
      if (costs[i] !== Infinity) finite++;
    }
    return finite === 0 ? this.#policyFailed('every candidate is excluded') : undefined;
  }

  #pick(request: RoutingRequest, candidates: Candidates, costs: Float64Array): number {
    if (this.policy.pick !== undefined) {
      const index = this.#isolated('pick', () => this.policy.pick?.(request, candidates, costs));
      if (index !== undefined && Number.isInteger(index) && index >= 0 && index < candidates.count) return index;
      this.#policyFailed(`picked candidate ${index} of ${candidates.count}`);
    }
    return lowestCost(costs, candidates.count, this.#options.random);
  }

  /** A policy's own bookkeeping must not take down the request, its charge or the event plane. */
  #isolated<T>(face: string, call: () => T): T | undefined {
    try {
      return call();
    } catch (error) {
      this.#policyErrors.inc();
      const reason = ArmatureError.from(error, 'ROUTER_POLICY_FAILED').message;
      this.#options.log.error('router policy threw', { code: 'ROUTER_POLICY_FAILED', policy: this.policy.name, face, reason });
      return undefined;
    }
  }

  #policyFailed(reason: string): string {
    this.#policyErrors.inc();
    this.#options.log.error('router policy failed; the least loaded worker is taken', { code: 'ROUTER_POLICY_FAILED', policy: this.policy.name, reason });
    return reason;
  }

  #record(query: RouteQuery, candidates: Candidates, chosen: string, policyError: string | undefined): DecisionRecord {
    const rows = [];
    for (let i = 0; i < candidates.count; i++) {
      rows.push({
        worker: this.table.record(candidates.slots[i])?.instanceId ?? '',
        cost: this.table.costs[i],
        overlapBlocks: candidates.overlapBlocks[i],
        activeRequests: candidates.activeRequests[i],
        activePrefillTokens: candidates.activePrefillTokens[i],
        activeBlocks: candidates.activeBlocks[i],
        terms: policyError === undefined ? (this.#isolated('explain', () => this.policy.explain?.(i)) ?? {}) : {},
      });
    }
    return {
      hop: query.hop,
      policy: this.policy.name,
      atMs: this.#options.clock.nowMs() - query.startedAtMs,
      chosen,
      blocks: query.sequenceHashes.length >> 1,
      policyError,
      candidates: rows,
    };
  }

  #advance(follower: Follower, eventId: number): void {
    if (eventId > follower.applied) follower.applied = eventId;
    if (follower.waiters.length === 0) return;
    const due = follower.waiters.filter((waiter) => waiter.eventId <= follower.applied);
    follower.waiters = follower.waiters.filter((waiter) => waiter.eventId > follower.applied);
    for (const waiter of due) waiter.resume();
  }

  /** Forget what is believed of a worker's cache and ask it. Events that come meanwhile are applied after the answer. */
  #resync(slot: number, first?: KvEvent): void {
    const follower = this.#followers[slot];
    const worker = this.table.record(slot);
    if (follower === undefined || worker === undefined || follower.pending !== undefined) return;
    follower.pending = first === undefined ? [] : [first];
    this.#options.snapshot(worker, (events) => {
      if (this.#followers[slot] !== follower) return;
      const pending = follower.pending ?? [];
      follower.pending = undefined;
      this.#isolated('kv.reset', () => this.policy.kv?.reset(slot));
      if (events === undefined) this.#options.log.warn('worker did not answer a KV resync', { code: 'SERVING_RESYNC_FAILED', worker: worker.instanceId });
      for (const event of events ?? []) {
        this.#applied(slot, event);
        this.#advance(follower, event.eventId);
      }
      // Without an answer the next event that comes finds the gap and asks again.
      for (const event of events === undefined ? [] : pending) {
        if (event.eventId > follower.applied) this.apply(worker.instanceId, event);
      }
    });
  }
}

/** Argmin; ties are drawn uniformly (reservoir), so that equal workers share. */
function lowestCost(costs: Float64Array, count: number, random: Random): number {
  let best = 0;
  let ties = 1;
  for (let i = 1; i < count; i++) {
    if (costs[i] < costs[best]) {
      best = i;
      ties = 1;
    } else if (costs[i] === costs[best] && random.below(++ties) === 0) {
      best = i;
    }
  }
  return best;
}

function leastLoaded(candidates: Candidates): number {
  let best = 0;
  for (let i = 1; i < candidates.count; i++) {
    if (candidates.activeRequests[i] < candidates.activeRequests[best]) best = i;
  }
  return best;
}
