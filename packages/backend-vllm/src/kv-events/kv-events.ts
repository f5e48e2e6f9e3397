import type { Clock, KvEvent, Logger, Timer } from '@armature/contracts';
import { EngineBlocks } from './engine-blocks.ts';
import type { EngineBlockCounts } from './engine-blocks.ts';
import { exposeEvents } from './event-metrics.ts';
import type { EventMetricsTarget } from './event-metrics.ts';
import { EventStream } from './event-stream.ts';
import type { EventStreamCounts } from './event-stream.ts';
import { ZmqLink } from './zmq-link.ts';

export interface KvEventsConfig {
  /** Empty: no KV events. */
  readonly endpoint: string;
  readonly listen: boolean;
  readonly replayEndpoint: string;
  readonly topic: string;
  readonly replayTimeoutMs: number;
}

export interface KvEventsOptions {
  readonly config: KvEventsConfig;
  readonly blockSize: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics?: EventMetricsTarget;
}

/** What `vllm serve` is told so that a worker can follow its cache. */
export const EVENTS_HINT = `start vLLM with --enable-prefix-caching --kv-events-config '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://*:5557","replay_endpoint":"tcp://*:5558"}'`;

/** Requests with prompts of whole blocks, after which an engine that tells nothing has its events off. */
const SILENT_REQUESTS = 4;
const SILENT_MS = 10_000;
/** A connection that was lost and is not there again by then: meanwhile the engine may have thrown away anything. */
const LOST_MS = 5000;

/** Follows the cache of one engine: sockets, order, blocks. */
export class KvEvents {
  readonly #options: KvEventsOptions;
  readonly #blocks: EngineBlocks;
  readonly #stream: EventStream;
  readonly #unexpose: () => void;
  #listener: ((event: KvEvent) => void) | undefined;
  #link: ZmqLink | undefined;
  #lostTimer: Timer | undefined;
  #isClosed: boolean;
  #requests: number;
  #firstRequestMs: number;
  #hasWarnedSize: boolean;
  #hasWarnedSilent: boolean;

  constructor(options: KvEventsOptions) {
    const { config, clock, log, blockSize, metrics } = options;
    this.#options = options;
    this.#listener = undefined;
    this.#link = undefined;
    this.#lostTimer = undefined;
    this.#isClosed = false;
    this.#requests = 0;
    this.#firstRequestMs = 0;
    this.#hasWarnedSize = false;
    this.#hasWarnedSilent = false;
    this.#blocks = new EngineBlocks(blockSize, (event) => this.#emit(event));
    this.#stream = new EventStream({
      blocks: this.#blocks,
      requestReplay: config.replayEndpoint === '' ? undefined : (from) => this.#link?.requestReplay(from),
      replayTimeoutMs: config.replayTimeoutMs,
      clock,
      log,
    });
    this.#unexpose = metrics === undefined ? () => undefined : exposeEvents(metrics, () => this.counts);
  }

  get counts(): EngineBlockCounts & EventStreamCounts {
    return { ...this.#blocks.counts, ...this.#stream.counts };
  }

  get heldBlocks(): number {
    return this.#blocks.heldBlocks;
  }

  /** Whether all that the engine holds is known. */
  get isWhole(): boolean {
    return this.#stream.isWhole;
  }

  /** Of the engine, once it has told; 0 = not known. */
  setTotalBlocks(blocks: number): void {
    this.#blocks.totalBlocks = blocks;
  }

  /** With `listen`: where the engine is to connect, its port resolved. After `open`. */
  get endpoint(): string {
    return this.#link?.endpoint ?? this.#options.config.endpoint;
  }

  listen(listener: (event: KvEvent) => void): void {
    this.#listener = listener;
  }

  /** Throws `VLLM_EVENTS_ADDON_MISSING`, `VLLM_EVENTS_ENDPOINT`. */
  async open(): Promise<void> {
    const { config, log } = this.#options;
    const link = await ZmqLink.open(
      { ...config, log },
      {
        connected: () => {
          this.#clearLost();
          this.#stream.resync('connected to the publisher of the engine');
        },
        disconnected: () => this.#lost(),
        message: (sequence, payload) => {
          this.#stream.receive(sequence, payload);
          if (this.#blocks.foreignBlockSize !== 0) this.#warnSize();
        },
        replayed: (sequence, payload) => this.#stream.replayed(sequence, payload),
        replayEnded: () => this.#stream.replayEnded(),
      },
    );
    if (this.#isClosed) link.close();
    this.#link = link;
  }

  /** The engine is another one, or has lost its cache. */
  resync(reason: string): void {
    if (this.#link !== undefined) this.#stream.resync(reason);
  }

  /** The engine has computed the prompt of a request: `blocks` whole blocks were not in its cache, so it should have told of them. */
  computed(blocks: number): void {
    if (blocks < 1 || this.#hasWarnedSilent || this.#stream.counts.messages + this.#stream.counts.replayedMessages > 0) return;
    const { clock, log, config } = this.#options;
    if (this.#requests++ === 0) this.#firstRequestMs = clock.nowMs();
    if (this.#requests < SILENT_REQUESTS || clock.nowMs() - this.#firstRequestMs < SILENT_MS) return;
    this.#hasWarnedSilent = true;
    log.warn('vLLM serves requests and sends no KV events: the router sees no cache of this worker', { code: 'VLLM_EVENTS_SILENT', endpoint: config.endpoint, topic: config.topic, hint: EVENTS_HINT });
  }

  snapshot(): readonly KvEvent[] {
    return this.#blocks.snapshot();
  }

  close(): void {
    this.#isClosed = true;
    this.#clearLost();
    this.#unexpose();
    this.#stream.close();
    this.#link?.close();
  }

  #lost(): void {
    const { clock, log, config } = this.#options;
    this.#lostTimer ??= clock.setTimer(LOST_MS, () => {
      this.#lostTimer = undefined;
      log.warn('the connection to the KV events of vLLM is lost: what its cache holds is not known until it is back', { code: 'VLLM_EVENTS_SILENT', endpoint: config.endpoint, lostMs: LOST_MS });
      this.#stream.forget();
    });
  }

  #clearLost(): void {
    if (this.#lostTimer !== undefined) this.#options.clock.clearTimer(this.#lostTimer);
    this.#lostTimer = undefined;
  }

  #emit(event: KvEvent): void {
    try {
      this.#listener?.(event);
    } catch (error) {
      this.#options.log.error('the listener of KV events threw', { code: 'ENGINE_LISTENER_FAILED', event: event.eventId, error: String(error) });
    }
  }

  #warnSize(): void {
    if (this.#hasWarnedSize) return;
    this.#hasWarnedSize = true;
    const { blockSize, log } = this.#options;
    const found = this.#blocks.foreignBlockSize;
    log.warn('KV events tell of blocks of another size: the router credits this engine no overlap', { code: 'VLLM_BLOCK_SIZE_MISMATCH', found, expected: blockSize, hint: `set models[].blockSize: ${found}, or start vLLM with --block-size ${blockSize}` });
  }
}
