import type { InferenceHandle, InferenceRequest, TokenSink } from './inference.ts';
import type { Preprocessor } from './preprocessor.ts';

/** A model that this process can answer for. */
export interface ModelHandle {
  readonly name: string;
  /** Unix seconds, for `/v1/models`. */
  readonly createdAtSeconds: number;
  readonly preprocessor: Preprocessor;
  /** Longest prompt plus output, in tokens: the smallest limit of the model and its workers. */
  readonly maxModelTokens: number;
  /** At least one worker can take requests. */
  isReady(): boolean;
  /** Routes and runs a request. Never throws: refusal arrives as `end({type:'failed'})`. */
  execute(request: InferenceRequest, sink: TokenSink): InferenceHandle;
}

/** What a frontend serves; models come and go at run time. */
export interface ModelDirectory {
  list(): readonly ModelHandle[];
  get(name: string): ModelHandle | undefined;
}
