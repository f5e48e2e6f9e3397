import type { RoutingHop } from '@armature/contracts';
import type { KvFetchRecord } from '@armature/kvbm';
import type { QueueRecord } from '../admission/passage.ts';
import type { Decision } from './decisions.ts';

/** One candidate of one decision: the facts its cost was made of, what each scorer added, and the terms behind it. */
export interface CandidateRecord {
  readonly worker: string;
  readonly cost: number;
  readonly overlapBlocks: number;
  readonly hostBlocks: number;
  readonly diskBlocks: number;
  readonly objectBlocks: number;
  readonly decodeBlocks: number;
  readonly excessShare: number;
  readonly activeRequests: number;
  readonly activePrefillTokens: number;
  readonly activeBlocks: number;
  readonly totalBlocks: number;
  readonly costPerHour: number;
  /** What was known of its cache may have been out of date. */
  readonly degraded: boolean;
  readonly taints: readonly string[];
  readonly parts: Readonly<Record<string, number>>;
  readonly terms: Readonly<Record<string, number>>;
}

export interface DecisionRecord {
  readonly hop: RoutingHop;
  readonly policy: string;
  /** Milliseconds since the request began. */
  readonly atMs: number;
  readonly chosen: string;
  readonly blocks: number;
  /** Set when the policy (or a piece of it) failed: the least loaded worker was taken, or the piece left out. */
  readonly policyError: string | undefined;
  /** Empty when the ring of facts has gone around since. */
  readonly candidates: readonly CandidateRecord[];
  /** Prompt tokens the engine did not compute; undefined until it has said so. */
  readonly actualCachedTokens: number | undefined;
  /** How many blocks better the best other candidate would have been, in hindsight. */
  readonly regretBlocks: number | undefined;
}

/** How the prompt's KV came to the decode worker. */
export interface TransferRecord {
  readonly from: string;
  readonly to: string;
  /** Blocks the decode worker held already. */
  matchedBlocks: number;
  movedBlocks: number;
  movedBytes: number;
  durationMs: number;
  /** `valid`, or why (part of) the prompt was computed again. */
  outcome: string;
}

/** One step of a request from a worker it lost to the next one. */
export interface MoveRecord {
  /** `request`: it goes on elsewhere, computing its tokens again. `decode`: another decode worker takes over what the prefill worker holds. */
  readonly kind: 'request' | 'decode';
  readonly from: string;
  /** Undefined while there is none. */
  to: string | undefined;
  /** Why the worker was left. */
  readonly code: string;
  /** Set when one choice of several moves by itself. */
  readonly choice: number | undefined;
  /** Output tokens delivered before, of that choice or of all. */
  readonly atToken: number;
  /** Clock of the last token before; of the request's begin when there was none. */
  readonly sinceMs: number;
  /** From then to the first token after. */
  addedMs: number | undefined;
}

/** Everything known about one request, for the admin listener and `armature chat --explain`. */
export interface RequestRecord {
  readonly requestId: string;
  readonly model: string;
  /** LoRA adapter it ran with. */
  readonly adapter?: string;
  readonly startedAtMs: number;
  readonly traceparent: string;
  readonly promptTokens: number;
  readonly promptBlocks: number;
  cachedTokens: number;
  outputTokens: number;
  ttftMs: number | undefined;
  /** Mean inter-token latency over all steps after the first. */
  itlMs: number | undefined;
  durationMs: number | undefined;
  /** `running`, `finished`, `cancelled` or an error code. */
  outcome: string;
  disaggregation: { readonly policy: string; readonly remote: boolean; readonly reason: string } | undefined;
  readonly decisions: Decision[];
  transfer: TransferRecord | undefined;
  /** What the worker that computed the prompt brought up from lower tiers and peers before. */
  kv?: KvFetchRecord;
  /** Its wait for a worker, when it had to. */
  queue?: QueueRecord;
  migrations: number;
  readonly moves: MoveRecord[];
}

/** The last `capacity` requests by id, oldest forgotten first. A repeated id shows its newest request. */
export class RequestRecords {
  readonly #byId = new Map<string, RequestRecord>();
  readonly #capacity: number;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  get capacity(): number {
    return this.#capacity;
  }

  add(record: RequestRecord): void {
    if (this.#capacity === 0) return;
    this.#byId.delete(record.requestId);
    this.#byId.set(record.requestId, record);
    if (this.#byId.size > this.#capacity) {
      const oldest = this.#byId.keys().next();
      if (!oldest.done) this.#byId.delete(oldest.value);
    }
  }

  get(requestId: string): RequestRecord | undefined {
    return this.#byId.get(requestId);
  }

  /** Newest first. */
  list(limit: number): RequestRecord[] {
    return [...this.#byId.values()].reverse().slice(0, limit);
  }
}
