import type { Clock, KvEvent, Logger, Metrics, Timer } from '@armature/contracts';
import { parseJson } from '../lossless-json.ts';
import { EngineCache } from './engine-cache.ts';
import type { EngineCacheCounts } from './engine-cache.ts';
import { parseEvent } from './wire.ts';
import type { WireEvent } from './wire.ts';

export interface FollowerOptions {
  /** Text of one `/kv_cache_events` answer. Each event is given out once: nobody else may ask. */
  readonly fetch: () => Promise<string>;
  readonly intervalMs: number;
  readonly blockSize: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics?: { readonly metrics: Metrics; readonly labels: readonly [model: string, pool: string] };
}

export interface FollowerCounts extends EngineCacheCounts {
  readonly fetches: number;
  readonly failedFetches: number;
  /** Numbers that were left out: dropped by a full buffer, or given out to somebody else. */
  readonly lostEvents: number;
  /** What was known was dropped, for events were lost or the engine is another one. */
  readonly resyncs: number;
  /** Not understood: not even told apart. */
  readonly invalidEvents: number;
}

/** What `trtllm-serve` is told so that a worker can follow its cache. */
export const EVENTS_HINT = 'set kv_cache_config.enable_block_reuse: true and kv_cache_config.event_buffer_max_size: 65536 in the options file of trtllm-serve (--extra_llm_api_options), and let nobody else fetch /kv_cache_events';

/** Requests that should have stored blocks, after which an engine that tells nothing has its events off. */
const SILENT_REQUESTS = 4;

/** Follows the cache of one engine: fetches its events, in order, and starts anew where some were lost. */
export class KvEventFollower {
  readonly #options: FollowerOptions;
  readonly #cache: EngineCache;
  readonly #counts: { fetches: number; failedFetches: number; lostEvents: number; resyncs: number; invalidEvents: number };
  /** Number of the last event of each attention data-parallel rank. */
  readonly #lastIds: Map<number, number>;
  readonly #unexpose: () => void;
  #listener: ((event: KvEvent) => void) | undefined;
  #timer: Timer | undefined;
  /** The fetch on its way, and the one after it if somebody waits for that. */
  #current: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #isClosed: boolean;
  #silentRequests: number;
  #hasWarned: Set<string>;

  constructor(options: FollowerOptions) {
    this.#options = options;
    this.#counts = { fetches: 0, failedFetches: 0, lostEvents: 0, resyncs: 0, invalidEvents: 0 };
    this.#lastIds = new Map();
    this.#listener = undefined;
    this.#timer = undefined;
    this.#current = undefined;
    this.#next = undefined;
    this.#isClosed = false;
    this.#silentRequests = 0;
    this.#hasWarned = new Set();
    this.#cache = new EngineCache(options.blockSize, (event) => this.#emit(event));
    this.#unexpose = this.#expose();
  }

  get counts(): FollowerCounts {
    return { ...this.#cache.counts, ...this.#counts };
  }

  get lastId(): number {
    return this.#cache.lastId;
  }

  get heldBlocks(): number {
    return this.#cache.size;
  }

  /** Of the device tier, as told when the engine began; 0: not told. */
  get totalBlocks(): number {
    return this.#cache.totalBlocks;
  }

  listen(listener: (event: KvEvent) => void): void {
    this.#listener = listener;
  }

  snapshot(): readonly KvEvent[] {
    return this.#cache.snapshot();
  }

  /** Fetches once, then again and again. */
  async start(): Promise<void> {
    await this.#fetch();
    this.#arm();
  }

  /** Resolves when everything that the engine had to tell at this moment has been told, or after `timeoutMs`. */
  async settle(timeoutMs: number): Promise<void> {
    if (this.#isClosed || timeoutMs === 0) return;
    const { clock } = this.#options;
    // The fetch on its way may have been answered before: only a later one has it all.
    this.#next ??= (this.#current ?? Promise.resolve()).then(() => this.#fetch());
    const all = this.#next;
    await new Promise<void>((resolve) => {
      const timer = clock.setTimer(timeoutMs, resolve);
      void all.then(() => {
        clock.clearTimer(timer);
        resolve();
      });
    });
  }

  /** The engine has computed `blocks` whole blocks of a prompt that were not in its cache, so it should have told of them. */
  computed(blocks: number): void {
    if (blocks < 1 || this.#cache.counts.events > 0 || ++this.#silentRequests < SILENT_REQUESTS) return;
    this.#warn('TRTLLM_EVENTS_SILENT', 'TensorRT-LLM serves requests and tells no KV events: the router sees no cache of this worker', { hint: EVENTS_HINT });
  }

  /** The engine is another one: what it holds is not known. */
  restarted(): void {
    this.#lastIds.clear();
    if (this.#cache.size > 0) this.#resync('the server was away');
  }

  close(): void {
    this.#isClosed = true;
    this.#unexpose();
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  #arm(): void {
    if (this.#isClosed) return;
    this.#timer = this.#options.clock.setTimer(this.#options.intervalMs, () => {
      this.#timer = undefined;
      void (this.#next ?? this.#current ?? this.#fetch()).then(() => this.#arm());
    });
  }

  /** One at a time. Never rejects. */
  #fetch(): Promise<void> {
    this.#current = this.#fetchOne().finally(() => (this.#current = undefined));
    this.#next = undefined;
    return this.#current;
  }

  async #fetchOne(): Promise<void> {
    if (this.#isClosed) return;
    this.#counts.fetches++;
    let list: unknown;
    try {
      list = parseJson(await this.#options.fetch());
    } catch (error) {
      // The events of that answer are lost: the gap in their numbers will show it.
      if (!this.#isClosed && this.#counts.failedFetches++ === 0) this.#options.log.warn('KV events could not be fetched', { code: 'TRTLLM_EVENTS_FAILED', error: String(error), hint: EVENTS_HINT });
      return;
    }
    if (this.#isClosed) return;
    if (!Array.isArray(list)) {
      this.#counts.invalidEvents++;
      this.#warn('TRTLLM_EVENTS_INVALID', 'the answer of /kv_cache_events is no list', { hint: 'is engine.config.baseUrl a trtllm-serve server, without a proxy that changes answers?' });
      return;
    }
    for (const value of list as readonly unknown[]) this.#take(value);
  }

  #take(value: unknown): void {
    const event = parseEvent(value);
    if (event === undefined) {
      this.#counts.invalidEvents++;
      this.#warn('TRTLLM_EVENTS_INVALID', 'a KV event is not understood', { event: JSON.stringify(value, (_, field: unknown) => (typeof field === 'bigint' ? field.toString() : field)).slice(0, 300), hint: 'is this version of TensorRT-LLM known here? See packages/backend-trtllm/fixtures' });
      return;
    }
    this.#inOrder(event);
    this.#cache.apply(event);
    if (this.#cache.foreignBlockSize !== 0) {
      this.#warn('TRTLLM_BLOCK_SIZE_MISMATCH', `TensorRT-LLM has blocks of ${this.#cache.foreignBlockSize} tokens: the router credits it no overlap`, { hint: `set models[].blockSize: ${this.#cache.foreignBlockSize}, or kv_cache_config.tokens_per_block: ${this.#options.blockSize}` });
    }
  }

  /** Each rank counts by itself, for all its windows together. */
  #inOrder({ eventId, rank }: WireEvent): void {
    const last = this.#lastIds.get(rank);
    this.#lastIds.set(rank, eventId);
    if (last === undefined || eventId === last + 1) return;
    if (eventId <= last) return this.#resync(`events begin anew at ${eventId} after ${last}: the engine is another one`);
    this.#counts.lostEvents += eventId - last - 1;
    this.#resync(`${eventId - last - 1} events were lost before ${eventId}: the buffer of the engine ran over, or somebody else fetches them`);
  }

  #resync(reason: string): void {
    this.#counts.resyncs++;
    this.#options.log.warn('what is known of the KV cache is dropped and learned anew', { code: 'TRTLLM_EVENTS_LOST', reason, blocks: this.#cache.size, hint: 'raise kv_cache_config.event_buffer_max_size, or lower engine.config.eventIntervalMs' });
    this.#cache.clear();
  }

  #warn(code: string, message: string, fields: Readonly<Record<string, unknown>>): void {
    if (this.#hasWarned.has(code)) return;
    this.#hasWarned.add(code);
    this.#options.log.warn(message, { code, ...fields });
  }

  #emit(event: KvEvent): void {
    try {
      this.#listener?.(event);
    } catch (error) {
      this.#options.log.error('the listener of KV events threw', { code: 'ENGINE_LISTENER_FAILED', event: event.eventId, error: String(error) });
    }
  }

  /** Counts as counters, brought up to date at each scrape. */
  #expose(): () => void {
    const { metrics: target } = this.#options;
    if (target === undefined) return () => undefined;
    const family = target.metrics.counter({ name: 'armature_trtllm_kv_events_total', help: 'KV events of TensorRT-LLM: as told, and what was lost, left out or not understood.', labelNames: ['model', 'pool', 'what'] });
    const told = new Map<string, number>();
    return target.metrics.onCollect(() => {
      for (const [name, count] of Object.entries(this.counts)) {
        const before = told.get(name) ?? 0;
        if (count > before) family.with(...target.labels, name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)).inc(count - before);
        told.set(name, count);
      }
    });
  }
}
