import type { ConfigReport } from '@armature/contracts';
import type { ServeConfig } from './engine-yaml.ts';

export interface AdapterConfig {
  readonly name: string;
  readonly id: number;
  readonly path: string;
}

/** What `engine.config` says, with its defaults. */
export interface TrtllmConfig {
  readonly baseUrl: string;
  readonly serve?: ServeConfig;
  readonly version: 'auto' | '1.0' | '1.1' | '1.2';
  readonly model: string;
  readonly apiKey: string;
  readonly adapters: readonly AdapterConfig[];
  readonly sendPriority: boolean;
  readonly sendCacheSalt: boolean;
  readonly maxModelTokens: number;
  readonly maxSequences: number;
  readonly maxInFlight: number;
  readonly totalBlocks: number;
  readonly kvEvents: boolean;
  readonly eventIntervalMs: number;
  readonly eventTimeoutMs: number;
  readonly eventsBeforeEndMs: number;
  readonly probeIntervalMs: number;
  readonly probeTimeoutMs: number;
  readonly canaryIntervalMs: number;
  readonly canaryTimeoutMs: number;
  readonly failuresToLeave: number;
  readonly startTimeoutMs: number;
  readonly idleTimeoutMs: number;
}

const text = (description: string, more: object = {}): object => ({ type: 'string', description, default: '', ...more });
const flag = (description: string, value: boolean): object => ({ type: 'boolean', description, default: value });
const count = (description: string, value: number, minimum = 0): object => ({ type: 'integer', minimum, description, default: value });

const serveSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['model'],
  description: 'Start and supervise a trtllm-serve of our own, instead of attaching to baseUrl.',
  properties: {
    command: { type: 'array', items: { type: 'string' }, minItems: 1, description: 'Program and leading arguments.', default: ['trtllm-serve'] },
    model: { type: 'string', minLength: 1, description: 'Checkpoint folder, engine folder or name, as trtllm-serve takes it.' },
    host: { type: 'string', description: 'Address it listens on.', default: '127.0.0.1' },
    port: count('Port; 0 = a free one.', 0),
    backend: { enum: ['pytorch', 'tensorrt', '_autodeploy'], description: 'Execution backend.', default: 'pytorch' },
    role: { enum: ['auto', 'both', 'context', 'generation'], description: 'What its options are made for; auto: by the role of the worker (prefill = context, decode = generation).', default: 'auto' },
    tensorParallel: count('tensor_parallel_size.', 1, 1),
    pipelineParallel: count('pipeline_parallel_size.', 1, 1),
    moeExpertParallel: count('moe_expert_parallel_size; 0 = not set.', 0),
    moeTensorParallel: count('moe_tensor_parallel_size; 0 = not set.', 0),
    attentionDp: flag('enable_attention_dp.', false),
    maxBatchSize: count('max_batch_size; 0 = not set.', 0),
    maxNumTokens: count('max_num_tokens; 0 = not set.', 0),
    maxSeqLen: count('max_seq_len; 0 = not set.', 0),
    chunkedPrefill: flag('enable_chunked_prefill.', true),
    kvCacheDtype: text('kv_cache_config.dtype; empty = not set.'),
    freeGpuMemoryFraction: { type: 'number', minimum: 0, maximum: 1, description: 'kv_cache_config.free_gpu_memory_fraction.', default: 0.85 },
    blockReuse: flag('kv_cache_config.enable_block_reuse: prefix caching. KV events need it.', true),
    partialReuse: flag('kv_cache_config.enable_partial_reuse.', true),
    hostCacheBytes: count('kv_cache_config.host_cache_size: host memory that evicted blocks move to, in bytes.', 0),
    eventBufferMaxSize: count('kv_cache_config.event_buffer_max_size: KV events kept until they are fetched; the oldest are dropped beyond. 0 switches events off.', 65_536),
    transceiver: { enum: ['DEFAULT', 'UCX', 'NIXL', 'MOONCAKE', 'MPI'], description: 'cache_transceiver_config.backend, of context and generation servers.', default: 'DEFAULT' },
    transceiverMaxTokens: count('cache_transceiver_config.max_tokens_in_buffer: at least the longest prompt; 0 = not set.', 0),
    kvTransferTimeoutMs: count('cache_transceiver_config.kv_transfer_timeout_ms: after so long a context server frees KV that nobody fetched; 0 = not set (1.0 does not know it).', 60_000),
    options: { type: 'object', description: 'More keys of the options file, verbatim; nested maps are merged, and win.', default: {} },
    args: { type: 'array', items: { type: 'string' }, description: 'More command-line arguments.', default: [] },
    env: { type: 'object', additionalProperties: { type: 'string' }, description: 'More environment variables.', default: {} },
    restarts: count('Starts again in a row after it ended by itself; a server that was ready for a minute begins anew.', 5),
    restartDelayMs: count('Milliseconds before the first of them; doubled each time.', 1000, 1),
    stopTimeoutMs: count('Milliseconds between SIGTERM and SIGKILL.', 20_000, 1),
  },
} as const;

export const trtllmSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    baseUrl: text('Address of a running trtllm-serve, without a slash at the end: http://127.0.0.1:8000. Or use serve.', { pattern: '^$|^https?://.*[^/]$' }),
    serve: serveSchema,
    version: { enum: ['auto', '1.0', '1.1', '1.2'], description: 'Wire format to speak; auto: by /version, newer ones as the newest known.', default: 'auto' },
    model: text('Served model name; empty = the first of /v1/models.'),
    apiKey: text('Bearer token, if a proxy before the server asks for one.', { 'x-secret': true }),
    adapters: {
      type: 'array',
      description: 'LoRA adapters the server was started for; each becomes a model name of its own.',
      default: [],
      items: {
        type: 'object',
        additionalProperties: false,
        required: ['name', 'id', 'path'],
        properties: {
          name: { type: 'string', minLength: 1, description: 'Name for clients.' },
          id: { type: 'integer', minimum: 1, description: 'lora_int_id, unique per adapter.' },
          path: { type: 'string', minLength: 1, description: 'lora_path, as the server sees it.' },
        },
      },
    },
    sendPriority: flag('Pass the priority of requests on, as 0 to 1. Only newer servers take the field, and heed it with scheduler_config.waiting_queue_policy priority.', false),
    sendCacheSalt: flag('Send cache_salt with completions, for a server that takes it there. Off: requests with a salt are refused, as tenants would share a cache.', false),
    maxModelTokens: count('Longest prompt plus output, the max_seq_len of the server; 0 = as serve.maxSeqLen or the model says.', 0),
    maxSequences: count('Sequences the server runs at once (max_batch_size): what the router is told.', 256, 1),
    maxInFlight: count('Requests at the server at once, its queue included; more are refused with ENGINE_OVERLOADED.', 2048, 1),
    totalBlocks: count('KV blocks of the server; 0 = as /metrics says (needs enable_iter_perf_stats), else enough for maxSequences whole contexts.', 0),
    kvEvents: flag('Fetch /kv_cache_events. Nobody else may fetch them: each event is given out once.', true),
    eventIntervalMs: count('Milliseconds between the end of one fetch and the next.', 20, 1),
    eventTimeoutMs: count('Milliseconds until a fetch counts as failed; its events are lost then, so keep it long.', 30_000, 1),
    eventsBeforeEndMs: count('How long the end of a request waits for its KV events, in milliseconds; 0 = not at all.', 25),
    probeIntervalMs: count('Milliseconds between reads of /health and /metrics.', 1000, 10),
    probeTimeoutMs: count('Milliseconds until such a read counts as failed; /metrics waits 2 s for an iteration by itself.', 5000, 1),
    canaryIntervalMs: count('Milliseconds without a token after which one is asked for, to see that the engine is not wedged; 0 = never.', 10_000),
    canaryTimeoutMs: count('Milliseconds until that question counts as failed.', 30_000, 1),
    failuresToLeave: count('Failures in a row after which the worker has failed.', 3, 1),
    startTimeoutMs: count('How long to wait for a healthy server at start, in milliseconds; loading a large model takes minutes.', 1_800_000),
    idleTimeoutMs: count('Milliseconds without a whole event until a request counts as lost, its time in the queue of the server included; 0 = no limit.', 120_000),
  },
} as const;

/** What the schema cannot say. */
export function checkConfig(config: TrtllmConfig, report: ConfigReport): void {
  const { serve } = config;
  if ((config.baseUrl === '') === (serve === undefined)) {
    report({ path: ['baseUrl'], message: serve === undefined ? 'neither baseUrl nor serve is set' : 'baseUrl and serve are both set', hint: 'give baseUrl to attach to a running trtllm-serve, or serve to start one' });
  }
  config.adapters.forEach(({ name, id }, i) => {
    if (config.adapters.slice(0, i).some((other) => other.name === name || other.id === id)) report({ path: ['adapters', i], message: `adapter "${name}" (${id}) shares its name or id with another`, hint: 'both must be unique' });
  });
  if (serve === undefined || !config.kvEvents) return;
  if (serve.eventBufferMaxSize === 0) report({ path: ['serve', 'eventBufferMaxSize'], message: 'KV events are wanted (kvEvents) and switched off here', hint: 'set it to 65536, or kvEvents: false' });
  if (!serve.blockReuse) report({ path: ['serve', 'blockReuse'], message: 'KV events are wanted (kvEvents), and there are none without block reuse', hint: 'set it to true, or kvEvents: false' });
}

/** `serve` with nothing set but what must be: its model is empty. */
export function serveSchemaDefaults(): ServeConfig {
  const found = Object.entries(serveSchema.properties as unknown as Record<string, { readonly default?: unknown }>).map(([name, { default: value }]) => [name, value ?? '']);
  return Object.fromEntries(found) as unknown as ServeConfig;
}
