import type { Clock, Counter, KvEvent, Logger, Metrics, PlainData, Timer, WorkerRecord } from '@armature/contracts';
import { parseKvEvent } from './kv-event.ts';
import { LogGate } from './log-gate.ts';

/** Longest that a request's end waits for its KV events to arrive on the other plane. */
const FENCE_TIMEOUT_MS = 250;
/** Events kept for a worker while it is asked for what was missed. What is dropped is a gap, found later. */
const MAX_PENDING_EVENTS = 10_000;
const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 30_000;
/** A worker that publishes heartbeats and is not heard of for this long is degraded. Workers publish one per second. */
const SILENCE_MS = 5_000;

/** Where events are applied: the router policy, isolated. */
export interface KvSink {
  /** False: the event does not follow the last one. */
  apply(slot: number, event: KvEvent): boolean;
  /** The worker's whole state. */
  restore(slot: number, events: readonly KvEvent[], lastEventId: number): void;
  degraded(slot: number, isDegraded: boolean): void;
}

export interface KvStreamsOptions {
  readonly model: string;
  readonly sink: KvSink;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Workers with KV events publish heartbeats: silence from the beginning is noticed too. Left out: only after the first one. */
  readonly expectsHeartbeats?: boolean;
  /** The worker's cache as events, the last one with the last id given out; undefined: no answer. */
  readonly snapshot: (worker: WorkerRecord, done: (events: readonly KvEvent[] | undefined) => void) => void;
  /** Events `from` to `to` out of the worker's buffer; undefined: it has them no more, or no answer. */
  readonly replay: (worker: WorkerRecord, from: number, to: number, done: (events: readonly KvEvent[] | undefined) => void) => void;
}

export type KvStreamState = 'live' | 'syncing' | 'degraded';

class KvStream {
  readonly worker: WorkerRecord;
  /** Last event id applied. */
  applied = 0;
  /** Events that came during a replay or resync; undefined = in step. */
  pending: KvEvent[] | undefined = undefined;
  waiters: { readonly eventId: number; readonly resume: () => void }[] = [];
  /** Why what is known of the cache may be out of date. */
  reason: string | undefined = undefined;
  retry: Timer | undefined = undefined;
  retryMs = FIRST_RETRY_MS;
  /** When the first heartbeat came, and the last event or heartbeat; -1 = no heartbeat yet. */
  heardAtMs = -1;
  /** Its whole state was taken over and no event has followed it yet. */
  isFresh = false;
  /** Id said by the last heartbeat: two in a row ahead of what came means a loss. */
  announced = 0;

  constructor(worker: WorkerRecord) {
    this.worker = worker;
  }
}

/**
 * Follows the KV events of every worker of one model: in order, without gaps. A gap is closed from the worker's buffer, or else by its whole state;
 * while neither is to be had the worker is degraded: routed on what was known last, and said so in metrics, health, decisions.
 */
export class KvStreams {
  readonly #options: KvStreamsOptions;
  readonly #streams: (KvStream | undefined)[] = [];
  readonly #counters: Readonly<Record<'gaps' | 'replays' | 'resyncs' | 'malformed' | 'fenceTimeouts', Counter>>;
  readonly #stopMetrics: () => void;
  readonly #logGate: LogGate;
  #silenceTimer: Timer | undefined;
  #isClosed = false;

  constructor(options: KvStreamsOptions) {
    this.#options = options;
    this.#logGate = new LogGate(options.clock);
    const { metrics, model } = options;
    const counter = (name: string, help: string): Counter => metrics.counter({ name: `armature_router_${name}`, help, labelNames: ['model'] }).with(model);
    this.#counters = {
      gaps: counter('kv_event_gaps_total', 'Gaps found in the KV events of a worker.'),
      replays: counter('kv_event_replays_total', 'Gaps closed from the buffer of a worker.'),
      resyncs: counter('kv_event_resyncs_total', 'Whole states of a worker taken over.'),
      malformed: counter('kv_events_malformed_total', 'KV events that were none: of another version, or broken.'),
      fenceTimeouts: counter('fence_timeouts_total', 'Requests whose end was shown before their KV events had arrived.'),
    };
    const degraded = metrics.gauge({ name: 'armature_router_degraded_workers', help: 'Workers whose KV event stream is stale.', labelNames: ['model'] }).with(model);
    this.#stopMetrics = metrics.onCollect(() => degraded.set(this.#streams.filter((stream) => stream?.reason !== undefined).length));
  }

  joined(slot: number, worker: WorkerRecord): void {
    const stream = new KvStream(worker);
    this.#streams[slot] = stream;
    if (!worker.kvEvents) return;
    if (this.#options.expectsHeartbeats === true) this.#heard(slot, stream);
    this.#resync(slot);
  }

  left(slot: number): void {
    const stream = this.#streams[slot];
    if (stream === undefined) return;
    this.#streams[slot] = undefined;
    this.#clearRetry(stream);
    for (const waiter of stream.waiters) waiter.resume();
  }

  close(): void {
    this.#isClosed = true;
    this.#stopMetrics();
    this.#streams.forEach((_stream, slot) => this.left(slot)); // answers that are under way find no stream
    if (this.#silenceTimer !== undefined) this.#options.clock.clearTimer(this.#silenceTimer);
  }

  state(slot: number): { readonly state: KvStreamState; readonly reason: string | undefined; readonly appliedEventId: number } {
    const stream = this.#streams[slot];
    const state = stream?.reason !== undefined ? 'degraded' : stream?.pending !== undefined ? 'syncing' : 'live';
    return { state, reason: stream?.reason, appliedEventId: stream?.applied ?? 0 };
  }

  /** What came from the event plane for the worker. */
  receive(slot: number, payload: PlainData): void {
    const stream = this.#streams[slot];
    if (stream === undefined) return;
    const event = parseKvEvent(payload);
    if (typeof event === 'string') {
      this.#counters.malformed.inc();
      const suppressed = this.#logGate.pass(stream.worker.instanceId);
      if (suppressed !== undefined) this.#options.log.warn('KV event ignored', { code: 'SERVING_KV_EVENT_INVALID', worker: stream.worker.instanceId, found: event, suppressed });
      return; // its id is missing now: the next event or heartbeat finds the gap
    }
    if (stream.heardAtMs >= 0 || event.type === 'heartbeat') this.#heard(slot, stream);
    if (event.type === 'heartbeat') this.#heartbeat(slot, stream, event.eventId);
    else this.#apply(slot, stream, event);
  }

  /** Calls back when the worker's events up to `eventId` are applied, at once if they are; after a bounded wait in any case. */
  whenApplied(slot: number, eventId: number, resume: () => void): void {
    const stream = this.#streams[slot];
    if (stream === undefined || stream.applied >= eventId) {
      resume();
      return;
    }
    const { clock } = this.#options;
    let settled = false;
    const once = (): void => {
      if (settled) return;
      settled = true;
      clock.clearTimer(timer);
      resume();
    };
    const waiter = { eventId, resume: once };
    const timer = clock.setTimer(FENCE_TIMEOUT_MS, () => {
      this.#counters.fenceTimeouts.inc();
      stream.waiters = stream.waiters.filter((entry) => entry !== waiter);
      once();
      // The worker has said these events exist: they are lost, not late.
      if (this.#streams[slot] === stream && stream.pending === undefined) this.#replay(slot, stream, eventId);
    });
    stream.waiters.push(waiter);
  }

  #apply(slot: number, stream: KvStream, event: KvEvent): void {
    if (stream.pending !== undefined) {
      if (stream.pending.length < MAX_PENDING_EVENTS) stream.pending.push(event);
      return;
    }
    if (this.#options.sink.apply(slot, event)) {
      if (event.eventId > stream.applied && stream.isFresh) {
        stream.isFresh = false;
        stream.retryMs = FIRST_RETRY_MS;
      }
      this.#advance(stream, event.eventId);
      return;
    }
    this.#counters.gaps.inc();
    this.#replay(slot, stream, event.eventId - 1, event);
  }

  #advance(stream: KvStream, eventId: number): void {
    if (eventId > stream.applied) stream.applied = eventId;
    if (stream.waiters.length === 0) return;
    const due = stream.waiters.filter((waiter) => waiter.eventId <= stream.applied);
    stream.waiters = stream.waiters.filter((waiter) => waiter.eventId > stream.applied);
    for (const waiter of due) waiter.resume();
  }

  #heartbeat(slot: number, stream: KvStream, eventId: number): void {
    const isBehind = stream.pending === undefined && stream.applied < stream.announced;
    stream.announced = eventId;
    if (!isBehind) return;
    this.#counters.gaps.inc();
    this.#replay(slot, stream, eventId);
  }

  /** Asks for the events up to `to` that did not come. `next`: the event that showed the gap. */
  #replay(slot: number, stream: KvStream, to: number, next?: KvEvent): void {
    const from = stream.applied + 1;
    stream.pending = next === undefined ? [] : [next];
    this.#options.replay(stream.worker, from, to, (events) => {
      if (this.#streams[slot] !== stream) return;
      for (const event of (events === undefined ? undefined : this.#parseAll(events)) ?? []) {
        if (this.#options.sink.apply(slot, event)) this.#advance(stream, event.eventId);
      }
      if (stream.applied < to) {
        // A state that the very next event does not follow would not get better by asking again at once.
        if (stream.isFresh) this.#failed(slot, stream);
        else this.#resync(slot);
        return;
      }
      this.#counters.replays.inc();
      this.#inStep(slot, stream);
    });
  }

  /** Asks for the whole state. Until it is there, what was known last stays. */
  #resync(slot: number): void {
    const stream = this.#streams[slot];
    if (stream === undefined || this.#isClosed) return;
    stream.pending ??= [];
    this.#clearRetry(stream);
    this.#options.snapshot(stream.worker, (events) => {
      if (this.#streams[slot] !== stream) return;
      const state = events === undefined ? undefined : this.#parseAll(events);
      if (state === undefined) {
        this.#failed(slot, stream);
        return;
      }
      const lastEventId = state.at(-1)?.eventId ?? 0;
      this.#options.sink.restore(slot, state, lastEventId);
      stream.applied = 0;
      stream.isFresh = true;
      this.#advance(stream, lastEventId);
      if (state.length > 0) this.#counters.resyncs.inc();
      this.#inStep(slot, stream);
    });
  }

  /** Answers of workers are looked at like events; undefined when one is none. */
  #parseAll(events: readonly unknown[]): KvEvent[] | undefined {
    const parsed: KvEvent[] = [];
    for (const entry of events) {
      const event = parseKvEvent(entry as PlainData);
      if (typeof event === 'string' || event.type === 'heartbeat') {
        this.#counters.malformed.inc();
        return undefined;
      }
      parsed.push(event);
    }
    return parsed;
  }

  /** Nothing is missing: what came meanwhile is applied. */
  #inStep(slot: number, stream: KvStream): void {
    const pending = stream.pending ?? [];
    stream.pending = undefined;
    if (!stream.isFresh) stream.retryMs = FIRST_RETRY_MS;
    this.#setReason(slot, stream, undefined);
    for (const event of pending) {
      if (event.eventId > stream.applied) this.#apply(slot, stream, event);
    }
  }

  #failed(slot: number, stream: KvStream): void {
    const { clock, log } = this.#options;
    log.warn('worker did not answer a KV resync; it is routed on what was known last', { code: 'SERVING_RESYNC_FAILED', worker: stream.worker.instanceId, retryMs: stream.retryMs });
    this.#setReason(slot, stream, 'its cache state could not be read (SERVING_RESYNC_FAILED)');
    if (this.#isClosed) return;
    stream.retry = clock.setTimer(stream.retryMs, () => {
      stream.retry = undefined;
      this.#resync(slot);
    });
    stream.retryMs = Math.min(LAST_RETRY_MS, stream.retryMs * 2);
  }

  #heard(slot: number, stream: KvStream): void {
    stream.heardAtMs = this.#options.clock.nowMs();
    // It speaks again; what was lost meanwhile its next heartbeat shows.
    if (stream.reason === SILENT && stream.pending === undefined) this.#setReason(slot, stream, undefined);
    if (this.#silenceTimer !== undefined || this.#isClosed) return;
    this.#silenceTimer = this.#options.clock.setTimer(SILENCE_MS, () => this.#lookForSilence());
  }

  #lookForSilence(): void {
    this.#silenceTimer = undefined;
    const { clock } = this.#options;
    let talks = false;
    this.#streams.forEach((stream, slot) => {
      if (stream === undefined || stream.heardAtMs < 0) return;
      talks = true;
      if (stream.reason === undefined && clock.nowMs() - stream.heardAtMs >= SILENCE_MS) this.#setReason(slot, stream, SILENT);
    });
    if (talks && !this.#isClosed) this.#silenceTimer = clock.setTimer(SILENCE_MS, () => this.#lookForSilence());
  }

  #setReason(slot: number, stream: KvStream, reason: string | undefined): void {
    if (stream.reason === reason) return;
    const was = stream.reason;
    stream.reason = reason;
    this.#options.sink.degraded(slot, reason !== undefined);
    const { log } = this.#options;
    const fields = { worker: stream.worker.instanceId, reason: reason ?? was };
    if (reason !== undefined) log.warn('worker degraded: what the router knows of its cache may be out of date', { code: 'SERVING_KV_STREAM_STALE', ...fields });
    else log.info('worker no longer degraded', fields);
  }

  #clearRetry(stream: KvStream): void {
    if (stream.retry !== undefined) this.#options.clock.clearTimer(stream.retry);
    stream.retry = undefined;
  }
}

const SILENT = 'nothing was heard of its KV event stream';
