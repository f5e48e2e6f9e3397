import type { PassColumns } from './planner.ts';
import type { ErrorData } from './errors.ts';
import type { InferenceEnd, ResponseFormat, SamplingParams, StopParams, TokenSink } from './inference.ts';
import type { KvEvent } from './kv-events.ts';
import type { KvConnector } from './kv-host.ts';
import type { Lifecycle } from './plugin.ts';
import type { SegmentLocation } from './transfer-transport.ts';
import type { WorkerRole } from './worker.ts';

/** What an engine is; fixed once started. */
export interface EngineInfo {
  readonly modelFingerprint: string;
  readonly vocabSize: number;
  readonly maxModelTokens: number;
  readonly blockSize: number;
  readonly totalBlocks: number;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  /** LoRA adapters it has loaded: each is a model name of its own for clients. Absent: none. */
  readonly adapters?: readonly string[];
}

/** What an engine can do; fixed at create. */
export interface EngineAbilities {
  readonly roles: readonly WorkerRole[];
  readonly roleChange: 'live' | 'restart' | 'none';
  /** Who samples the first token of a disaggregated request. */
  readonly firstToken: 'prefill' | 'decode';
  /** Whether the decode leg may be submitted before prefill has ended. */
  readonly legs: 'sequential' | 'concurrent';
  /** Emits KV events for every change of its prefix cache. */
  readonly kvEvents: boolean;
  readonly maxTopLogprobs: number;
  /** Formats that it can guide decoding to. Absent: none. */
  readonly responseFormats?: readonly ResponseFormat['type'][];
}

/**
 * Where a decode leg finds the prompt's KV.
 * `reservation`: blocks of this engine, reserved through the kv face and filled by the host; the first `readyTokens` prompt tokens are
 * valid, the engine computes the rest (it has the tokens). `opaque`: the engine's own words for a remote lease, passed verbatim.
 */
export type KvSource =
  | { readonly type: 'reservation'; readonly reservation: number; readonly readyTokens: number }
  | { readonly type: 'opaque'; readonly params: Readonly<Record<string, unknown>> };

export interface EngineRequest {
  readonly id: string;
  /** `full`: prefill and decode. `prefill`: compute the prompt, sample one token if firstToken is `prefill`, keep the KV under a lease. `decode`: KV comes by `kvSource`. */
  readonly leg: 'full' | 'prefill' | 'decode';
  /** Prompt, then output tokens generated before (elsewhere): `promptTokens` tells where the output begins. Owned by the engine from here on. */
  readonly tokenIds: Int32Array;
  readonly promptTokens: number;
  /** Sequence hashes of the complete blocks of `tokenIds`, interleaved words; part of the request so that nobody hashes twice. */
  readonly sequenceHashes: Int32Array;
  /** Part of the hashes already; engines with own hashing (vLLM) pass it on. */
  readonly cacheSalt: string;
  /** LoRA adapter to run with, one of `EngineInfo.adapters`; part of the hashes already. Absent: the base model. */
  readonly adapter?: string;
  /** What the output must be, one of the engine's `responseFormats`. A prefill leg whose first token is not its own need not heed it. Absent: free text. */
  readonly responseFormat?: ResponseFormat;
  readonly sampling: SamplingParams;
  readonly stop: StopParams;
  readonly choices: number;
  /** Number of the first choice, when one of several goes on by itself: part of the seed of its draws. Batches count from 0. Absent = 0. */
  readonly firstChoice?: number;
  /**
   * Decode leg: the first output token of each choice, sampled by the prefill worker; it counts as output already generated and
   * was already delivered. -1: that choice has ended with it. Undefined: this engine samples the first token.
   */
  readonly firstTokens: Int32Array | undefined;
  readonly priority: number;
  readonly kvSource: KvSource | undefined;
  /** Prefill leg: how long the lease on the computed blocks lives without renewal. */
  readonly leaseTtlMs: number;
}

/** What a prefill leg hands over. Plain data: it travels to the decode worker. */
export interface PrefillHandover {
  /** Lease on this engine's blocks; 0 when `params` carry the engine's own. */
  readonly lease: number;
  /** The prompt's blocks in order, the last one possibly partial. Block numbers of the prefill worker's arena. */
  readonly blocks: Int32Array;
  /** Prompt tokens whose KV is in those blocks. */
  readonly tokens: number;
  readonly cachedTokens: number;
  /** Engine-native parameters, verbatim. */
  readonly params?: Readonly<Record<string, unknown>>;
}

/** Sink of a prefill leg: progress, the sampled first token (through `tokens`), then one `end`. */
export interface EngineSink extends TokenSink {
  /**
   * Prefill leg only: computing has begun or advanced; the first `readableTokens` prompt tokens can be read under `lease`.
   * The last call (all prompt tokens readable) comes before `end`.
   */
  prefilled?(handover: PrefillHandover): void;
  tokens: TokenSink['tokens'];
  /** With `eventId`: the last KV event that belongs to this request, to be applied before the end is shown. */
  end(end: InferenceEnd, eventId?: number): void;
}

/** Opaque; given back to `cancel`. */
export type EngineHandle = object;

export interface EngineLoad {
  readonly running: number;
  readonly waiting: number;
  /** Prompt tokens not yet computed, running and waiting. */
  readonly prefillTokens: number;
  readonly usedBlocks: number;
  /** Blocks that are free or can be evicted. */
  readonly freeBlocks: number;
  readonly totalBlocks: number;
  readonly preemptions: number;
}

/** One registered memory region of the KV arena. */
export interface KvSegment {
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  readonly byteOffset: number;
  readonly lengthBytes: number;
  /** Of its first byte, when other processes of this host can map it: they then read it without a socket. */
  readonly location?: Extract<SegmentLocation, { type: 'shared' }>;
  /** The `WebAssembly.Memory` whose buffer this is: own WebAssembly code then checks the bytes in place. */
  readonly wasm?: object;
}

/** Dimensions of a KV segment. `kv` is keys and values (or one plane for latent attention), `token` lies within a block, `dim` within a head. */
export type KvDimension = 'layer' | 'kv' | 'block' | 'token' | 'head' | 'dim';

/**
 * What the bytes of a segment are: a dense tensor over six dimensions, `order` outermost first. Examples of `order`:
 * `layer kv block token head dim` layer-major NHD (vLLM's default) · `layer kv block head token dim` layer-major HND ·
 * `block layer kv token head dim` block-major (one block is one run of bytes).
 * Travels in the metadata of its segment; facts of both sides are compared before the first byte moves.
 */
export interface KvLayout {
  /** Names weights and tokenizer; blocks of other models mean nothing. */
  readonly model: string;
  /** Name of the element type, for example `bf16`. */
  readonly dtype: string;
  readonly dtypeBytes: 1 | 2 | 4 | 8;
  /** Tokens per block. */
  readonly blockSize: number;
  readonly layers: number;
  /** 2: keys and values; 1: one plane (latent attention). */
  readonly planes: 1 | 2;
  /** Of the whole model. */
  readonly kvHeads: number;
  readonly headDim: number;
  /** Ranks the heads are split over; more ranks than heads hold copies. */
  readonly tpSize: number;
  readonly tpRank: number;
  /** All six dimensions, outermost first. */
  readonly order: readonly KvDimension[];
  /** Blocks in the segment. */
  readonly blocks: number;
}

/** One tensor-parallel rank's part of the arena: a run of bytes of segment 0. */
export interface KvArenaRank {
  /** From the beginning of segment 0. */
  readonly byteOffset: number;
  readonly lengthBytes: number;
  /** What its bytes are; `tpRank` is the rank's place in `KvArena.ranks`. */
  readonly layout: KvLayout;
}

/**
 * How blocks lie in the arena: block `b` is `pieces` runs of `pieceBytes` at `b * blockStrideBytes + p * pieceStrideBytes` of segment 0. Either the pieces
 * of a block lie together, or each has a region of all blocks of its own: `pieces` equal regions, which fill the segment.
 */
export interface KvArena {
  readonly segments: readonly KvSegment[];
  readonly blockStrideBytes: number;
  readonly pieces: number;
  readonly pieceBytes: number;
  readonly pieceStrideBytes: number;
  /** Equal fingerprints: blocks may be copied byte for byte. */
  readonly layoutFingerprint: string;
  /** What the bytes of segment 0 are, of an engine of one rank: lets ranks and orders be converted on the way. Absent, and no `ranks`: blocks move byte for byte only. */
  readonly layout?: KvLayout;
  /**
   * The parts of all ranks, in order, as `layout` says it of the whole: workers whose engines split the same model differently then exchange blocks,
   * converted on the way. The pieces of a block cover all ranks, so that whoever copies blocks byte for byte need not know ranks.
   */
  readonly ranks?: readonly KvArenaRank[];
}

export interface KvReservation {
  readonly id: number;
  /** Leading blocks of the hashes asked for that the engine holds already: pinned, not to be written. */
  readonly matchedBlocks: number;
  /** All blocks in order: the matched ones, then fresh ones for the owner of the reservation to fill. */
  readonly blocks: Int32Array;
}

/** Blocks pinned for a reader, by hash. */
export interface KvLease {
  /** For `renewLease` and `releaseLease`. */
  readonly id: number;
  /** Arena blocks of the rows asked for, as far as they were held without a break. */
  readonly blocks: Int32Array;
}

/**
 * The KV face of an engine. All calls are synchronous; block numbers index the arena.
 * Destination rule: blocks of a reservation go back to the pool only by `release` (after the transfer's status is terminal) or
 * by the request that adopted them; expiry of the time to live never frees blocks that a transfer may still write (see `quarantine`).
 */
export interface KvFace {
  arena(): KvArena;
  /** Leading blocks held, for interleaved sequence hashes. Takes no pin. */
  match(sequenceHashes: Int32Array): number;
  /**
   * Pins the registered blocks of the rows `from` to `to` of interleaved sequence hashes, as far as they are held without a break; readable until the lease
   * ends. Undefined: the first one is not held. Counts as use of the blocks for eviction only when `isUse`.
   */
  lease(sequenceHashes: Int32Array, from: number, to: number, ttlMs: number, isUse: boolean): KvLease | undefined;
  /**
   * The registered blocks that would be evicted next, oldest first, at most `limit`: hash and parent's hash, four words each. For those who want to copy
   * them first. Takes no pin.
   */
  evictable(limit: number): Int32Array;
  /**
   * Space for `blocks` blocks, of which the complete ones have the given hashes. Undefined: not enough free blocks now. `cacheSalt`: tenant of the
   * prompt, told with the `stored` events of `commit`.
   */
  reserve(sequenceHashes: Int32Array, blocks: number, ttlMs: number, cacheSalt?: string): KvReservation | undefined;
  /** The first `blocks` blocks are filled and may be matched by others; emits `stored`. Idempotent, growing. */
  commit(reservation: number, blocks: number): void;
  /** Ends a reservation that no request adopted. */
  release(reservation: number): void;
  /** Takes the reservation's blocks out of use until `release`: a transfer into them may still be running. */
  quarantine(reservation: number): void;
  /** False: the lease has expired (or never was). */
  renewLease(lease: number, ttlMs: number): boolean;
  /** `valid`: the blocks were untouched until now and their KV is right as far as known, what was read may be used. */
  releaseLease(lease: number): 'valid' | 'expired';
  /** Live counts, for leak tests. */
  counts(): { readonly leases: number; readonly reservations: number; readonly quarantined: number };
}

/** Serves one model in one worker. Calls come from the event loop; the engine's own threads are its business. */
export interface EngineBackend extends Lifecycle {
  readonly abilities: EngineAbilities;
  /** Valid after `start`. */
  readonly info: EngineInfo;
  start(): Promise<void>;
  /** Never throws: refusal is `end({type:'failed'})`, possibly before return. */
  submit(request: EngineRequest, sink: EngineSink): EngineHandle;
  /** Idempotent. The sink gets `end({type:'cancelled'})` unless it has ended. Blocks are freed when no step uses them. */
  cancel(handle: EngineHandle): void;
  load(): EngineLoad;
  /** Its passes since the last call, newest last, at most 64 (older ones are forgotten). What timing models are fitted from; absent: it does not tell. */
  takePasses?(): PassColumns;
  /** One listener; set before `start`. Called synchronously, before the terminal item of the request that caused the event. */
  onKvEvent(listener: (event: KvEvent) => void): void;
  /** One event sequence that rebuilds the current cache state, for resync. Ids end at the last one given out. */
  snapshot(): readonly KvEvent[];
  /** Why the engine can not serve, or undefined. */
  failure(): ErrorData | undefined;
  readonly kv?: KvFace;
  /** Instead of `kv`: the engine copies its blocks to and from the worker's host tier by itself. */
  readonly connector?: KvConnector;
}
