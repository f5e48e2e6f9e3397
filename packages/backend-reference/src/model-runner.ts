// Stand-in until @armature/engine-core has src/model-runner.ts.
import type { KvArena } from '@armature/contracts';

export interface StepBatch {
  sequenceCount: number;
  slots: Int32Array;
  queryLengths: Int32Array;
  contextLengths: Int32Array;
  tokenIds: Int32Array;
  blockTable: Int32Array;
  maxBlocksPerSequence: number;
  samples: Uint8Array;
  outputIndexes: Int32Array;
}
export interface StepResult {
  tokenIds: Int32Array;
  logprobs: Float32Array;
  topTokenIds: Int32Array;
  topLogprobs: Float32Array;
  maxTopLogprobs: number;
}
export interface SamplingSetup {
  slot: number;
  temperature: number;
  topP: number;
  topK: number;
  minP: number;
  seedLo: number;
  seedHi: number;
  frequencyPenalty: number;
  presencePenalty: number;
  repetitionPenalty: number;
  logitBias: ReadonlyMap<number, number> | undefined;
  topLogprobs: number;
  promptTokenIds: Int32Array;
  outputTokenIds: Int32Array;
  bannedUntilMinTokens: { minTokens: number; tokenIds: Int32Array } | undefined;
}
export interface ModelRunner {
  readonly info: {
    modelName: string;
    fingerprint: string;
    vocabSize: number;
    maxModelTokens: number;
    eosTokenIds: readonly number[];
    blockSize: number;
    totalBlocks: number;
    bytesPerBlock: number;
  };
  start(): Promise<void>;
  openSequence(setup: SamplingSetup): void;
  closeSequence(slot: number): void;
  step(batch: StepBatch, done: (result: StepResult | undefined, error: Error | undefined) => void): void;
  arena(): KvArena;
  copyBlock?(from: number, to: number): void;
  close(): Promise<void>;
}
