#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { parse } from 'yaml';
import { SimulatedTrtllm } from './simulated-trtllm.ts';
import type { SimulatedTrtllmOptions } from './simulated-trtllm.ts';

/** Keys of `LlmArgs` and its parts, as far as Armature writes them; the real server refuses others too. */
const OPTIONS: Readonly<Record<string, readonly string[] | undefined>> = {
  tensor_parallel_size: undefined,
  pipeline_parallel_size: undefined,
  moe_expert_parallel_size: undefined,
  moe_tensor_parallel_size: undefined,
  enable_attention_dp: undefined,
  max_batch_size: undefined,
  max_num_tokens: undefined,
  max_seq_len: undefined,
  enable_chunked_prefill: undefined,
  enable_iter_perf_stats: undefined,
  disable_overlap_scheduler: undefined,
  kv_cache_config: ['enable_block_reuse', 'enable_partial_reuse', 'tokens_per_block', 'event_buffer_max_size', 'free_gpu_memory_fraction', 'host_cache_size', 'dtype'],
  cache_transceiver_config: ['backend', 'max_tokens_in_buffer', 'kv_transfer_timeout_ms'],
};

interface Read {
  readonly enable_iter_perf_stats?: boolean;
  readonly max_seq_len?: number;
  readonly kv_cache_config?: { readonly enable_block_reuse?: boolean; readonly tokens_per_block?: number; readonly event_buffer_max_size?: number };
  readonly cache_transceiver_config?: object;
}

/** Throws as the validation of the real one does. */
function readOptions(file: string): Read {
  const options = (parse(readFileSync(file, 'utf8')) ?? {}) as Record<string, unknown>;
  const refuse = (name: string): never => {
    throw new Error(`1 validation error for TorchLlmArgs\n${name}\n  Extra inputs are not permitted [type=extra_forbidden]`);
  };
  for (const [name, value] of Object.entries(options)) {
    if (!(name in OPTIONS)) refuse(name);
    for (const key of Object.keys(OPTIONS[name] === undefined ? {} : (value as object))) if (!OPTIONS[name]?.includes(key)) refuse(`${name}.${key}`);
  }
  return options as Read;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      host: { type: 'string', default: '127.0.0.1' },
      port: { type: 'string', default: '8000' },
      backend: { type: 'string', default: 'pytorch' },
      extra_llm_api_options: { type: 'string' },
      // Of the simulation: its options as JSON.
      simulate: { type: 'string', default: '{}' },
    },
  });
  const [model] = positionals;
  if (model === undefined || model === '') throw new Error("Missing argument 'MODEL'.");
  const read: Read = values.extra_llm_api_options === undefined ? {} : readOptions(values.extra_llm_api_options);
  const cache = read.kv_cache_config;
  const options: Partial<SimulatedTrtllmOptions> = {
    host: values.host,
    port: Number(values.port),
    model,
    blockSize: cache?.tokens_per_block ?? 32,
    eventBufferMaxSize: cache?.enable_block_reuse === false ? 0 : (cache?.event_buffer_max_size ?? 0),
    statistics: read.enable_iter_perf_stats === true,
    hasTransceiver: read.cache_transceiver_config !== undefined,
    ...(read.max_seq_len === undefined ? {} : { maxSeqLen: read.max_seq_len }),
    ...(JSON.parse(values.simulate) as Partial<SimulatedTrtllmOptions>),
  };
  const server = await SimulatedTrtllm.start(options);
  process.stdout.write(`INFO:     Uvicorn running on ${server.url} (Press CTRL+C to quit)\n`);
  const stop = (): void => void server.stop().then(() => process.exit(0));
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
}

try {
  await main();
} catch (error) {
  process.stderr.write(`[TRT-LLM] [E] ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
}
