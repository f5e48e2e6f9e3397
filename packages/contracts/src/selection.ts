import type { RoutingOverrides } from './inference.ts';

/** A request to be placed by us and carried by somebody else (another gateway). */
export interface SelectionQuery {
  /** Names the request in later calls. */
  readonly id: string;
  readonly promptTokenIds: Int32Array;
  readonly cacheSalt: string;
  /** As in `InferenceRequest`. */
  readonly adapter?: string;
  readonly routing: RoutingOverrides;
  /** Count it as load until `ended` (or until nothing was heard of it for some minutes). */
  readonly tracks: boolean;
}

export interface SelectedWorker {
  readonly instanceId: string;
  /** Request-plane address. */
  readonly address: string;
  readonly overlapBlocks: number;
  /** In blocks; comparable within one decision only. */
  readonly cost: number;
}

export interface Selection {
  readonly id: string;
  readonly promptTokens: number;
  /** Complete blocks of the prompt. */
  readonly blocks: number;
  readonly blockSize: number;
  /** Takes the request, or its decode leg. */
  readonly worker: SelectedWorker;
  /** Computes the prompt, when another worker shall. */
  readonly prefill: SelectedWorker | undefined;
}

/** Leading blocks of a prompt that a worker holds. */
export interface WorkerOverlap {
  readonly instanceId: string;
  readonly overlapBlocks: number;
  readonly hostBlocks: number;
  readonly diskBlocks: number;
  readonly objectBlocks: number;
  /** What is known of its cache may be out of date. */
  readonly degraded: boolean;
}

/** Placement without execution. Unknown ids give false. */
export interface Selector {
  /** Throws `SERVING_NO_WORKER`, `SERVING_NO_ADAPTER_WORKER`, `SERVING_WORKER_UNKNOWN`, `SERVING_NO_PREFILL_WORKER`. */
  select(query: SelectionQuery): Selection;
  /** The first token is there: the prompt no longer waits. */
  prefilled(id: string): boolean;
  /** The output has `outputTokens` tokens. */
  grown(id: string, outputTokens: number): boolean;
  /** `cachedTokens`: what the engine did not compute, for the record of the decision. */
  ended(id: string, cachedTokens?: number): boolean;
  overlaps(promptTokenIds: Int32Array, cacheSalt: string, adapter?: string): readonly WorkerOverlap[];
  /** By sequence hashes, interleaved words. */
  overlapsOf(sequenceHashes: Int32Array): readonly WorkerOverlap[];
}
