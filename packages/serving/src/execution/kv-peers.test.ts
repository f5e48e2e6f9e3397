import type { RouterPolicy, WorkerRecord } from '@armature/contracts';
import { ArmatureError } from '@armature/contracts';
import { expect, it } from 'vitest';
import { parsePeers } from '../messages.ts';
import { ModelRouter } from '../routing/model-router.ts';
import type { Route } from '../routing/model-router.ts';
import { CountingMetrics, ManualClock, silentLog, testRandom, workerRecord } from '../test-support/fakes.ts';
import { peersOf } from './kv-peers.ts';

/** A router whose policy sends everything to the first worker; the others hold `overlaps[i]` blocks. */
function routed(overlaps: number[], records: readonly Partial<WorkerRecord>[] = []): { overlaps: number[]; route: Route; router: ModelRouter } {
  const policy: RouterPolicy = {
    name: 'first',
    supports: { deterministic: true },
    score: (_request, candidates, costs) => {
      for (let i = 0; i < candidates.count; i++) {
        candidates.overlapBlocks[i] = overlaps[candidates.slots[i]!]!;
        costs[i] = candidates.slots[i]!;
      }
    },
  };
  const router = new ModelRouter({ model: 'm', policy, clock: new ManualClock(), random: testRandom(3), log: silentLog, metrics: new CountingMetrics(), snapshot: (_worker, done) => done([]) });
  overlaps.forEach((_, i) => router.join(workerRecord(`w/${i}`, 'both', { kvTiers: ['host'], ...records[i] })));
  const route = router.route({ id: 'r', hop: 'aggregated', role: 'both', promptTokens: 40, sequenceHashes: new Int32Array(20), blockSize: 4, creditsOverlap: true, overrides: {}, excluded: [], startedAtMs: 0 });
  if (ArmatureError.is(route)) throw route;
  return { overlaps, route, router };
}

const names = ({ route, router }: ReturnType<typeof routed>): string[] => parsePeers({ type: 'request', ...peersOf(route, router.table) }).map(({ instanceId, blocks }) => `${instanceId} ${blocks}`);

it('the three workers that hold most beyond the chosen one, with what it takes to borrow from them', () => {
  const t = routed([2, 5, 1, 9, 2, 3, 7]);
  expect(t.route.worker.instanceId).toBe('w/0@1');
  expect(names(t)).toEqual(['w/3@1 9', 'w/6@1 7', 'w/1@1 5']);
  expect(parsePeers({ type: 'request', ...peersOf(t.route, t.router.table) })[0]).toEqual({ instanceId: 'w/3@1', address: 'fake:w/3', agentMetadata: new Uint8Array([1]), layoutFingerprint: 'layout', blocks: 9 });
});

it('nobody when none holds more, when the chosen one has no tiers, nor workers that cannot lend', () => {
  expect(names(routed([4, 4, 3]))).toEqual([]);
  expect(names(routed([0, 9], [{ kvTiers: undefined } as never]))).toEqual([]);
  expect(names(routed([0, 9, 8, 7, 6], [{}, { kvTiers: undefined } as never, { layoutFingerprint: 'other' }, { agentMetadata: new Uint8Array(0) }]))).toEqual(['w/4@1 6']);
});

it('the decode worker and its rivals lend too: they hold the answers of earlier turns', () => {
  const prefill = routed([1, 2]);
  prefill.router.join(workerRecord('d/0', 'decode', { kvTiers: ['host'] }));
  const query = { id: 'r', hop: 'decode', role: 'decode', promptTokens: 40, sequenceHashes: new Int32Array(20), blockSize: 4, creditsOverlap: false, overrides: {}, excluded: [], startedAtMs: 0 } as const;
  prefill.overlaps[2] = 6;
  const decode = prefill.router.route(query);
  if (ArmatureError.is(decode)) throw decode;
  expect(parsePeers({ type: 'request', ...peersOf(prefill.route, prefill.router.table, decode) }).map(({ instanceId, blocks }) => `${instanceId} ${blocks}`)).toEqual(['d/0@1 6', 'w/1@1 2']);
});

it('a worker that has left since is not named', () => {
  const t = routed([0, 9, 8]);
  t.router.leave('w/1@1');
  expect(names(t)).toEqual(['w/2@1 8']);
});
