import type { Clock, EngineBackend, ErrorData, KvFace, KvOperation, KvSource, PlaneStream, StreamSink } from '@armature/contracts';
import type { BlockManager, KvFetchResult, KvPeer } from '@armature/kvbm';
import { fetchedMessage } from '../messages.ts';
import type { EngineRequestFields } from '../messages.ts';
import { EngineStream } from './engine-stream.ts';
import type { PrefillWatch } from './prefill-watch.ts';

/** Where a leg's blocks can be brought from; absent without a block manager. */
export interface LegKv {
  readonly kv: KvFace;
  readonly manager: BlockManager;
  readonly watch: PrefillWatch;
  readonly fetchDeadlineMs: number;
}

export interface LegHost {
  readonly engine: EngineBackend;
  readonly clock: Clock;
  readonly blockSize: number;
  /** Number of an engine's event in the worker's sequence. */
  eventIdOf(engineEventId: number): number;
  closed(leg: GenerateLeg): void;
}

/**
 * A leg that the engine computes itself. With a block manager, blocks of the prompt that a lower tier or a peer holds are brought to the engine first,
 * where that is quicker than computing them. Closed at any time everything goes back: a fetch is cancelled, the engine's request too.
 */
export class GenerateLeg implements StreamSink {
  readonly #host: LegHost;
  readonly #request: EngineRequestFields;
  readonly #stream: PlaneStream;
  #kv: LegKv | undefined = undefined;
  #ahead: KvOperation | undefined = undefined;
  #fetch: KvOperation | undefined = undefined;
  #sink: EngineStream | undefined = undefined;
  #isClosed = false;

  constructor(host: LegHost, request: EngineRequestFields, stream: PlaneStream) {
    this.#host = host;
    this.#request = request;
    this.#stream = stream;
  }

  /** Gives the request to the engine, maybe after a fetch. Once. */
  start(source: KvSource | undefined, kv: LegKv | undefined, peers: readonly KvPeer[]): void {
    this.#kv = kv;
    if (kv === undefined || source !== undefined || this.#request.leg === 'decode') this.#submit(source);
    else this.#bring(kv, peers);
  }

  message(): void {
    // Everything is said in the opening message.
  }

  closed(_error: ErrorData | undefined): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const sink = this.#sink;
    if (this.#ahead !== undefined) {
      this.#ahead.cancel();
      this.#host.closed(this);
    } else if (sink === undefined) this.#fetch?.cancel(); // `fetched` follows
    else if (!sink.hasEnded && sink.handle !== undefined) this.#host.engine.cancel(sink.handle);
  }

  /** Most requests find nothing below the engine: they cost a few look-ups. The last token is always computed: something is to be sampled. */
  #bring(legKv: LegKv, peers: readonly KvPeer[]): void {
    const { kv, manager } = legKv;
    const { sequenceHashes, tokenIds, cacheSalt } = this.#request;
    const usable = Math.min(sequenceHashes.length >> 1, Math.floor((tokenIds.length - 1) / this.#host.blockSize));
    const held = usable > 0 ? kv.match(sequenceHashes) : 0;
    if (held >= usable) return this.#submit(undefined);
    const hashes = sequenceHashes.subarray(0, 2 * usable);
    if (peers.length === 0 && !manager.holds(hashes, held)) {
      manager.passed(hashes, held);
      return this.#submit(undefined);
    }
    const queued = this.#host.engine.load().prefillTokens;
    if (queued === 0) return this.#startFetch(legKv, hashes, peers, 0);
    // The engine has other work first: meanwhile to host memory, without blocks of the device.
    let isDone = false;
    const ahead = manager.prefetchAhead(hashes, cacheSalt, queued, (left) => {
      isDone = true;
      this.#ahead = undefined;
      this.#startFetch(legKv, hashes, peers, Math.min(left, this.#host.engine.load().prefillTokens));
    });
    if (!isDone) this.#ahead = ahead;
  }

  #startFetch({ manager, fetchDeadlineMs }: LegKv, sequenceHashes: Int32Array, peers: readonly KvPeer[], queuedTokens: number): void {
    const { id, tokenIds, cacheSalt } = this.#request;
    let isDone = false;
    const fetch = manager.fetch(
      {
        id,
        sequenceHashes,
        promptTokens: tokenIds.length,
        cacheSalt,
        queuedTokens,
        deadlineMs: fetchDeadlineMs,
        peers,
      },
      (result) => {
        isDone = true;
        this.#fetch = undefined;
        this.#fetched(result);
      },
    );
    if (!isDone) this.#fetch = fetch;
  }

  #fetched({ reservation, readyTokens, record }: KvFetchResult): void {
    if (this.#isClosed) {
      if (reservation !== undefined) this.#kv?.kv.release(reservation);
      this.#host.closed(this);
      return;
    }
    if (record.runs.length > 0) this.#stream.send(fetchedMessage(record));
    this.#submit(reservation === undefined ? undefined : { type: 'reservation', reservation, readyTokens });
  }

  #submit(kvSource: KvSource | undefined): void {
    const { engine } = this.#host;
    const request = this.#request;
    const timing = this.#kv?.watch.submitted(request.tokenIds.length, isIdle(engine));
    const sink = new EngineStream({ stream: this.#stream, onEnd: () => this.#host.closed(this), eventIdOf: this.#host.eventIdOf, timing });
    this.#sink = sink;
    sink.handle = engine.submit({ ...request, kvSource }, sink);
  }
}

function isIdle(engine: EngineBackend): boolean {
  const { running, waiting } = engine.load();
  return running + waiting === 0;
}
