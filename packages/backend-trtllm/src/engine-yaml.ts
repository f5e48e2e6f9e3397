/** `serve` of the configuration: a trtllm-serve of our own. */
export interface ServeConfig {
  readonly command: readonly string[];
  readonly model: string;
  readonly host: string;
  readonly port: number;
  readonly backend: string;
  readonly role: 'auto' | ServerRole;
  readonly tensorParallel: number;
  readonly pipelineParallel: number;
  readonly moeExpertParallel: number;
  readonly moeTensorParallel: number;
  readonly attentionDp: boolean;
  readonly maxBatchSize: number;
  readonly maxNumTokens: number;
  readonly maxSeqLen: number;
  readonly chunkedPrefill: boolean;
  readonly kvCacheDtype: string;
  readonly freeGpuMemoryFraction: number;
  readonly blockReuse: boolean;
  readonly partialReuse: boolean;
  readonly hostCacheBytes: number;
  readonly eventBufferMaxSize: number;
  readonly transceiver: string;
  readonly transceiverMaxTokens: number;
  readonly kvTransferTimeoutMs: number;
  readonly options: Readonly<Record<string, unknown>>;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly restarts: number;
  readonly restartDelayMs: number;
  readonly stopTimeoutMs: number;
}

/** `both`: an aggregated server, without a cache transceiver. */
export type ServerRole = 'both' | 'context' | 'generation';

/** Role of the server from that of its worker. */
export function serverRole(serve: ServeConfig, workerRole: unknown): ServerRole {
  if (serve.role !== 'auto') return serve.role;
  return workerRole === 'prefill' ? 'context' : workerRole === 'decode' ? 'generation' : 'both';
}

/** The options of a server as TensorRT-LLM's LLM API names them (`--extra_llm_api_options`). Keys of `LlmArgs`, which refuses unknown ones. */
export function engineOptions(serve: ServeConfig, role: ServerRole, blockSize: number): Record<string, unknown> {
  const options: Record<string, unknown> = {
    tensor_parallel_size: serve.tensorParallel,
    pipeline_parallel_size: serve.pipelineParallel,
    ...positive('moe_expert_parallel_size', serve.moeExpertParallel),
    ...positive('moe_tensor_parallel_size', serve.moeTensorParallel),
    ...(serve.attentionDp ? { enable_attention_dp: true } : {}),
    ...positive('max_batch_size', serve.maxBatchSize),
    ...positive('max_num_tokens', serve.maxNumTokens),
    ...positive('max_seq_len', serve.maxSeqLen),
    enable_chunked_prefill: serve.chunkedPrefill,
    // /metrics is empty without it.
    ...(serve.backend === 'pytorch' ? { enable_iter_perf_stats: true } : {}),
    // Context servers hand KV over between iterations; TensorRT-LLM's own examples switch the overlap off there.
    ...(role === 'context' ? { disable_overlap_scheduler: true } : {}),
    kv_cache_config: {
      enable_block_reuse: serve.blockReuse,
      enable_partial_reuse: serve.partialReuse,
      tokens_per_block: blockSize,
      event_buffer_max_size: serve.eventBufferMaxSize,
      free_gpu_memory_fraction: serve.freeGpuMemoryFraction,
      ...positive('host_cache_size', serve.hostCacheBytes),
      ...(serve.kvCacheDtype === '' ? {} : { dtype: serve.kvCacheDtype }),
    },
    ...(role === 'both'
      ? {}
      : {
          cache_transceiver_config: {
            backend: serve.transceiver,
            ...positive('max_tokens_in_buffer', serve.transceiverMaxTokens),
            ...positive('kv_transfer_timeout_ms', serve.kvTransferTimeoutMs),
          },
        }),
  };
  return merged(options, serve.options);
}

/** The options file. Stable order: golden texts compare it. */
export function engineYaml(serve: ServeConfig, role: ServerRole, blockSize: number): string {
  return `# Written by Armature for a ${role} server; changes are overwritten at its next start.\n${lines(engineOptions(serve, role, blockSize), '').join('\n')}\n`;
}

/** Arguments after `serve.command`. */
export function serveArguments(serve: ServeConfig, port: number, optionsFile: string): string[] {
  return [serve.model, '--host', serve.host, '--port', String(port), '--backend', serve.backend, '--extra_llm_api_options', optionsFile, ...serve.args];
}

function positive(key: string, value: number): Record<string, number> {
  return value > 0 ? { [key]: value } : {};
}

function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function merged(base: Readonly<Record<string, unknown>>, over: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const out: Record<string, unknown> = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const old = out[key];
    out[key] = isMap(old) && isMap(value) ? merged(old, value) : value;
  }
  return out;
}

/** Block style for maps, JSON (which is YAML) for scalars, lists and odd keys. */
function lines(map: Readonly<Record<string, unknown>>, indent: string): string[] {
  return Object.entries(map).flatMap(([key, value]) => {
    const name = indent + (/^[A-Za-z_]\w*$/.test(key) ? key : JSON.stringify(key));
    return isMap(value) && Object.keys(value).length > 0 ? [`${name}:`, ...lines(value, `${indent}  `)] : [`${name}: ${JSON.stringify(value)}`];
  });
}
