import type { ErrorData } from './errors.ts';
import type { TaintPreference } from './router-policy.ts';

/** How tokens are chosen. Values are already validated; the neutral value of each is its default. */
export interface SamplingParams {
  /** 0 = greedy. */
  readonly temperature: number;
  /** (0, 1]; 1 = off. */
  readonly topP: number;
  /** 0 = off. */
  readonly topK: number;
  /** [0, 1]; 0 = off. */
  readonly minP: number;
  /** Draws are `f(seed, choice, output index)`: the same on any worker. Two u32 words. */
  readonly seedLo: number;
  readonly seedHi: number;
  /** [-2, 2]; 0 = off. */
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  /** > 0; 1 = off. */
  readonly repetitionPenalty: number;
  /** Pairs token id → added logit, as two columns of equal length. */
  readonly biasTokenIds: Int32Array;
  readonly biasValues: Float32Array;
  /** -1 = no logprobs; 0 = of the chosen token; 1..20 = and that many alternatives. */
  readonly topLogprobs: number;
}

/** When generation ends. */
export interface StopParams {
  /** Output tokens at most, >= 1. */
  readonly maxTokens: number;
  readonly minTokens: number;
  /** Ends with finish `stop`; the token itself is delivered, flagged. */
  readonly stopTokenIds: Int32Array;
  /** Do not stop at the model's end-of-sequence tokens. */
  readonly ignoreEos: boolean;
}

/** Per token: 0 goes on, else the choice ends with this token. */
export const FinishCode = { None: 0, Stop: 1, Length: 2, ContentFilter: 3 } as const;
export type FinishCode = (typeof FinishCode)[keyof typeof FinishCode];

/**
 * Tokens of one request from one engine step, as columns of `count` rows. Borrowed: valid until the callee returns.
 * Rows of one choice are in order.
 */
export interface TokenBatch {
  readonly count: number;
  readonly tokenIds: Int32Array;
  /** Choice number of each row; undefined when the request has one choice. */
  readonly choices: Uint8Array | undefined;
  /** FinishCode of each row. */
  readonly finish: Uint8Array;
  /** Log-probability of each token (natural log of softmax of the raw logits); undefined unless asked for. */
  readonly logprobs: Float32Array | undefined;
  /** Alternatives, row-major `[count][topCount]`, best first; token id -1 = none. */
  readonly topCount: number;
  readonly topTokenIds: Int32Array | undefined;
  readonly topLogprobs: Float32Array | undefined;
}

/** Tokens as the engine accounts for them. */
export interface Usage {
  readonly promptTokens: number;
  /** Prompt tokens whose KV no worker computed for this request. */
  readonly cachedTokens: number;
  /** All choices together. */
  readonly outputTokens: number;
}

/** The one terminal item of a request. */
export type InferenceEnd =
  | { readonly type: 'finished'; readonly usage: Usage }
  | { readonly type: 'failed'; readonly error: ErrorData }
  | { readonly type: 'cancelled' };

/** Receives a request's output: any number of `tokens`, then exactly one `end`. Synchronous; must not throw. */
export interface TokenSink {
  tokens(batch: TokenBatch): void;
  end(end: InferenceEnd): void;
}

/** Per-request wishes for routing, from `nvext` fields and headers (a header beats the body). Absent = the configuration of the model holds. */
export interface RoutingOverrides {
  /** Weight of cached blocks against load, finite, >= 0. */
  readonly overlapCredit?: number;
  /** Randomness of the choice, finite, >= 0; 0 = always the cheapest. */
  readonly temperature?: number;
  /** Weight of prefill work in the cost, finite, >= 0. */
  readonly prefillLoadScale?: number;
  /** Credit of a block that only the shared cache holds, finite, >= 0. */
  readonly sharedCacheMultiplier?: number;
  /** Whether blocks that running requests of a worker share with this one count once. */
  readonly assumeKvReuse?: boolean;
  /** Whether prompt tokens not computed yet count as load. */
  readonly trackPrefillTokens?: boolean;
  /** Output tokens the client expects, >= 1. */
  readonly expectedOutputTokens?: number;
  /** Instance id; fails rather than going elsewhere. */
  readonly worker?: string;
  readonly prefillWorker?: string;
  /** Data-parallel rank of the worker, >= 0; fails rather than going to another rank. */
  readonly dpRank?: number;
  readonly prefillDpRank?: number;
  /** Workers must carry all of these. */
  readonly requiredTaints?: readonly string[];
  /** Taints that make a worker more (weight > 0) or less (< 0) welcome. */
  readonly preferredTaints?: readonly TaintPreference[];
}

/** What the whole output must be; the engine's guided decoding sees to it. */
export type ResponseFormat =
  | { readonly type: 'json_object' }
  /** `schema`: JSON text of a JSON Schema. */
  | { readonly type: 'json_schema'; readonly name: string; readonly schema: string };

/** A request as it leaves the frontend: token ids in, token ids out. */
export interface InferenceRequest {
  readonly id: string;
  readonly promptTokenIds: Int32Array;
  readonly sampling: SamplingParams;
  readonly stop: StopParams;
  /** Number of choices, >= 1. */
  readonly choices: number;
  /** Whole budget of the request. */
  readonly deadlineMs: number;
  /** Separates tenants: part of every block hash. '' = shared. */
  readonly cacheSalt: string;
  /** LoRA adapter to run with: only workers that have it take the request. Part of every block hash. Absent: the base model. */
  readonly adapter?: string;
  /** Only workers whose engine can guide decoding to it take the request. Absent: free text. */
  readonly responseFormat?: ResponseFormat;
  /** Higher first; 0 = normal. */
  readonly priority: number;
  /** Tier above `priority`, >= 0: where requests queue by priority, a higher tier always goes first. Absent = 0. */
  readonly strictPriority?: number;
  /** Conversation the request belongs to, as the client names it; with `cacheSalt` it tells sessions apart. Absent = none. */
  readonly session?: string;
  readonly routing: RoutingOverrides;
  readonly traceparent: string;
}

export interface InferenceHandle {
  /** Idempotent; the sink still gets its one `end`. */
  cancel(): void;
  /**
   * The caller has all the output it wants (a stop string matched): the request ends as `finished`, now. Returns its usage; cached tokens are
   * what the router knew when it chose the worker, if the worker has not said yet. After the end: the final usage.
   */
  stop?(): Usage;
}
