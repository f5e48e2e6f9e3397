import type { Candidates, Clock, KvFollower, LoadFollower, Logger, Metrics, PluginContext, Random, RouterPolicy, RoutingRequest, Timer, WorkerRecord } from '@armature/contracts';
import { ActiveBlocks } from './active-blocks.ts';
import { OverlapColumns } from './block-sets.ts';
import type { KvPolicyConfig } from './config.ts';
import { CostTerms, scoreCandidates } from './kv-cost.ts';
import { KvIndex } from './kv-index.ts';
import { pickLowest, pickSoftmax } from './pick.ts';

const EXPIRY_SCAN_MS = 30_000;

/** What the policy uses of its context. */
export type KvPolicyContext = Pick<PluginContext, 'clock' | 'random' | 'log' | 'metrics' | 'path'>;

/** Sends a request where the least new work arises: prefill not covered by cached KV, plus decode load. */
export class KvPolicy implements RouterPolicy {
  readonly name = 'kv';
  readonly supports = { deterministic: true };
  readonly kv: KvFollower;
  readonly load: LoadFollower;
  readonly #config: KvPolicyConfig;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #log: Logger;
  readonly #index: KvIndex;
  readonly #active: ActiveBlocks;
  readonly #overlap: OverlapColumns;
  readonly #shared: OverlapColumns;
  readonly #inputs: { overlap: OverlapColumns; shared: OverlapColumns; load: ActiveBlocks; requestBlocks: number };
  readonly #terms: CostTerms;
  #weights: Float64Array;
  /** Block size of each joined worker; 0 = none. */
  readonly #blockSizes: number[];
  #timer: Timer | undefined;
  #isClosed: boolean;
  #stopMetrics: () => void;

  constructor(config: KvPolicyConfig, context: KvPolicyContext) {
    this.#config = config;
    this.#clock = context.clock;
    this.#random = context.random;
    this.#log = context.log;
    this.#index = new KvIndex(config.maxIndexBlocks);
    this.#active = new ActiveBlocks({ expiryMs: config.requestExpirySeconds * 1000, maxRequests: config.maxTrackedRequests, trackOutputBlocks: config.trackOutputBlocks });
    this.#overlap = new OverlapColumns();
    this.#shared = new OverlapColumns();
    this.#inputs = { overlap: this.#overlap, shared: this.#shared, load: this.#active, requestBlocks: 0 };
    this.#terms = new CostTerms();
    this.#weights = new Float64Array(64);
    this.#blockSizes = [];
    this.#timer = undefined;
    this.#isClosed = false;
    this.#stopMetrics = observe(context.metrics, context.path, this.#index, this.#active);
    this.kv = {
      joined: (slot, worker) => this.#joined(slot, worker),
      left: (slot) => this.#left(slot),
      apply: (slot, event) => this.#index.apply(slot, event),
      reset: (slot) => this.#index.reset(slot),
    };
    this.load = {
      dispatched: (slot, request) => this.#dispatched(slot, request),
      firstToken: (slot, id) => this.#active.firstToken(slot, id),
      grown: (slot, id, tokens) => this.#active.grown(slot, id, tokens),
      ended: (slot, id) => this.#active.ended(slot, id),
    };
  }

  close(): void {
    this.#isClosed = true;
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer);
    this.#timer = undefined;
    this.#stopMetrics();
    this.#stopMetrics = () => {};
  }

  score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    this.#index.findOverlap(request.sequenceHashes, request.blocks, this.#overlap);
    this.#active.findShared(request.sequenceHashes, request.hop === 'prefill' ? 0 : request.blocks, this.#shared);
    this.#inputs.requestBlocks = this.#active.requestBlocks(request);
    scoreCandidates(request, candidates, costs, this.#config, this.#inputs, this.#terms);
  }

  pick(request: RoutingRequest, candidates: Candidates, costs: Float64Array): number {
    const temperature = Number.isNaN(request.temperature) ? this.#config.temperature : request.temperature;
    if (!(temperature > 0)) return pickLowest(costs, candidates.count, this.#random);
    if (this.#weights.length < candidates.count) this.#weights = new Float64Array(candidates.count * 2);
    return pickSoftmax(costs, candidates.count, temperature, this.#random, this.#weights);
  }

  explain(index: number): Readonly<Record<string, number>> {
    return this.#terms.explain(index);
  }

  #joined(slot: number, worker: WorkerRecord): void {
    this.#index.joined(slot);
    this.#active.joined(slot);
    const other = this.#blockSizes.find((size) => size > 0 && size !== worker.blockSize);
    this.#blockSizes[slot] = worker.blockSize;
    if (other === undefined) return;
    this.#log.warn('workers of one model have different block sizes: their cached KV is never found; set the same blockSize everywhere', {
      worker: worker.instanceId,
      blockSize: worker.blockSize,
      otherBlockSize: other,
    });
  }

  #left(slot: number): void {
    this.#index.left(slot);
    this.#active.left(slot);
    this.#blockSizes[slot] = 0;
  }

  #dispatched(slot: number, request: RoutingRequest): void {
    if (request.hop === 'prefill') return;
    this.#active.dispatched(slot, request, request.hop === 'aggregated' || request.creditsOverlap, this.#clock.nowMs());
    this.#scheduleExpiry();
  }

  /** Looks for lost requests while there are any; an idle router has no timer. */
  #scheduleExpiry(): void {
    if (this.#timer !== undefined || this.#isClosed) return;
    this.#timer = this.#clock.setTimer(EXPIRY_SCAN_MS, () => {
      this.#timer = undefined;
      const expired = this.#active.expire(this.#clock.nowMs());
      if (expired > 0) this.#log.warn('requests never ended as far as the router knows; they no longer count as load', { expired });
      if (this.#active.requests > 0) this.#scheduleExpiry();
    });
  }
}

function observe(metrics: Metrics, path: string, index: KvIndex, active: ActiveBlocks): () => void {
  const gauge = (name: string, help: string, read: () => number): (() => void) => {
    const metric = metrics.gauge({ name, help, labelNames: ['router'] }).with(path);
    return () => metric.set(read());
  };
  const counter = (name: string, help: string, read: () => number): (() => void) => {
    const metric = metrics.counter({ name, help, labelNames: ['router'] }).with(path);
    let seen = 0;
    return () => {
      const now = read();
      if (now > seen) metric.inc(now - seen);
      seen = now;
    };
  };
  const collect = [
    gauge('armature_router_index_blocks', 'Distinct KV blocks in the index.', () => index.size),
    gauge('armature_router_tracked_requests', 'Routed requests that count as load.', () => active.requests),
    gauge('armature_router_shared_blocks', 'Distinct prompt blocks of routed requests.', () => active.distinctBlocks),
    counter('armature_router_index_dropped_blocks_total', 'Blocks not recorded because the index was full.', () => index.droppedBlocks),
    counter('armature_router_expired_requests_total', 'Requests given up because their end was never heard of.', () => active.expired),
    counter('armature_router_untracked_requests_total', 'Requests not counted as load because maxTrackedRequests was reached.', () => active.untracked),
  ];
  return metrics.onCollect(() => {
    for (const update of collect) update();
  });
}
