import type { EngineBackend, KvTierBackend } from '@armature/contracts';
import { expect, it } from 'vitest';
import { CountingMetrics, FakePlane, ManualClock, silentLog } from '../test-support/fakes.ts';
import { openWorkerKv } from './worker-kv.ts';
import type { WorkerKvOptions } from './worker-kv.ts';

const tier = (name: KvTierBackend['tier'], bytes: number | undefined): KvTierBackend => ({ tier: name, capacityBytes: () => bytes, open: () => Promise.reject(new Error('not to be opened')) });
const config = { maxSlowdown: 0.05, fetchDeadlineMs: 100, maxQueuedBlocks: 10, batchBlocks: 4, quotas: {}, verify: true };

async function problem(tiers: readonly KvTierBackend[] | undefined, engine: Partial<EngineBackend> = {}): Promise<string> {
  const options = {
    worker: 'm/w/0',
    labels: ['m', 'w'],
    incarnation: 'x',
    engine: engine as EngineBackend,
    kvbm: tiers === undefined ? undefined : { tiers, policy: {} as never, config },
    transports: [],
    requests: new FakePlane(),
    baseDir: '.',
    clock: new ManualClock(),
    log: silentLog,
    metrics: new CountingMetrics(),
  } satisfies WorkerKvOptions;
  try {
    await openWorkerKv(options);
    return 'none';
  } catch (error) {
    const { code, message, hint } = error as { code: string; message: string; hint: string };
    return `${code}: ${message} → ${hint}`;
  }
}

it('an engine that keeps its KV to itself has no tiers', async () => {
  expect(await problem([tier('host', 64)])).toBe('CONFIG_KVBM_UNSUPPORTED: the engine of m/w/0 does not expose its KV: there is nothing to keep in tiers → leave kvbm out of this worker pool, or use an engine with a KV face (reference, mock)');
  expect(await problem(undefined)).toBe('none');
});
