import { LIMITS } from './limits.ts';

type Schema = Readonly<Record<string, unknown>>;

const nullable = (schema: Schema, description?: string): Schema => ({ ...schema, type: [schema['type'], 'null'], ...(description === undefined ? {} : { description }) });
const number = (minimum: number, maximum: number): Schema => ({ type: 'number', minimum, maximum });
const integer = (minimum: number, maximum: number): Schema => ({ type: 'integer', minimum, maximum });
const BOOLEAN: Schema = { type: 'boolean' };
const text = (maxLength: number): Schema => ({ type: 'string', maxLength });
const TOKEN_IDS: Schema = { type: 'array', items: integer(0, 0x7fffffff), minItems: 1 };
const MAX = Number.MAX_SAFE_INTEGER;

const weight = (description: string): Schema => nullable(number(0, LIMITS.routerNumber), description);
const taint: Schema = { type: 'string', minLength: 1, maxLength: LIMITS.taintLength };

const AGENT_HINTS: Schema = {
  priority: nullable(integer(-LIMITS.priority, LIMITS.priority), 'As the field outside.'),
  strict_priority: nullable(integer(0, LIMITS.priority), 'Tier above priority, where requests queue by priority. Default 0. The header x-request-strict-priority wins over it.'),
  osl: nullable(integer(1, MAX), 'Output tokens expected: counted as load of the worker.'),
};

const ROUTER_OVERRIDE: Schema = {
  overlap_score_credit: weight('Weight of cached blocks against load, for this request.'),
  overlap_score_weight: weight('Older name of prefill_load_scale; 0 sets overlap_score_credit to 0 too.'),
  prefill_load_scale: weight('Weight of prefill work in the cost, for this request.'),
  router_temperature: weight('Randomness of the choice of worker, for this request.'),
  shared_cache_multiplier: weight('Credit of blocks that only the shared cache holds, for this request.'),
  assume_kv_reuse: nullable(BOOLEAN, 'Whether blocks shared with running requests of a worker count once.'),
  track_prefill_tokens: nullable(BOOLEAN, 'Whether prompt tokens not computed yet count as load.'),
};

const CONSTRAINTS: Schema = {
  required_taints: nullable({ type: 'array', maxItems: LIMITS.taints, items: taint }, 'A worker must carry all of these labels.'),
  preferred_taints: nullable(
    { type: 'object', maxProperties: LIMITS.taints, propertyNames: taint, additionalProperties: number(-LIMITS.taintWeight, LIMITS.taintWeight) },
    'Label → weight: above 0 attracts, below 0 repels.',
  ),
};

/** Fields that chat and completions share. */
const COMMON: Schema = {
  model: { type: 'string', minLength: 1, maxLength: LIMITS.modelName, description: 'Name of a model of GET /v1/models.' },
  stream: nullable(BOOLEAN, 'Answer as server-sent events, ended by `data: [DONE]`. Default false.'),
  stream_options: nullable({ type: 'object', properties: { include_usage: nullable(BOOLEAN, 'A last chunk with empty choices carries the usage.') } }, 'Only with `stream: true`.'),
  n: nullable(integer(1, LIMITS.choices), 'Number of choices. Default 1.'),
  stop: {
    description: 'Strings that end the output and are not part of it; integers are token ids.',
    anyOf: [
      { type: 'string', minLength: 1, maxLength: LIMITS.stopLength },
      { type: 'array', maxItems: LIMITS.stopStrings, items: { anyOf: [{ type: 'string', minLength: 1, maxLength: LIMITS.stopLength }, integer(0, 0x7fffffff)] } },
      { type: 'null' },
    ],
  },
  stop_token_ids: nullable({ type: 'array', maxItems: LIMITS.stopTokenIds, items: integer(0, 0x7fffffff) }, 'Tokens that end the output; not shown.'),
  max_tokens: nullable(integer(1, MAX), 'Output tokens at most.'),
  max_completion_tokens: nullable(integer(1, MAX), 'Newer name of `max_tokens`; wins over it.'),
  min_tokens: nullable(integer(0, MAX), 'No end of sequence or stop token before this many output tokens. Default 0.'),
  temperature: nullable(number(0, LIMITS.temperature), "0 = greedy. Default: the model's own, else 1."),
  top_p: nullable({ type: 'number', exclusiveMinimum: 0, maximum: 1 }, "Default: the model's own, else 1 (off)."),
  top_k: nullable(integer(-1, LIMITS.topK), "0 or -1 = off. Default: the model's own, else off."),
  min_p: nullable(number(0, 1), 'Default 0 (off).'),
  seed: nullable(integer(-MAX, MAX), 'Same seed, same request, same output. Default: random.'),
  frequency_penalty: nullable(number(-LIMITS.penalty, LIMITS.penalty), 'Default 0.'),
  presence_penalty: nullable(number(-LIMITS.penalty, LIMITS.penalty), 'Default 0.'),
  repetition_penalty: nullable({ type: 'number', exclusiveMinimum: 0, maximum: LIMITS.repetitionPenalty }, 'Default 1 (off).'),
  logit_bias: nullable(
    { type: 'object', maxProperties: LIMITS.biases, propertyNames: { pattern: '^(0|[1-9]\\d{0,9})$' }, additionalProperties: number(-LIMITS.bias, LIMITS.bias) },
    'Token id → added logit.',
  ),
  ignore_eos: nullable(BOOLEAN, "Go on after the model's end-of-sequence tokens. Default false."),
  user: nullable(text(LIMITS.user), 'Accepted and not used.'),
  cache_salt: nullable(text(LIMITS.cacheSalt), 'Requests share cached prompts only with requests of the same salt. The header x-tenant-id wins over it.'),
  priority: nullable(integer(-LIMITS.priority, LIMITS.priority), 'Higher first. Default 0. The header x-request-priority wins over it.'),
  response_format: nullable(
    {
      type: 'object',
      required: ['type'],
      properties: {
        type: { enum: ['text', 'json_object', 'json_schema'] },
        json_schema: nullable({ type: 'object', required: ['name', 'schema'], properties: { name: { type: 'string', pattern: '^[\\w-]{1,64}$' }, schema: { type: 'object' } } }, 'Name and JSON Schema of the answer.'),
      },
    },
    'Guided decoding, where an engine of the model does it (vllm); elsewhere anything but text is refused.',
  ),
  modalities: nullable({ type: 'array', items: { const: 'text' } }, 'Only text.'),
  best_of: nullable(integer(1, LIMITS.choices), 'Only equal to `n`.'),
  nvext: nullable(
    {
      type: 'object',
      properties: {
        greed_sampling: nullable(BOOLEAN, 'As temperature 0.'),
        ignore_eos: nullable(BOOLEAN, 'As the field of the same name outside.'),
        cache_salt: nullable(text(LIMITS.cacheSalt), 'As the field of the same name outside.'),
        agent_hints: nullable({ type: 'object', properties: AGENT_HINTS }, 'Hints to router and scheduler.'),
        router_config_override: nullable({ type: 'object', properties: ROUTER_OVERRIDE }, 'Routing of this request.'),
        routing_constraints: nullable({ type: 'object', properties: CONSTRAINTS }, 'Labels of workers.'),
        dp_rank: nullable(integer(0, LIMITS.dataParallelRank), 'Data-parallel rank of the worker. The header x-dynamo-dp-rank wins over it.'),
        prefill_dp_rank: nullable(integer(0, LIMITS.dataParallelRank), 'The same of the prefill worker. The header x-dynamo-prefill-dp-rank wins over it.'),
        ...Object.fromEntries(
          ['decode_worker_id', 'backend_instance_id', 'prefill_worker_id'].map((key) => [key, { anyOf: [{ ...text(LIMITS.workerName), minLength: 1 }, integer(0, MAX), { type: 'null' }], description: 'Instance id of the worker to use; fails rather than going elsewhere.' }]),
        ),
      },
    },
    "NVIDIA Dynamo's extension object. The headers x-armature-worker and x-armature-prefill-worker win over its worker ids.",
  ),
};

const CONTENT: Schema = {
  anyOf: [
    { type: 'string' },
    {
      type: 'array',
      minItems: 1,
      description: 'Text parts, joined by line ends. Other parts are refused.',
      items: {
        anyOf: [
          { type: 'object', properties: { type: { const: 'text' }, text: { type: 'string' } }, required: ['type', 'text'] },
          { type: 'object', properties: { type: { const: 'refusal' }, refusal: { type: 'string' } }, required: ['type', 'refusal'] },
        ],
      },
    },
    { type: 'null', description: 'For assistant messages with tool_calls, function_call or refusal only.' },
  ],
};

export const CHAT_REQUEST: Schema = {
  type: 'object',
  description: 'Unknown fields are ignored.',
  required: ['model', 'messages'],
  properties: {
    ...COMMON,
    messages: {
      type: 'array',
      minItems: 1,
      maxItems: LIMITS.messages,
      items: {
        type: 'object',
        description: 'Further fields go to the chat template as they are.',
        required: ['role'],
        properties: { role: { enum: ['system', 'developer', 'user', 'assistant', 'tool', 'function'] }, content: CONTENT, name: nullable({ type: 'string' }) },
      },
    },
    logprobs: nullable(BOOLEAN, 'Log-probabilities of the output tokens. Default false.'),
    top_logprobs: nullable(integer(0, LIMITS.topLogprobs), 'Alternatives per token; only with `logprobs: true`.'),
    tools: nullable(
      { type: 'array', items: { type: 'object', required: ['type', 'function'], properties: { type: { const: 'function' }, function: { type: 'object', required: ['name'], properties: { name: { type: 'string' } } } } } },
      'Shown to the model; only with `tool_choice: "none"`.',
    ),
    tool_choice: { enum: ['none', 'auto', null], description: '`auto` only without tools.' },
    function_call: { enum: ['none', null], description: 'Deprecated; only none.' },
    add_generation_prompt: nullable(BOOLEAN, "Ends the prompt with the beginning of an assistant's message. Default: unless continue_final_message."),
    continue_final_message: nullable(BOOLEAN, "The last message is an assistant's and is continued. Default false."),
    chat_template_kwargs: nullable({ type: 'object' }, 'Further variables for the chat template.'),
  },
};

export const COMPLETION_REQUEST: Schema = {
  type: 'object',
  description: 'Unknown fields are ignored.',
  required: ['model', 'prompt'],
  properties: {
    ...COMMON,
    max_tokens: nullable(integer(1, MAX), `Output tokens at most. Default ${LIMITS.completionTokens}.`),
    prompt: {
      anyOf: [
        { type: 'string' },
        { type: 'array', minItems: 1, maxItems: LIMITS.prompts, items: { type: 'string' } },
        TOKEN_IDS,
        { type: 'array', minItems: 1, maxItems: LIMITS.prompts, items: TOKEN_IDS },
      ],
    },
    echo: nullable(BOOLEAN, 'Begin the text with the prompt. Default false; not together with logprobs.'),
    logprobs: nullable(integer(0, LIMITS.topLogprobs), 'Log-probabilities of the output tokens, with this many alternatives.'),
  },
};

const USAGE: Schema = {
  type: 'object',
  required: ['prompt_tokens', 'completion_tokens', 'total_tokens', 'prompt_tokens_details'],
  properties: {
    prompt_tokens: { type: 'integer' },
    completion_tokens: { type: 'integer' },
    total_tokens: { type: 'integer' },
    prompt_tokens_details: { type: 'object', required: ['cached_tokens'], properties: { cached_tokens: { type: 'integer', description: 'Prompt tokens whose KV no worker computed for this request.' } } },
  },
};

const ERROR: Schema = {
  type: 'object',
  required: ['error'],
  properties: {
    error: {
      type: 'object',
      required: ['message', 'type', 'param', 'code'],
      properties: { message: { type: 'string' }, type: { type: 'string' }, param: { type: ['string', 'null'] }, code: { type: 'string' } },
    },
  },
};

function answer(object: string, choice: Schema): Schema {
  return {
    type: 'object',
    required: ['id', 'object', 'created', 'model', 'system_fingerprint', 'choices', 'usage'],
    properties: {
      id: { type: 'string' },
      object: { const: object },
      created: { type: 'integer' },
      model: { type: 'string' },
      system_fingerprint: { type: 'string' },
      choices: {
        type: 'array',
        items: {
          type: 'object',
          required: ['index', 'logprobs', 'finish_reason', ...Object.keys(choice)],
          properties: { index: { type: 'integer' }, ...choice, logprobs: { type: ['object', 'null'] }, finish_reason: { enum: ['stop', 'length', 'content_filter'] } },
        },
      },
      usage: USAGE,
    },
  };
}

const ref = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` });
const json = (schema: Schema): Schema => ({ 'application/json': { schema } });
const failure = (description: string): Schema => ({ description, content: json(ref('Error')) });

function generation(summary: string, request: string, response: string): Schema {
  return {
    post: {
      summary,
      security: [{}, { bearer: [] }],
      requestBody: { required: true, content: json(ref(request)) },
      responses: {
        200: { description: 'The whole answer, or its stream.', content: { ...json(ref(response)), 'text/event-stream': { schema: { type: 'string' } } } },
        400: failure('A field is missing, has a wrong value or is not supported; `param` names it.'),
        401: failure('No valid API key.'),
        404: failure('No such model.'),
        413: failure('The body is over the limit.'),
        415: failure('The body is not application/json.'),
        429: failure('Overload, when so configured; see retry-after.'),
        500: failure('The server failed.'),
        503: failure('No worker, overload or shutdown; see retry-after.'),
        504: failure('The time limit passed.'),
        529: failure('Overload, when so configured; see retry-after.'),
      },
    },
  };
}

const get = (summary: string, schema: Schema, responses: Schema = {}): Schema => ({ get: { summary, responses: { 200: { description: 'OK', content: json(schema) }, ...responses } } });
const STATUS: Schema = { type: 'object', required: ['status'], properties: { status: { type: 'string' } } };

const DOCUMENT = {
  openapi: '3.1.0',
  info: { title: 'Armature', version: '1', description: 'OpenAI-compatible API. Absent and null fields are the same.' },
  paths: {
    '/v1/chat/completions': generation('Answer a conversation.', 'ChatRequest', 'ChatResponse'),
    '/v1/completions': generation('Continue a text.', 'CompletionRequest', 'CompletionResponse'),
    '/v1/models': get('The models served.', { type: 'object', required: ['object', 'data'], properties: { object: { const: 'list' }, data: { type: 'array', items: ref('Model') } } }),
    '/v1/models/{id}': {
      ...get('One model.', ref('Model'), { 404: failure('No such model.') }),
      parameters: [{ name: 'id', in: 'path', required: true, schema: { type: 'string' } }],
    },
    '/health': get('State of the server and its models.', STATUS, { 503: failure('A component has failed.') }),
    '/live': get('The process runs.', STATUS),
    '/ready': get('Some model can answer.', STATUS, { 503: failure('No model can answer yet, or the server closes.') }),
    '/openapi.json': get('This document.', { type: 'object' }),
  },
  components: {
    securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } },
    schemas: {
      ChatRequest: CHAT_REQUEST,
      CompletionRequest: COMPLETION_REQUEST,
      ChatResponse: answer('chat.completion', {
        message: { type: 'object', required: ['role', 'content', 'refusal'], properties: { role: { const: 'assistant' }, content: { type: 'string' }, refusal: { type: 'null' } } },
      }),
      CompletionResponse: answer('text_completion', { text: { type: 'string' } }),
      Model: {
        type: 'object',
        required: ['id', 'object', 'created', 'owned_by', 'root', 'parent', 'max_model_len'],
        properties: { id: { type: 'string' }, object: { const: 'model' }, created: { type: 'integer' }, owned_by: { type: 'string' }, root: { type: 'string' }, parent: { type: ['string', 'null'] }, max_model_len: { type: 'integer' } },
      },
      Error: ERROR,
    },
  },
};

let rendered: string | undefined;

/** The OpenAPI 3.1 document, as JSON. */
export function openApiDocument(): string {
  rendered ??= JSON.stringify(DOCUMENT);
  return rendered;
}
