import type { RouterPolicy, WorkerRecord } from '@armature/contracts';
import { expect, it } from 'vitest';
import { Method } from '../messages.ts';
import { ModelRouter } from '../routing/model-router.ts';
import { CountingMetrics, FakePlane, ManualClock, silentLog, testRandom, workerRecord } from '../test-support/fakes.ts';
import { QueuePrefetch } from './queue-prefetch.ts';

/** Workers `w/i` that hold so many blocks in host memory and on disk. */
function build(held: readonly (readonly [host: number, disk: number])[], records: readonly Partial<WorkerRecord>[] = []) {
  const clock = new ManualClock();
  const metrics = new CountingMetrics();
  const requests = new FakePlane();
  let looks = 0;
  const policy: RouterPolicy = {
    name: 'fixed',
    supports: { deterministic: true },
    score: (_request, candidates, costs) => {
      looks++;
      for (let i = 0; i < candidates.count; i++) {
        const [host, disk] = held[candidates.slots[i]!]!;
        candidates.hostBlocks[i] = host;
        candidates.diskBlocks[i] = disk;
        candidates.overlapBlocks[i] = host + disk;
        costs[i] = 0;
      }
    },
  };
  const router = new ModelRouter({ model: 'm', policy, clock, random: testRandom(3), log: silentLog, metrics, snapshot: (_worker, done) => done([]) });
  held.forEach((_, i) => router.join(workerRecord(`w/${i}`, records[i]?.role ?? 'both', { kvTiers: ['host', 'disk'], kvPrefetch: 'queue', ...records[i] })));
  const prefetch = new QueuePrefetch({ router, requests, clock, blockSize: 4, sent: metrics.counter({ name: 'sent' }).with() });
  const hashes = Int32Array.of(1, 2, 3, 4);
  const waiting = (role: WorkerRecord['role'] = 'both', routing = {}): string | undefined => {
    const before = requests.calls.length;
    prefetch.waiting(() => hashes, 'tenant', role, routing);
    return requests.calls.length === before ? undefined : requests.calls.at(-1)?.address;
  };
  return { clock, requests, waiting, hashes, looks: () => looks };
}

it('tells the worker that holds most below its device, with hashes and tenant', () => {
  const t = build([[5, 0], [1, 2], [2, 3], [0, 1]]);
  expect(t.waiting()).toBe('fake:w/2');
  expect(t.requests.calls[0]?.open).toMatchObject({ method: Method.Prefetch, message: { type: 'prefetch', sequenceHashes: t.hashes, cacheSalt: 'tenant' } });
});

it('tells nobody when all is in host memory already, or no worker prefetches so early; nothing is looked up then', () => {
  expect(build([[5, 0]]).waiting()).toBeUndefined();
  const t = build([[0, 5]], [{ kvPrefetch: 'route' }]);
  expect([t.waiting(), t.looks()]).toEqual([undefined, 0]);
  expect(build([[0, 5], [0, 3]], [{ kvPrefetch: 'never' }]).waiting()).toBe('fake:w/1');
});

it('of those that compute the prompt, and of the one asked for', () => {
  const t = build([[0, 5], [0, 3]], [{ role: 'decode' }, { role: 'prefill' }]);
  expect(t.waiting('decode')).toBe('fake:w/1');
  expect(build([[0, 5], [0, 3]]).waiting('both', { worker: 'w/1@1' })).toBe('fake:w/1');
  expect(build([[0, 5]]).waiting('both', { worker: 'elsewhere' })).toBeUndefined();
});

it('a flood of waiting requests is neither a flood of calls nor of look-ups; calls that fail make room', () => {
  const t = build([[0, 5]]);
  for (let i = 0; i < 1_000; i++) t.waiting();
  expect(t.requests.calls.length).toBe(8); // nobody has answered
  for (const call of t.requests.calls.slice()) call.finish({ code: 'PLANE_DISCONNECTED', message: 'gone', retryable: true });
  t.requests.onOpen = (call) => call.finish();
  for (let i = 0; i < 1_000; i++) t.waiting();
  expect(t.requests.calls.length).toBe(16);
  t.clock.advance(10);
  for (let i = 0; i < 1_000; i++) t.waiting();
  expect(t.requests.calls.length).toBe(18);
});
