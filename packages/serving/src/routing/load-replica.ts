import type { Clock, Counter, EventPlane, Gauge, Logger, Metrics, PlainData, RoutingHop, Timer } from '@armature/contracts';

/** Load changes are gathered this long, or until there are so many (as Dynamo 1.6.1). */
const BATCH_MS = 1;
const BATCH_CHANGES = 256;
const HEARTBEAT_MS = 2_000;
/** A router not heard of for this long is gone, and its requests with it. */
const SILENCE_MS = 10_000;

/** A request that a router has sent to a worker. */
export interface RemoteDispatch {
  readonly id: string;
  readonly instanceId: string;
  readonly hop: RoutingHop;
  readonly promptTokens: number;
  readonly prefillTokens: number;
  readonly blockSize: number;
  readonly creditsOverlap: boolean;
  readonly sequenceHashes: Int32Array;
}

/** Where the load of other routers is accounted for. Ids are unique per router; `router` names it. */
export interface RemoteLoadSink {
  added(router: string, dispatch: RemoteDispatch): void;
  prefilled(router: string, id: string): void;
  ended(router: string, id: string): void;
}

export interface LoadReplicaOptions {
  readonly model: string;
  /** Unique per router and life. */
  readonly routerId: string;
  readonly events: EventPlane;
  readonly sink: RemoteLoadSink;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
}

type Change = { readonly type: 'add' } & RemoteDispatch | { readonly type: 'prefilled' | 'end'; readonly id: string };

interface Peer {
  /** Number of the last batch applied; -1 = its state is awaited. */
  batch: number;
  heardAtMs: number;
  readonly requests: Map<string, RemoteDispatch>;
  readonly prefilled: Set<string>;
}

/**
 * Tells the other routers of a model which requests this one has sent where, and hears the same of them, over the event plane (at most once, in
 * order per publisher). Batches are numbered: a gap, a newcomer or a restart is answered by a router's whole state. Output growth is not told.
 */
export class LoadReplica {
  readonly #options: LoadReplicaOptions;
  readonly #subject: string;
  readonly #prefix: string;
  readonly #own = new Map<string, Change & { type: 'add' }>();
  readonly #ownPrefilled = new Set<string>();
  readonly #peers = new Map<string, Peer>();
  readonly #counters: { readonly gaps: Counter; readonly malformed: Counter; readonly remote: Gauge };
  #changes: Change[] = [];
  #batch = 0;
  #flush: Timer | undefined;
  #beat: Timer | undefined;
  #subscription: { close(): void } | undefined;
  #lastWanted = -Infinity;

  constructor(options: LoadReplicaOptions) {
    this.#options = options;
    const { metrics, model } = options;
    this.#prefix = `load/${model}/`;
    this.#subject = `${this.#prefix}${options.routerId}`;
    this.#counters = {
      gaps: metrics.counter({ name: 'armature_router_load_gaps_total', help: 'Gaps in what other routers said of their load; each is followed by its whole state.', labelNames: ['model'] }).with(model),
      malformed: metrics.counter({ name: 'armature_router_load_malformed_total', help: 'Messages of other routers that could not be read.', labelNames: ['model'] }).with(model),
      remote: metrics.gauge({ name: 'armature_router_remote_requests', help: 'Requests that other routers have sent to workers.', labelNames: ['model'] }).with(model),
    };
    this.#flush = undefined;
    this.#beat = undefined;
    this.#subscription = undefined;
  }

  start(): void {
    const { events } = this.#options;
    this.#subscription = events.subscribe(this.#prefix, (subject, payload) => this.#receive(subject.slice(this.#prefix.length), payload));
    this.#want('');
    this.#heartbeat();
  }

  /** Other routers forget this one's requests at once. */
  close(): void {
    const { clock, events } = this.#options;
    for (const timer of [this.#flush, this.#beat]) if (timer !== undefined) clock.clearTimer(timer);
    if (this.#subscription === undefined) return;
    this.#subscription.close();
    this.#subscription = undefined;
    events.publish(this.#subject, { type: 'bye' });
  }

  added(dispatch: RemoteDispatch): void {
    const change = { type: 'add', ...dispatch, sequenceHashes: dispatch.sequenceHashes.slice() } as const;
    this.#own.set(dispatch.id, change);
    this.#push(change);
  }

  prefilled(id: string): void {
    if (!this.#own.has(id) || this.#ownPrefilled.has(id)) return;
    this.#ownPrefilled.add(id);
    this.#push({ type: 'prefilled', id });
  }

  ended(id: string): void {
    if (!this.#own.delete(id)) return;
    this.#ownPrefilled.delete(id);
    this.#push({ type: 'end', id });
  }

  /** What others sent to a worker before it was known here counts from now on. */
  workerJoined(instanceId: string): void {
    for (const [router, peer] of this.#peers) {
      for (const [id, dispatch] of peer.requests) {
        if (dispatch.instanceId !== instanceId) continue;
        this.#options.sink.added(router, dispatch);
        if (peer.prefilled.has(id)) this.#options.sink.prefilled(router, id);
      }
    }
  }

  /** Routers known, with the requests each has running. */
  peers(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.#peers].map(([router, peer]) => [router, peer.requests.size]));
  }

  #push(change: Change): void {
    this.#changes.push(change);
    if (this.#changes.length >= BATCH_CHANGES) this.#publishBatch();
    else this.#flush ??= this.#options.clock.setTimer(BATCH_MS, () => this.#publishBatch());
  }

  #publishBatch(): void {
    if (this.#flush !== undefined) this.#options.clock.clearTimer(this.#flush);
    this.#flush = undefined;
    if (this.#changes.length === 0) return;
    const changes = this.#changes;
    this.#changes = [];
    this.#options.events.publish(this.#subject, { type: 'changes', batch: ++this.#batch, changes: changes as unknown as PlainData });
  }

  #publishState(): void {
    this.#publishBatch();
    this.#options.events.publish(this.#subject, { type: 'state', batch: this.#batch, requests: [...this.#own.values()] as unknown as PlainData, prefilled: [...this.#ownPrefilled] });
  }

  #heartbeat(): void {
    const { clock, events } = this.#options;
    events.publish(this.#subject, { type: 'beat', batch: this.#batch });
    const now = clock.nowMs();
    for (const [router, peer] of this.#peers) if (now - peer.heardAtMs >= SILENCE_MS) this.#forget(router, 'nothing was heard of it');
    this.#beat = clock.setTimer(HEARTBEAT_MS, () => this.#heartbeat());
  }

  /** Asks one router ('' = every one) for its state. */
  #want(router: string): void {
    this.#options.events.publish(this.#subject, { type: 'want', router });
  }

  #receive(router: string, payload: PlainData): void {
    if (router === this.#options.routerId) return; // our own voice
    try {
      this.#handle(router, payload as { readonly [field: string]: PlainData });
    } catch (error) {
      this.#counters.malformed.inc();
      this.#options.log.warn('message of another router ignored', { code: 'SERVING_LOAD_MESSAGE_INVALID', router, reason: String(error) });
    }
    let remote = 0;
    for (const peer of this.#peers.values()) remote += peer.requests.size;
    this.#counters.remote.set(remote);
  }

  #handle(router: string, message: { readonly [field: string]: PlainData }): void {
    if (typeof message !== 'object' || message === null) throw new TypeError('it is no message');
    if (message['type'] === 'want') this.#answer(message['router']);
    else if (message['type'] === 'bye') this.#forget(router, 'it said goodbye');
    else this.#follow(router, message);
  }

  /** Somebody wants the state of `router`, '' = of every one. */
  #answer(router: PlainData): void {
    if (router !== '' && router !== this.#options.routerId) return;
    const nowMs = this.#options.clock.nowMs();
    if (nowMs - this.#lastWanted < BATCH_MS) return; // several ask at once: one answer is for all
    this.#lastWanted = nowMs;
    this.#publishState();
  }

  #follow(router: string, message: { readonly [field: string]: PlainData }): void {
    const batch = message['batch'];
    if (typeof batch !== 'number' || !Number.isSafeInteger(batch) || batch < 0) throw new TypeError(`batch is ${String(batch)}`);
    const known = this.#peers.get(router);
    if (known !== undefined) known.heardAtMs = this.#options.clock.nowMs();
    if (message['type'] === 'state') this.#takeState(router, batch, message);
    else if (known === undefined || known.batch < 0) {
      if (known === undefined || message['type'] === 'beat') this.#meet(router, known);
    } else if (message['type'] === 'changes' && batch === known.batch + 1) {
      known.batch = -1; // until all of it was read: what is left out is made good by the whole state
      for (const change of list(message['changes'])) this.#apply(router, known, change);
      known.batch = batch;
    } else if (batch > known.batch) {
      this.#counters.gaps.inc();
      known.batch = -1;
      this.#want(router);
    }
  }

  /** Somebody of whom nothing is known, or whose state is awaited: asked with every beat until it comes. */
  #meet(router: string, known: Peer | undefined): void {
    if (known === undefined) this.#peers.set(router, { batch: -1, heardAtMs: this.#options.clock.nowMs(), requests: new Map(), prefilled: new Set() });
    this.#want(router);
  }

  #takeState(router: string, batch: number, message: { readonly [field: string]: PlainData }): void {
    const before = this.#peers.get(router);
    if (before !== undefined && before.batch === batch) return; // asked for by somebody else; nothing new
    const requests = list(message['requests']).map(dispatchFrom);
    const prefilled = list(message['prefilled']);
    if (before !== undefined) for (const id of before.requests.keys()) this.#options.sink.ended(router, id);
    const peer: Peer = { batch, heardAtMs: this.#options.clock.nowMs(), requests: new Map(), prefilled: new Set() };
    this.#peers.set(router, peer);
    for (const request of requests) {
      peer.requests.set(request.id, request);
      this.#options.sink.added(router, request);
    }
    for (const id of prefilled) if (typeof id === 'string' && peer.requests.has(id)) this.#prefilled(router, peer, id);
  }

  #apply(router: string, peer: Peer, change: PlainData): void {
    const { type, id } = change as { readonly type: PlainData; readonly id: PlainData };
    if (typeof id !== 'string') throw new TypeError('a change names no request');
    if (type === 'add') {
      const dispatch = dispatchFrom(change);
      peer.requests.set(id, dispatch);
      this.#options.sink.added(router, dispatch);
    } else if (!peer.requests.has(id)) return;
    else if (type === 'prefilled') this.#prefilled(router, peer, id);
    else if (type === 'end') {
      peer.requests.delete(id);
      peer.prefilled.delete(id);
      this.#options.sink.ended(router, id);
    }
  }

  #prefilled(router: string, peer: Peer, id: string): void {
    peer.prefilled.add(id);
    this.#options.sink.prefilled(router, id);
  }

  #forget(router: string, why: string): void {
    const peer = this.#peers.get(router);
    if (peer === undefined) return;
    this.#peers.delete(router);
    for (const id of peer.requests.keys()) this.#options.sink.ended(router, id);
    this.#options.log.info('router left', { router, reason: why, requests: peer.requests.size });
  }
}

function list(value: PlainData): readonly PlainData[] {
  if (!Array.isArray(value)) throw new TypeError('a list is missing');
  return value as readonly PlainData[];
}

function dispatchFrom(value: PlainData): RemoteDispatch {
  const dispatch = value as unknown as RemoteDispatch;
  const counts = [dispatch.promptTokens, dispatch.prefillTokens, dispatch.blockSize];
  const isWhole =
    typeof dispatch.id === 'string' &&
    typeof dispatch.instanceId === 'string' &&
    ['aggregated', 'prefill', 'decode'].includes(dispatch.hop) &&
    counts.every((count) => Number.isSafeInteger(count) && count >= 0) &&
    dispatch.blockSize > 0 &&
    dispatch.sequenceHashes instanceof Int32Array &&
    dispatch.sequenceHashes.length % 2 === 0;
  if (!isWhole) throw new TypeError('a request is not described');
  return dispatch;
}
