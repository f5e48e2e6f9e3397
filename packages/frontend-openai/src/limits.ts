/** Bounds of the API; the OpenAPI document and the validators both read them here. */
export const LIMITS = {
  choices: 128,
  /** Prompts of one completions request. */
  prompts: 128,
  stopStrings: 16,
  stopLength: 1024,
  stopTokenIds: 128,
  topLogprobs: 20,
  biases: 1024,
  /** Range of `logit_bias` values. */
  bias: 100,
  penalty: 2,
  temperature: 2,
  messages: 65_536,
  modelName: 512,
  cacheSalt: 512,
  user: 4096,
  workerName: 256,
  /** Magnitude of `priority`. */
  priority: 1_000_000_000,
  /** Of `nvext.router_config_override`. */
  routerNumber: 1_000_000,
  dataParallelRank: 65_535,
  session: 256,
  /** Of `nvext.routing_constraints`. */
  taints: 32,
  taintLength: 128,
  /** Magnitude of the weight of a preferred taint. */
  taintWeight: 1_000_000,
  /** Of the JSON text of a schema in `response_format`. */
  schemaLength: 65_536,
  topK: 0x7fffffff,
  repetitionPenalty: 100,
  /** What OpenAI's /v1/completions generates when `max_tokens` is absent. */
  completionTokens: 16,
} as const;
