import type { Discovery, DiscoveryWatcher, PlainData, RouterPolicy } from '@armature/contracts';
import { expect, it } from 'vitest';
import { RequestRecords } from '../routing/records.ts';
import { CountingMetrics, ManualClock, silentLog, testRandom, workerRecord } from '../test-support/fakes.ts';
import { ModelRuntime } from './model-runtime.ts';

const flat: RouterPolicy = { name: 'flat', supports: { deterministic: true }, score: () => undefined };

it('workers that do not fit the model are refused, and seen: health, metric, until they leave', async () => {
  let watcher: DiscoveryWatcher | undefined;
  const states = new Map<string, string>();
  const metrics = new CountingMetrics();
  const runtime = new ModelRuntime({
    name: 'm',
    routerId: 'r',
    preprocessor: { card: { maxModelTokens: 100 } } as never,
    blockSize: 4,
    leaseTtlMs: 1_000,
    migrationLimit: 0,
    deadlines: { prefillMs: 0, transferMs: 0, firstTokenMs: 0, interTokenMs: 0 },
    failoverWaitMs: 0,
    policy: flat,
    disaggregation: { name: 'never' } as never,
    discovery: { watch: (_prefix: string, to: DiscoveryWatcher) => ((watcher = to), Promise.resolve({ close: () => undefined })) } as unknown as Discovery,
    events: { supports: { processes: false }, publish: () => undefined, subscribe: () => ({ close: () => undefined }) },
    requests: {} as never,
    records: new RequestRecords(10),
    clock: new ManualClock(),
    random: testRandom(1),
    log: silentLog,
    metrics,
    health: { set: (name, state, reason) => void states.set(name, `${state}: ${reason}`), remove: (name) => void states.delete(name), report: () => ({ state: 'ready', components: {} }) },
  });
  await runtime.start();
  const put = (name: string, value: unknown): void => watcher?.put({ key: `workers/m/${name}`, value: value as PlainData } as never);
  put('a/0@1', workerRecord('a/0', 'both'));
  put('b/0@1', workerRecord('b/0', 'both', { blockSize: 64 }));
  put('c/0@1', workerRecord('c/0', 'both', { protocol: 99 }));
  put('d/0@1', workerRecord('d/0', 'both', { modelFingerprint: 'other' }));
  for (const [i, nonsense] of [null, 'worker', { instanceId: 7 }, {}].entries()) put(`e/${i}@1`, nonsense);
  expect(runtime.router.table.records().map((worker) => worker.instanceId)).toEqual(['a/0@1']);
  expect([...states.keys()].sort()).toEqual(['b/0@1', 'c/0@1', 'd/0@1', 'e/0@1', 'e/1@1', 'e/2@1', 'e/3@1'].map((name) => `worker m/${name}`));
  expect(states.get('worker m/b/0@1')).toMatch(/degraded: refused: its blocks have 64 tokens, those of the model 4.*SERVING_WORKER_MISMATCH/);
  watcher?.removed('workers/m/b/0@1');
  expect(states.has('worker m/b/0@1')).toBe(false);
  runtime.close();
});
