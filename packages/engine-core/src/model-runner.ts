import type { ErrorData, KvArena, SamplingParams } from '@armature/contracts';

/** One forward pass over a ragged batch. Columns belong to the engine core; they are valid until `done`. */
export interface StepBatch {
  sequenceCount: number;
  /** Per sequence: its sampling state. */
  readonly slots: Int32Array;
  /** Per sequence: tokens computed in this pass. */
  readonly queryLengths: Int32Array;
  /** Per sequence: tokens whose KV is in the blocks already. */
  readonly contextLengths: Int32Array;
  /** Tokens of all sequences, one after the other. */
  readonly tokenIds: Int32Array;
  /** Row per sequence, `maxBlocksPerSequence` columns: block numbers. */
  readonly blockTable: Int32Array;
  readonly maxBlocksPerSequence: number;
  /** Per sequence: 1 if a token is sampled after its last query token. */
  readonly samples: Uint8Array;
  /** Per sequence: draws are f(seed, choice, output index). */
  readonly outputIndexes: Int32Array;
  /**
   * Passes that the runner may do at once, each sequence one token further in each; more than 1 only when all of them decode, and none can end or needs
   * another block before the last one. Absent = 1.
   */
  readonly maxPasses?: number;
}

/** Rows follow the batch; only rows with `samples` 1 have meaning. Owned by the runner, valid until the next step. */
export interface StepResult {
  readonly tokenIds: Int32Array;
  readonly logprobs: Float32Array;
  /** Row-major `[sequence][maxTopLogprobs]`; id -1 = none. */
  readonly topTokenIds: Int32Array;
  readonly topLogprobs: Float32Array;
  readonly maxTopLogprobs: number;
  /** Passes done, absent = 1. With more, `tokenIds` has them one after the other: `[pass][sequence]`; logprobs are not asked for. */
  readonly passes?: number;
  /** Rows that could not be computed, by row: their requests fail with the error, their blocks leave the prefix cache. */
  readonly rowErrors?: ReadonlyMap<number, ErrorData> | undefined;
}

/** Sampling state of one sequence, opened before the first step that samples it. */
export interface SamplingSetup extends SamplingParams {
  readonly slot: number;
  /** Which of the request's choices this is: part of the seed. */
  readonly choice: number;
  readonly promptTokenIds: Int32Array;
  /** Output generated before (migration, disaggregation, preemption). */
  readonly outputTokenIds: Int32Array;
  readonly minTokens: number;
  /** Tokens that cannot be drawn before `minTokens` outputs: end of sequence and stop tokens. */
  readonly bannedBeforeMinTokens: Int32Array;
  /** One of the runner's adapters. Absent: the base model. */
  readonly adapter?: string;
}

export interface ModelRunnerInfo {
  readonly modelFingerprint: string;
  readonly vocabSize: number;
  readonly maxModelTokens: number;
  readonly eosTokenIds: readonly number[];
  readonly blockSize: number;
  readonly totalBlocks: number;
  /** LoRA adapters it has. Absent: none. */
  readonly adapters?: readonly string[];
}

/** The model side of an engine: executes passes, owns the KV arena. */
export interface ModelRunner {
  /** Valid after `start`. */
  readonly info: ModelRunnerInfo;
  start(): Promise<void>;
  /** Ordered before the steps that follow. */
  openSequence(setup: SamplingSetup): void;
  closeSequence(slot: number): void;
  /** Calls `done` exactly once, never before return; no second step is posted before. */
  step(batch: StepBatch, done: (result: StepResult | undefined, error: ErrorData | undefined) => void): void;
  arena(): KvArena;
  /** The batch is about to change: of several passes, those after the one that is running now are not to be done. Absent: it does one at a time. */
  interrupt?(): void;
  close(): Promise<void>;
}
