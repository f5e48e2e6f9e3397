import type { Logger } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { describe, expect, it } from 'vitest';
import { serveCommand } from './serve-config.ts';
import type { ServeConfig } from './serve-config.ts';
import { freePort } from './ports.ts';
import { VllmProcess } from './vllm-process.ts';

let logged = '';
const write = (message: string, fields?: object): void => void (logged += `${message} ${JSON.stringify(fields)}\n`);
const log: Logger = { debug: write, info: write, warn: write, error: write, child: () => log, isEnabled: () => false };
const facts = { ranks: 1, blockSize: 4, servedName: '', port: 1, events: undefined, transferConfig: '' };
const serve = (changes: Partial<ServeConfig>): ServeConfig =>
  ({ model: 'm', command: ['vllm'], host: '127.0.0.1', port: 1, tensorParallelSize: 1, pipelineParallelSize: 1, extraArgs: [], env: {}, restarts: 0, restartDelayMs: 1, stopTimeoutMs: 2_000, ...changes }) as ServeConfig;

async function started(command: readonly string[]): Promise<VllmProcess> {
  const child = new VllmProcess({ command, env: {}, ports: [{ host: '127.0.0.1', port: await freePort('127.0.0.1'), hint: '' }], restarts: 0, restartDelayMs: 10, stopTimeoutMs: 3_000, clock: realClock, log });
  await child.start();
  return child;
}

describe('VllmProcess', () => {
  it('ends for all who ask, also at the same time: close() while it loads is two of them', async () => {
    const child = await started(['sleep', '60']);
    await Promise.all([child.stop(), child.stop()]);
    expect(child.pid).toBeUndefined();
    await child.stop();
  }, 20_000);

  it('does not log keys', async () => {
    logged = '';
    const child = await started(serveCommand(serve({ command: ['sh', '-c', 'sleep 5', 'x'], extraArgs: ['--ssl-key', 'SECRET-1', '--hf-token=SECRET-2', '--max-model-len', '64'] }), facts));
    await child.stop();
    expect(logged).toContain('--ssl-key *** --hf-token=*** --max-model-len 64');
    expect(logged).not.toContain('SECRET');
  }, 20_000);
});

it.each(['--api-key', '--data-parallel-size=2', '--data_parallel_rank=1', '-dp=2', '--block-size=8', '--block_size=8', '--tensor_parallel_size=2', '--kv-events-config.endpoint=x', '--no-enable-prefix-caching', '-tp=2'])('%s is said by the configuration already', (flag) => {
  expect(() => serveCommand(serve({ extraArgs: [flag] }), facts)).toThrow(expect.objectContaining({ code: 'VLLM_SERVE_FLAG' }));
});

it('other flags pass', () => {
  expect(serveCommand(serve({ extraArgs: ['--max-model-len=64', '--gpu-memory-utilization', '0.9'] }), facts)).toEqual(expect.arrayContaining(['--max-model-len=64', '0.9']));
});
