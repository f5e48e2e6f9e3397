import { ArmatureError } from './errors.ts';
import type { PluginContext } from './context.ts';
import type { InferenceHandle, InferenceRequest, ResponseFormat, TokenSink } from './inference.ts';
import type { Preprocessor } from './preprocessor.ts';
import type { Selector } from './selection.ts';

/** A model that this process can answer for. */
export interface ModelHandle {
  readonly name: string;
  /** Of a LoRA adapter: the model it belongs to. Absent: a model of its own. */
  readonly parent?: string;
  /** Unix seconds, for `/v1/models`. */
  readonly createdAtSeconds: number;
  readonly preprocessor: Preprocessor;
  /** Longest prompt plus output, in tokens: the smallest limit of the model and its workers. */
  readonly maxModelTokens: number;
  /** At least one worker can take requests; of an adapter: one that has it. */
  isReady(): boolean;
  /** Formats that a ready worker can guide decoding to. Undefined: not known, for no worker is ready. */
  responseFormats?(): readonly ResponseFormat['type'][] | undefined;
  /** Routes and runs a request. Never throws: refusal arrives as `end({type:'failed'})`. */
  execute(request: InferenceRequest, sink: TokenSink): InferenceHandle;
  /** Placement alone, for gateways that carry requests themselves. */
  readonly selector?: Selector;
}

/** What a frontend serves; models come and go at run time. LoRA adapters are models of their own, with a `parent`. */
export interface ModelDirectory {
  /** Each model, followed by its adapters. */
  list(): readonly ModelHandle[];
  get(name: string): ModelHandle | undefined;
}

/** Facts of a `model` scope: what preprocessors and engines need to find their files. */
export interface ModelFacts {
  readonly name: string;
  /** As written in the config: package or folder. */
  readonly source: string;
  /** Absolute folder of the model's files. */
  readonly folder: string;
  /** Tokens per KV block. */
  readonly blockSize: number;
}

/** The enclosing model of a plug-in. Throws `PLUGIN_SCOPE_MISSING` outside a model scope. */
export function modelFacts(context: Pick<PluginContext, 'scopes' | 'path'>): ModelFacts {
  for (const scope of context.scopes) {
    if (scope.kind === 'model') return scope.facts as unknown as ModelFacts;
  }
  throw new ArmatureError('PLUGIN_SCOPE_MISSING', `${context.path} is not inside a model`, { hint: 'name this plug-in under models[] in the configuration' });
}
