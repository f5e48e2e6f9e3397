import { describe, expect, it } from 'vitest';
import { serveSchemaDefaults } from './config.ts';
import { engineYaml, serveArguments } from './engine-yaml.ts';
import type { ServeConfig } from './engine-yaml.ts';
import { configProblems } from './testing.test.support.ts';

const serve: ServeConfig = { ...serveSchemaDefaults(), model: '/models/llama' };

describe('the options file', () => {
  it('of a context server', () => {
    expect(engineYaml({ ...serve, tensorParallel: 2, transceiver: 'NIXL', transceiverMaxTokens: 8192, kvCacheDtype: 'fp8' }, 'context', 32)).toBe(`# Written by Armature for a context server; changes are overwritten at its next start.
tensor_parallel_size: 2
pipeline_parallel_size: 1
enable_chunked_prefill: true
enable_iter_perf_stats: true
disable_overlap_scheduler: true
kv_cache_config:
  enable_block_reuse: true
  enable_partial_reuse: true
  tokens_per_block: 32
  event_buffer_max_size: 65536
  free_gpu_memory_fraction: 0.85
  dtype: "fp8"
cache_transceiver_config:
  backend: "NIXL"
  max_tokens_in_buffer: 8192
  kv_transfer_timeout_ms: 60000
`);
  });

  it('of a generation server keeps its overlap; one that serves whole requests has no transceiver; options of the operator win', () => {
    const generation = engineYaml({ ...serve, attentionDp: true, moeExpertParallel: 4 }, 'generation', 64);
    expect(generation).toContain('enable_attention_dp: true');
    expect(generation).toContain('moe_expert_parallel_size: 4');
    expect(generation).toContain('cache_transceiver_config:');
    expect(generation).not.toContain('disable_overlap_scheduler');
    const both = engineYaml({ ...serve, options: { kv_cache_config: { event_buffer_max_size: 5 }, odd: { 'key with space': [1, 'a'] } } }, 'both', 64);
    expect(both).not.toContain('transceiver');
    expect(both).toContain('  event_buffer_max_size: 5\n');
    expect(both).toContain('  tokens_per_block: 64\n');
    expect(both).toContain('odd:\n  "key with space": [1,"a"]\n');
  });

  it('is given to the command', () => {
    expect(serveArguments({ ...serve, args: ['--log_level', 'info'] }, 8001, '/tmp/o.yaml')).toEqual(['/models/llama', '--host', '127.0.0.1', '--port', '8001', '--backend', 'pytorch', '--extra_llm_api_options', '/tmp/o.yaml', '--log_level', 'info']);
  });
});

describe('the configuration', () => {
  it('says what does not go together', () => {
    expect(configProblems({ baseUrl: 'http://127.0.0.1:8000' })).toEqual([]);
    expect(configProblems({})).toEqual(['neither baseUrl nor serve is set']);
    expect(configProblems({ baseUrl: 'http://127.0.0.1:8000', serve })).toEqual(['baseUrl and serve are both set']);
    expect(configProblems({ serve: { ...serve, eventBufferMaxSize: 0, blockReuse: false } })).toEqual(['KV events are wanted (kvEvents) and switched off here', 'KV events are wanted (kvEvents), and there are none without block reuse']);
    expect(configProblems({ serve: { ...serve, eventBufferMaxSize: 0 }, kvEvents: false })).toEqual([]);
    const adapter = { name: 'a', id: 1, path: '/a' };
    expect(configProblems({ baseUrl: 'http://h', adapters: [adapter, { ...adapter, name: 'b' }] })).toEqual(['adapter "b" (1) shares its name or id with another']);
  });
});
