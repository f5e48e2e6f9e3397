import type { EngineBackend, KvConnector, KvPolicy, KvTierBackend } from '@armature/contracts';
import { hostTier, kvPolicyDefaults, lineage } from '@armature/kvbm';
import { expect, it } from 'vitest';
import { CountingMetrics, FakePlane, ManualClock, silentLog } from '../test-support/fakes.ts';
import { openWorkerKv } from './worker-kv.ts';
import type { WorkerKvOptions } from './worker-kv.ts';

const tier = (name: KvTierBackend['tier'], bytes: number | undefined): KvTierBackend => ({ tier: name, capacityBytes: () => bytes, open: () => Promise.reject(new Error('not to be opened')) });
const config = { maxSlowdown: 0.05, fetchDeadlineMs: 100, maxQueuedBlocks: 10, batchBlocks: 4, quotas: {}, verify: true };

function optionsFor(engine: Partial<EngineBackend>, kvbm: WorkerKvOptions['kvbm'], log = silentLog): WorkerKvOptions {
  return { worker: 'm/w/0', labels: ['m', 'w'], incarnation: 'x', engine: engine as EngineBackend, kvbm, transports: [], requests: new FakePlane(), baseDir: '.', clock: new ManualClock(), log, metrics: new CountingMetrics() };
}

async function problem(tiers: readonly KvTierBackend[] | undefined, engine: Partial<EngineBackend> = {}): Promise<string> {
  const options = optionsFor(engine, tiers === undefined ? undefined : { tiers, policy: {} as never, config });
  try {
    await openWorkerKv(options);
    return 'none';
  } catch (error) {
    const { code, message, hint } = error as { code: string; message: string; hint: string };
    return `${code}: ${message} → ${hint}`;
  }
}

it('an engine that keeps its KV to itself has no tiers', async () => {
  expect(await problem([tier('host', 64)])).toBe('CONFIG_KVBM_UNSUPPORTED: the engine of m/w/0 does not expose its KV: there is nothing to keep in tiers → leave kvbm out of this worker pool, or use an engine with a KV face (reference, mock) or a connector to it (vllm)');
  expect(await problem(undefined)).toBe('none');
});

it('an engine that copies its blocks by itself gets tiers in its own format, and no arena', async () => {
  const connector: KvConnector = { format: () => ({ layoutFingerprint: 'theirs', pieces: 2, pieceBytes: 512 }), attach: () => undefined, detach: () => undefined };
  const info = { modelFingerprint: 'f', blockSize: 32 } as EngineBackend['info'];
  const policy = (await lineage.create({ offload: kvPolicyDefaults.offload, prefetch: 'route' }, undefined as never)) as KvPolicy;
  const opened = await openWorkerKv(optionsFor({ connector, info }, { tiers: [await hostTier.create({ capacity: '64KiB' }, undefined as never)], policy, config }));
  expect([opened?.connector, opened?.manager?.host.memory.blocks, opened?.manager?.host.memory.pieceBytes]).toEqual([connector, 16, 1024]);
  expect(opened?.mover.metadata().length).toBeGreaterThan(0);
  await opened?.manager?.close();
  await opened?.mover.close();
  const warnings: string[] = [];
  const log = { ...silentLog, warn: (message: string) => void warnings.push(message) };
  expect(await openWorkerKv(optionsFor({ connector, info }, undefined, log))).toBe(undefined);
  expect(warnings).toEqual(["the engine's connector has no tiers to use: it computes everything"]);
});
