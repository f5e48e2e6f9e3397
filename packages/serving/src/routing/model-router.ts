import { ArmatureError } from '@armature/contracts';
import type {
  Candidates,
  Clock,
  Counter,
  EventPlane,
  Health,
  Logger,
  Metrics,
  PlainData,
  Random,
  RouterPolicy,
  RoutingHop,
  RoutingOverrides,
  RoutingRequest,
  WorkerOverlap,
  WorkerRecord,
  WorkerRole,
  ResponseFormat,
} from '@armature/contracts';
import type { SessionTable } from '../admission/session-table.ts';
import { DecisionRing } from './decisions.ts';
import type { Decision } from './decisions.ts';
import { KvStreams } from './kv-streams.ts';
import type { KvStreamsOptions } from './kv-streams.ts';
import { LogGate } from './log-gate.ts';
import { LoadReplica } from './load-replica.ts';
import type { RemoteDispatch } from './load-replica.ts';
import { WorkerTable } from './worker-table.ts';
import type { Charge } from './worker-table.ts';

export interface ModelRouterOptions {
  readonly model: string;
  readonly policy: RouterPolicy;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly snapshot: KvStreamsOptions['snapshot'];
  /** Left out: a gap is closed by a snapshot. */
  readonly replay?: KvStreamsOptions['replay'];
  /** The event plane reaches other processes: workers with KV events publish heartbeats, and one that is not heard of is degraded. */
  readonly expectsHeartbeats?: boolean;
  readonly health?: Health;
  /** Which worker had the last request of each session; left out: no affinity. */
  readonly sessions?: SessionTable | undefined;
  /** Has a worker enough to do? It gets nothing while another one has not. Left out: nobody ever has. */
  readonly isBusy?: (worker: WorkerRecord, prefillTokens: number, blocks: number) => boolean;
  /** False: nobody asks for the candidates of decisions afterwards, so none are kept. Default true. */
  readonly keepsCandidates?: boolean;
  /** Load that other routers gave has fallen. */
  readonly remoteLoadFell?: () => void;
  /** Tells other routers of the model what this one sends where. */
  readonly replica?: { readonly events: EventPlane; readonly routerId: string };
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
  /** LoRA adapter that the worker must have. */
  readonly adapter?: string | undefined;
  /** Format that the worker must be able to guide decoding to. */
  readonly format?: ResponseFormat['type'] | undefined;
  /** Key of its session's binding (`sessionKey`); undefined = none. */
  readonly session?: string | undefined;
  /** Instances that have failed this request already. */
  readonly excluded: readonly string[];
  readonly startedAtMs: number;
}

export interface Route {
  readonly slot: number;
  readonly worker: WorkerRecord;
  readonly overlapBlocks: number;
  /** In blocks. */
  readonly cost: number;
  readonly decision: Decision;
}

/** Chooses workers of one model: keeps the worker table, feeds the policy, isolates its failures, records its decisions. */
export class ModelRouter {
  readonly table = new WorkerTable();
  readonly policy: RouterPolicy;
  readonly #options: ModelRouterOptions;
  readonly #streams: KvStreams;
  readonly #ring: DecisionRing;
  readonly replica: LoadReplica | undefined;
  /** Charges for requests of other routers, by `router id`. */
  readonly #remote = new Map<string, Charge>();
  readonly #logGate: LogGate;
  readonly #request: RoutingRequest;
  readonly #decisions: Counter;
  readonly #policyErrors: Counter;
  readonly #notMostOverlap: Counter;
  readonly #overlapLost: Counter;
  readonly #regret: Counter;
  readonly #overestimated: Counter;
  /** Why the policy could not make the present decision. */
  #fault: string | undefined;
  #fingerprint: { readonly model: string; readonly blockSize: number } | undefined;

  constructor(options: ModelRouterOptions) {
    this.#options = options;
    this.policy = options.policy;
    this.#logGate = new LogGate(options.clock);
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
      prefillLoadScale: NaN,
      sharedCacheMultiplier: NaN,
      assumeKvReuse: undefined,
      trackPrefillTokens: undefined,
      expectedOutputTokens: 0,
      sessionSlot: -1,
      sessionBonusBlocks: 0,
      requiredTaints: [],
      preferredTaints: [],
    };
    this.#ring = new DecisionRing(options.policy, { keepsCandidates: options.keepsCandidates ?? true });
    const { metrics, model } = options;
    const counter = (name: string, help: string): Counter => metrics.counter({ name, help, labelNames: ['model'] }).with(model);
    this.#decisions = counter('armature_router_decisions_total', 'Routing decisions.');
    this.#policyErrors = counter('armature_router_policy_errors_total', 'Decisions in which the policy threw or wrote NaN.');
    this.#notMostOverlap = counter('armature_router_non_max_overlap_selections_total', 'Decisions for a worker that holds less of the prompt than another one.');
    this.#overlapLost = counter('armature_router_overlap_blocks_lost_total', 'Blocks by which those workers held less.');
    this.#regret = counter('armature_router_regret_blocks_total', 'Blocks by which another worker would have been better, in hindsight.');
    this.#overestimated = counter('armature_router_overlap_overestimated_blocks_total', 'Blocks that the router expected on the chosen worker and the engine did not have.');
    this.replica =
      options.replica === undefined
        ? undefined
        : new LoadReplica({
            model,
            ...options.replica,
            clock: options.clock,
            log: options.log,
            metrics,
            sink: {
              added: (router, dispatch) => this.#remoteAdded(remoteId(router, dispatch.id), dispatch),
              prefilled: (router, id) => this.#remotePrefilled(remoteId(router, id)),
              ended: (router, id) => this.#remoteEnded(remoteId(router, id)),
            },
          });
    this.#streams = new KvStreams({
      model,
      clock: options.clock,
      log: options.log,
      metrics,
      snapshot: options.snapshot,
      replay: options.replay ?? ((_worker, _from, _to, done) => done(undefined)),
      expectsHeartbeats: options.expectsHeartbeats ?? false,
      sink: {
        apply: (slot, event) => this.#isolated('kv.apply', () => this.policy.kv?.apply(slot, event)) ?? true, // one that throws is not asked for a resync, which would throw again
        restore: (slot, events, lastEventId) => this.#isolated('kv.restore', () => this.policy.kv?.restore(slot, events, lastEventId)),
        degraded: (slot, isDegraded) => this.#setDegraded(slot, isDegraded),
      },
    });
  }

  close(): void {
    this.#streams.close();
    this.replica?.close();
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
    this.#ring.joined(this.table.numbers[slot], record);
    this.#isolated('kv.joined', () => this.policy.kv?.joined(slot, record));
    if (this.policy.kv !== undefined) this.#streams.joined(slot, record);
    this.replica?.workerJoined(record.instanceId);
    return true;
  }

  leave(instanceId: string): void {
    const slot = this.table.remove(instanceId);
    if (slot === undefined) return;
    this.#ring.left(this.table.numbers[slot]);
    this.#isolated('kv.left', () => this.policy.kv?.left(slot));
    this.#options.health?.remove(healthName(this.#options.model, instanceId));
    this.#streams.left(slot);
  }

  /** What came from the event plane for a worker. */
  apply(instanceId: string, payload: PlainData): void {
    const slot = this.table.slotOf(instanceId);
    if (slot !== undefined) this.#streams.receive(slot, payload);
  }

  /** See `KvStreams.whenApplied`. A policy without an index has nothing to wait for. */
  whenApplied(slot: number, eventId: number, resume: () => void): void {
    if (this.policy.kv === undefined) resume();
    else this.#streams.whenApplied(slot, eventId, resume);
  }

  /** How well the worker's cache is known. */
  kvState(slot: number): ReturnType<KvStreams['state']> {
    return this.#streams.state(slot);
  }

  /** The best worker, or a typed reason why there is none. */
  route(query: RouteQuery): Route | ArmatureError {
    const wanted = query.hop === 'prefill' ? query.overrides.prefillWorker : query.overrides.worker;
    const dpRank = query.hop === 'prefill' ? query.overrides.prefillDpRank : query.overrides.dpRank;
    const candidates = this.table.candidates(query.role, query.excluded, { only: wanted, dpRank, taints: query.overrides.requiredTaints, adapter: query.adapter, format: query.format });
    if (candidates.count === 0) return this.#noWorker(query, wanted);
    const request = this.#fill(query);
    const costs = this.table.costs;
    this.#excludeBusy(candidates, costs);
    this.#fault = undefined;
    const index = this.#score(request, candidates, costs) ? this.#pick(request, candidates, costs) : leastLoaded(candidates);
    this.#decisions.inc();
    this.#countOverlap(candidates, index);
    const slot = candidates.slots[index];
    const worker = candidates.workers[index];
    const decision = this.#ring.record(request, candidates, costs, {
      policy: this.policy.name,
      chosen: worker.instanceId,
      index,
      atMs: this.#options.clock.nowMs() - query.startedAtMs,
      policyError: this.#fault ?? this.#isolated('problem', () => this.policy.problem?.()),
      numbers: this.table.numbers,
    });
    return { slot, worker, overlapBlocks: candidates.overlapBlocks[index], cost: costs[index], decision };
  }

  /** What each worker holds of a prompt; by the policy's index, without a decision. */
  overlaps(sequenceHashes: Int32Array, blockSize: number): WorkerOverlap[] {
    const rows: WorkerOverlap[] = [];
    for (const role of ['both', 'prefill', 'decode'] as const) {
      const candidates = this.table.candidates(role, []);
      if (candidates.count === 0) continue;
      const promptTokens = (sequenceHashes.length >> 1) * blockSize;
      const request = this.#fill({ id: '', hop: 'aggregated', role, promptTokens, sequenceHashes, blockSize, creditsOverlap: true, overrides: {}, excluded: [], startedAtMs: 0 });
      this.#score(request, candidates, this.table.costs);
      for (let i = 0; i < candidates.count; i++) {
        rows.push({
          instanceId: candidates.workers[i].instanceId,
          overlapBlocks: candidates.overlapBlocks[i],
          hostBlocks: candidates.hostBlocks[i],
          diskBlocks: candidates.diskBlocks[i],
          objectBlocks: candidates.objectBlocks[i],
          degraded: candidates.degraded[i] !== 0,
        });
      }
    }
    return rows;
  }

  /** The engine has said how many prompt tokens of a routed request it had. */
  settle(decision: Decision, route: { readonly overlapBlocks: number }, cachedTokens: number): void {
    decision.settle(cachedTokens);
    const { blockSize } = decision.request;
    // An engine computes at least one token itself, so up to a block less is no error.
    const missing = route.overlapBlocks - Math.floor(cachedTokens / blockSize) - 1;
    if (missing > 0) this.#overestimated.inc(missing);
    if (decision.regretBlocks !== undefined && decision.regretBlocks > 0) this.#regret.inc(decision.regretBlocks);
  }

  /** The request goes to the worker as `hop` (a decode worker that computes the prompt itself is charged as aggregated). */
  dispatch(route: Route, query: RouteQuery, hop: RoutingHop): Charge {
    const uncached = Math.max(0, query.promptTokens - route.overlapBlocks * query.blockSize);
    const prefillTokens = hop === 'decode' ? 0 : uncached;
    const charge = this.table.charge(route.slot, prefillTokens, Math.ceil(query.promptTokens / query.blockSize));
    const request = this.#fill(query);
    request.hop = hop;
    this.#isolated('load.dispatched', () => this.policy.load?.dispatched(route.slot, request));
    if (this.replica !== undefined) {
      const { promptTokens, blockSize, creditsOverlap, sequenceHashes } = query;
      this.replica.added({ id: legId(charge, query.id), instanceId: route.worker.instanceId, hop, promptTokens, prefillTokens, blockSize, creditsOverlap, sequenceHashes });
    }
    return charge;
  }

  prefilled(charge: Charge, requestId: string): void {
    this.table.prefilled(charge);
    if (this.table.isLive(charge)) this.#isolated('load.firstToken', () => this.policy.load?.firstToken(charge.slot, requestId));
    this.replica?.prefilled(legId(charge, requestId));
  }

  /** The output has grown to `outputTokens`, by so many blocks. */
  grown(charge: Charge, requestId: string, outputTokens: number, blocks = 1): void {
    this.table.grow(charge, blocks);
    if (this.table.isLive(charge)) this.#isolated('load.grown', () => this.policy.load?.grown(charge.slot, requestId, outputTokens));
  }

  ended(charge: Charge, requestId: string): void {
    if (this.table.isLive(charge)) this.#isolated('load.ended', () => this.policy.load?.ended(charge.slot, requestId));
    this.table.discharge(charge);
    this.replica?.ended(legId(charge, requestId));
  }

  #remoteAdded(id: string, dispatch: RemoteDispatch): void {
    const slot = this.table.slotOf(dispatch.instanceId);
    if (slot === undefined) return; // not met yet, or gone: nothing can be charged
    this.#remoteEnded(id);
    this.#remote.set(id, this.table.charge(slot, dispatch.prefillTokens, Math.ceil(dispatch.promptTokens / dispatch.blockSize)));
    const request = this.#fill({ ...dispatch, id, role: 'both', overrides: {}, excluded: [], startedAtMs: 0 });
    this.#isolated('load.dispatched', () => this.policy.load?.dispatched(slot, request));
  }

  #remotePrefilled(id: string): void {
    const charge = this.#remote.get(id);
    if (charge === undefined) return;
    this.table.prefilled(charge);
    if (this.table.isLive(charge)) this.#isolated('load.firstToken', () => this.policy.load?.firstToken(charge.slot, id));
    this.#options.remoteLoadFell?.();
  }

  #remoteEnded(id: string): void {
    const charge = this.#remote.get(id);
    if (charge === undefined) return;
    this.#remote.delete(id);
    if (this.table.isLive(charge)) this.#isolated('load.ended', () => this.policy.load?.ended(charge.slot, id));
    this.table.discharge(charge);
    this.#options.remoteLoadFell?.();
  }

  #setDegraded(slot: number, isDegraded: boolean): void {
    const worker = this.table.record(slot);
    if (worker === undefined) return;
    this.table.setDegraded(slot, isDegraded);
    const { health, model } = this.#options;
    const { reason } = this.#streams.state(slot);
    if (isDegraded) health?.set(healthName(model, worker.instanceId), 'degraded', `${reason}; requests are routed on what was known of its cache last`);
    else health?.remove(healthName(model, worker.instanceId));
  }

  #countOverlap(candidates: Candidates, index: number): void {
    let most = 0;
    for (let i = 0; i < candidates.count; i++) if (candidates.overlapBlocks[i] > most) most = candidates.overlapBlocks[i];
    const lost = most - candidates.overlapBlocks[index];
    if (lost <= 0) return;
    this.#notMostOverlap.inc();
    this.#overlapLost.inc(lost);
  }

  #noWorker(query: RouteQuery, wanted: string | undefined): ArmatureError {
    if (wanted !== undefined) {
      return new ArmatureError('SERVING_WORKER_UNKNOWN', `worker "${wanted}" is not a live ${query.role === 'both' ? '' : `${query.role} `}worker of model "${this.#options.model}"`, {
        hint: 'see /workers on the admin listener, or leave the choice to the router',
      });
    }
    const { adapter } = query;
    if (adapter !== undefined && this.table.count(query.role, query.excluded) > 0 && this.table.count(query.role, query.excluded, adapter) === 0) {
      return new ArmatureError('SERVING_NO_ADAPTER_WORKER', `no ready ${query.role === 'both' ? '' : `${query.role} `}worker of model "${this.#options.model}" has the adapter "${adapter}"`, {
        hint: 'start a worker that has it, or look at adapters in /workers on the admin listener',
        retryable: true,
      });
    }
    const { format } = query;
    if (format !== undefined && this.table.count(query.role, query.excluded) > 0 && !this.table.records().some(({ responseFormats }) => responseFormats?.includes(format))) {
      return new ArmatureError('SERVING_NO_FORMAT_WORKER', `no ready ${query.role === 'both' ? '' : `${query.role} `}worker of model "${this.#options.model}" can guide decoding to ${format}`, {
        hint: 'start a worker whose engine can (vllm), or ask for text',
        retryable: true,
      });
    }
    const rank = query.hop === 'prefill' ? query.overrides.prefillDpRank : query.overrides.dpRank;
    if (rank !== undefined && this.table.count(query.role, query.excluded) > 0) {
      return new ArmatureError('SERVING_WORKER_UNKNOWN', `no live worker of model "${this.#options.model}" has data-parallel rank ${rank}`, { hint: 'see dpRank in /workers on the admin listener, or leave the choice to the router' });
    }
    const { requiredTaints } = query.overrides;
    if (requiredTaints !== undefined && requiredTaints.length > 0 && this.table.count(query.role, query.excluded) > 0) {
      return new ArmatureError('SERVING_NO_WORKER', `no ready ${query.role === 'both' ? '' : `${query.role} `}worker of model "${this.#options.model}" carries the taints ${requiredTaints.join(', ')}`, {
        hint: 'see taints in /workers on the admin listener, or require fewer',
        retryable: true,
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
    const wishes = query.overrides;
    request.overlapCredit = wishes.overlapCredit ?? NaN;
    request.temperature = wishes.temperature ?? NaN;
    request.prefillLoadScale = wishes.prefillLoadScale ?? NaN;
    request.sharedCacheMultiplier = wishes.sharedCacheMultiplier ?? NaN;
    request.assumeKvReuse = wishes.assumeKvReuse;
    request.trackPrefillTokens = wishes.trackPrefillTokens;
    request.expectedOutputTokens = wishes.expectedOutputTokens ?? 0;
    request.requiredTaints = wishes.requiredTaints ?? NO_TAINTS;
    request.preferredTaints = wishes.preferredTaints ?? NO_TAINTS;
    request.sessionSlot = this.#sessionSlot(query);
    request.sessionBonusBlocks = request.sessionSlot < 0 ? 0 : (this.#options.sessions?.bonusBlocks ?? 0);
    return request;
  }

  #excludeBusy(candidates: Candidates, costs: Float64Array): void {
    const { isBusy } = this.#options;
    if (isBusy === undefined || candidates.count < 2) return;
    let free = 0;
    for (let i = 0; i < candidates.count; i++) {
      if (isBusy(candidates.workers[i], candidates.activePrefillTokens[i], candidates.activeBlocks[i])) costs[i] = Infinity;
      else free++;
    }
    if (free === 0) costs.fill(0, 0, candidates.count);
  }

  /** Slot of the worker that had the session's last request, while that worker lives and its cache is known; else -1. */
  #sessionSlot(query: RouteQuery): number {
    const { sessions, clock } = this.#options;
    if (query.session === undefined || sessions === undefined) return -1;
    const worker = sessions.workerOf(query.session, clock.nowMs());
    const slot = worker === undefined ? undefined : this.table.slotOf(worker);
    return slot === undefined || this.table.isDegraded(slot) ? -1 : slot;
  }

  /** False: there are no costs to choose by. */
  #score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): boolean {
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
    return finite > 0 || this.#policyFailed('every candidate is excluded');
  }

  #pick(request: RoutingRequest, candidates: Candidates, costs: Float64Array): number {
    if (this.policy.pick !== undefined) {
      const index = this.#isolated('pick', () => this.policy.pick?.(request, candidates, costs));
      if (index !== undefined && Number.isInteger(index) && index >= 0 && index < candidates.count && costs[index] !== Infinity) return index;
      this.#policyFailed(`picked candidate ${index} of ${candidates.count}${costs[index ?? -1] === Infinity ? ', which is excluded' : ''}`);
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
      this.#fault ??= `${face} threw: ${reason}`;
      const suppressed = this.#logGate.pass(face);
      if (suppressed !== undefined) this.#options.log.error('router policy threw', { code: 'ROUTER_POLICY_FAILED', policy: this.policy.name, face, reason, suppressed });
      return undefined;
    }
  }

  #policyFailed(reason: string): false {
    this.#policyErrors.inc();
    this.#fault ??= reason;
    const suppressed = this.#logGate.pass('decision');
    if (suppressed !== undefined) this.#options.log.error('router policy failed; the worker is chosen without it', { code: 'ROUTER_POLICY_FAILED', policy: this.policy.name, reason, suppressed });
    return false;
  }
}

const NO_TAINTS: readonly never[] = [];

/** A request has a leg on two workers at most, and after a migration others: the worker is part of the name. */
function legId(charge: Charge, requestId: string): string {
  return `${requestId}/${charge.slot}.${charge.generation}`;
}

function remoteId(router: string, id: string): string {
  return `${router} ${id}`;
}

function healthName(model: string, instanceId: string): string {
  return `kv events ${model}/${instanceId}`;
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
