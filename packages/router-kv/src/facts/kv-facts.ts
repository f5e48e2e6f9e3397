import type { Candidates, Clock, KvFollower, LoadFollower, Logger, Metrics, PluginContext, RoutingRequest, Timer, WorkerRecord } from '@armature/contracts';
import { KvIndex } from '../kv-index.ts';
import { ActiveBlocks } from '../load/active-blocks.ts';
import { RecentShares } from '../load/recent-shares.ts';
import { OverlapColumns } from '../overlap.ts';
import { PredictedIndex } from '../predicted/predicted-index.ts';

const EXPIRY_SCAN_MS = 30_000;

export interface KvFactsConfig {
  readonly trackOutputBlocks: boolean;
  readonly requestExpirySeconds: number;
  readonly maxTrackedRequests: number;
  readonly maxIndexBlocks: number;
  /** On top of events: bridges the time between routing a prompt and its `stored` event. 0 = off. */
  readonly predictSeconds: number;
  /** For workers without events. 0 = nothing is known of their cache. */
  readonly eventlessSeconds: number;
}

/** What it uses of its context. */
export type KvFactsContext = Pick<PluginContext, 'clock' | 'log' | 'metrics' | 'path'>;

/** What each worker's cache holds and what its running requests occupy; fills the fact columns of the candidates. */
export class KvFacts {
  readonly kv: KvFollower;
  readonly load: LoadFollower;
  readonly #config: KvFactsConfig;
  /** Slots whose worker has no KV events. */
  readonly #eventless: Set<number>;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #index: KvIndex;
  readonly #predicted: PredictedIndex;
  readonly #active: ActiveBlocks;
  readonly #shares: RecentShares;
  readonly #overlap: OverlapColumns;
  readonly #shared: OverlapColumns;
  #timer: Timer | undefined;
  #isClosed: boolean;
  #stopMetrics: () => void;

  constructor(config: KvFactsConfig, context: KvFactsContext) {
    this.#config = config;
    this.#eventless = new Set();
    this.#clock = context.clock;
    this.#log = context.log;
    this.#index = new KvIndex(config.maxIndexBlocks);
    this.#predicted = new PredictedIndex({ maxBlocks: config.maxIndexBlocks });
    this.#active = new ActiveBlocks({ expiryMs: config.requestExpirySeconds * 1000, maxRequests: config.maxTrackedRequests, trackOutputBlocks: config.trackOutputBlocks });
    this.#shares = new RecentShares();
    this.#overlap = new OverlapColumns();
    this.#shared = new OverlapColumns();
    this.#timer = undefined;
    this.#isClosed = false;
    this.#stopMetrics = observe(context.metrics, context.path, { index: this.#index, predicted: this.#predicted, active: this.#active });
    this.kv = {
      joined: (slot, worker) => this.#joined(slot, worker),
      left: (slot) => this.#left(slot),
      apply: (slot, event) => {
        if (event.type === 'cleared' && (event.tier ?? 'device') === 'device') this.#predicted.cleared(slot);
        return this.#index.apply(slot, event);
      },
      restore: (slot, events, lastEventId) => this.#index.restore(slot, events, lastEventId),
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

  /** Writes the fact columns of every candidate. Hot; allocates nothing. */
  collect(request: RoutingRequest, candidates: Candidates): void {
    const tracksBlocks = request.hop !== 'prefill';
    this.#index.findOverlap(request.sequenceHashes, request.blocks, this.#overlap);
    if (this.#predicted.size > 0) this.#predicted.findOverlap(request.sequenceHashes, request.blocks, this.#overlap, this.#clock.nowMs());
    this.#active.findShared(request.sequenceHashes, tracksBlocks && sharesBlocks(request) ? request.blocks : 0, this.#shared);
    this.#shares.fill(candidates, candidates.excessShare, this.#clock.nowMs());
    this.#fillOverlap(candidates, request.hop === 'aggregated' && this.#config.predictSeconds > 0);
    if (tracksBlocks) this.#fillDecode(candidates, this.#active.requestBlocks(request));
    else candidates.decodeBlocks.fill(0, 0, candidates.count);
  }

  #fillOverlap({ slots, count, overlapBlocks, hostBlocks, diskBlocks, objectBlocks }: Candidates, predicts: boolean): void {
    const { total, host, disk, object, hasLower } = this.#overlap;
    for (let i = 0; i < count; i++) overlapBlocks[i] = total[slots[i]] | 0; // a slot that never joined lies outside the columns and holds nothing
    if (predicts && this.#shared.count > 0) {
      // What a request on its way there will have computed by the time this one runs counts as held: siblings stay together.
      const shared = this.#shared.total;
      for (let i = 0; i < count; i++) overlapBlocks[i] = Math.max(overlapBlocks[i], shared[slots[i]] | 0);
    }
    if (!hasLower) {
      hostBlocks.fill(0, 0, count);
      diskBlocks.fill(0, 0, count);
      objectBlocks.fill(0, 0, count);
      return;
    }
    for (let i = 0; i < count; i++) {
      const slot = slots[i];
      hostBlocks[i] = host[slot] | 0;
      diskBlocks[i] = disk[slot] | 0;
      objectBlocks[i] = object[slot] | 0;
    }
  }

  #fillDecode({ slots, count, decodeBlocks }: Candidates, requestBlocks: number): void {
    this.#active.addBlocks(slots, count, requestBlocks, decodeBlocks);
    if (this.#shared.count === 0) return;
    const shared = this.#shared.total;
    for (let i = 0; i < count; i++) decodeBlocks[i] -= shared[slots[i]] | 0;
  }

  #joined(slot: number, worker: WorkerRecord): void {
    this.#index.joined(slot, worker.totalBlocks);
    this.#active.joined(slot);
    this.#shares.joined(slot, worker.role);
    if (worker.kvEvents) this.#eventless.delete(slot);
    else this.#eventless.add(slot);
    const ttlMs = 1000 * (worker.kvEvents ? this.#config.predictSeconds : this.#config.eventlessSeconds);
    if (ttlMs > 0) this.#predicted.joined(slot, { ttlMs, totalBlocks: worker.totalBlocks });
  }

  #left(slot: number): void {
    this.#index.left(slot);
    this.#active.left(slot);
    this.#shares.left(slot);
    this.#predicted.left(slot);
  }

  #dispatched(slot: number, request: RoutingRequest): void {
    const nowMs = this.#clock.nowMs();
    this.#shares.dispatched(slot, nowMs);
    // What a decode worker receives it says itself, if it says anything.
    if (request.hop !== 'decode' || this.#eventless.has(slot)) this.#predicted.routed(slot, request.sequenceHashes, request.blocks, nowMs);
    if (request.hop === 'prefill') return;
    this.#active.dispatched(slot, request, sharesBlocks(request), nowMs);
    this.#scheduleExpiry();
  }

  /** Looks for lost requests while there are any; an idle router has no timer. */
  #scheduleExpiry(): void {
    if (this.#timer !== undefined || this.#isClosed) return;
    this.#timer = this.#clock.setTimer(EXPIRY_SCAN_MS, () => {
      this.#timer = undefined;
      const expired = this.#active.expire(this.#clock.nowMs());
      this.#predicted.expire(this.#clock.nowMs());
      if (expired > 0) this.#log.warn('requests never ended as far as the router knows; they no longer count as load', { expired });
      if (this.#active.requests > 0 || this.#predicted.size > 0) this.#scheduleExpiry();
    });
  }
}

/** Whether a worker's running requests with the same prefix share its blocks; a decode hop without credit is counted whole, as Dynamo does. */
function sharesBlocks(request: RoutingRequest): boolean {
  return request.assumeKvReuse ?? (request.hop !== 'decode' || request.creditsOverlap);
}

interface Observed {
  readonly index: KvIndex;
  readonly predicted: PredictedIndex;
  readonly active: ActiveBlocks;
}

function observe(metrics: Metrics, path: string, { index, predicted, active }: Observed): () => void {
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
    gauge('armature_router_predicted_blocks', 'Distinct KV blocks that workers should hold by now because prompts were sent there.', () => predicted.size),
    counter('armature_router_index_malformed_events_total', 'KV events that the index could not read.', () => index.malformedEvents),
    counter('armature_router_predicted_dropped_blocks_total', 'Blocks not predicted because the index of predictions was full.', () => predicted.dropped),
    counter('armature_router_index_dropped_blocks_total', 'Blocks not recorded because the index was full.', () => index.droppedBlocks),
    counter('armature_router_expired_requests_total', 'Requests given up because their end was never heard of.', () => active.expired),
    counter('armature_router_untracked_requests_total', 'Requests not counted as load because maxTrackedRequests was reached.', () => active.untracked),
  ];
  return metrics.onCollect(() => {
    for (const update of collect) update();
  });
}
