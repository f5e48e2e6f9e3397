import type { RouterPolicy, WorkerRecord } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { ModelRouter } from '../routing/model-router.ts';
import { CountingMetrics, ManualClock, silentLog, testRandom, workerRecord } from '../test-support/fakes.ts';
import type { ExecutionHost } from './execution-host.ts';
import { Placement } from './placement.ts';
import type { PlacementSetup } from './placement.ts';

const ranks = (layoutFingerprint: string, kvConversion?: string): Partial<WorkerRecord> => ({ layoutFingerprint, ...(kvConversion === undefined ? {} : { kvConversion }) });

/** These decode and prefill workers; the first candidate is taken. */
function place(decodes: readonly Partial<WorkerRecord>[], prefills: readonly Partial<WorkerRecord>[], whenNoPrefillWorker: 'local' | 'fail' = 'fail') {
  const first: RouterPolicy = {
    name: 'first',
    supports: { deterministic: true },
    score: (_request, candidates, costs) => {
      for (let i = 0; i < candidates.count; i++) costs[i] = candidates.slots[i]!;
    },
  };
  const metrics = new CountingMetrics();
  const router = new ModelRouter({ model: 'm', policy: first, clock: new ManualClock(), random: testRandom(3), log: silentLog, metrics, snapshot: (_worker, done) => done([]) });
  decodes.forEach((record, i) => router.join(workerRecord(`decode/${i}`, 'decode', record)));
  prefills.forEach((record, i) => router.join(workerRecord(`prefill/${i}`, 'prefill', record)));
  const host = {
    blockSize: 4,
    model: 'm',
    router,
    policy: { name: 'always', isRemote: () => true, creditsDecodeOverlap: false, whenNoPrefillWorker },
    input: {},
    metrics: { fallbacks: metrics.counter({ name: 'fallbacks' }).with() },
  } as unknown as ExecutionHost;
  const record = { decisions: [], disaggregation: undefined } as unknown as PlacementSetup['record'];
  const share = { firstChoice: 0, choices: 1, replayed: 0, tokenIds: Int32Array.from({ length: 10 }, (_, i) => i) };
  const request = { cacheSalt: '', routing: {} } as unknown as PlacementSetup['request'];
  const excluded: string[] = [];
  const placement = new Placement({ host, request, record, id: 'r', share, startedAtMs: 0, excluded, waits: () => false });
  return { placement, excluded, record, fallbacks: () => metrics.total('fallbacks') };
}

function placed(decode: Partial<WorkerRecord>, prefills: readonly Partial<WorkerRecord>[], whenNoPrefillWorker?: 'local' | 'fail') {
  const { placement, record, fallbacks } = place([decode], prefills, whenNoPrefillWorker);
  return { found: placement.choose(), record, fallbacks: fallbacks() };
}

describe('a prefill worker is one whose KV the decode worker can read', () => {
  it('the same layout, or one that is converted; others are passed over', () => {
    for (const [decode, prefills] of [
      [ranks('tp2', 'model'), [ranks('tp4', 'other'), ranks('tp4'), ranks('tp4', 'model')]],
      [ranks('tp2'), [ranks('tp4', 'model'), ranks('x'), ranks('tp2')]],
    ] as const) {
      const { found, fallbacks, record } = placed(decode, prefills);
      expect(found).toMatchObject({ type: 'split', prefill: { route: { worker: { instanceId: 'prefill/2@1' } } } });
      expect(record.decisions).toHaveLength(2);
      expect(fallbacks).toBe(0);
    }
  });

  it('none: refused with a code, or computed where it is decoded, by policy; counted and recorded', () => {
    const prefills = [ranks('tp4', 'other'), ranks('y')];
    const refused = placed(ranks('tp2', 'model'), prefills);
    expect(refused.found).toMatchObject({ type: 'refused', error: { code: 'SERVING_KV_INCOMPATIBLE' } });
    const local = placed(ranks('tp2', 'model'), prefills, 'local');
    expect(local.found).toMatchObject({ type: 'full', main: { route: { worker: { instanceId: 'decode/0@1' } } } });
    expect(local.record.disaggregation).toEqual({ policy: 'always', remote: false, reason: 'SERVING_KV_INCOMPATIBLE' });
    expect([refused.fallbacks, local.fallbacks]).toEqual([1, 1]);
  });
});

describe('a decode worker that takes over from a lost one', () => {
  it('is one that can read what the prefill worker holds, whatever the router would prefer', () => {
    const t = place([ranks('tp2'), ranks('x'), ranks('tp4', 'other'), ranks('tp2')], [ranks('tp2')]);
    const found = t.placement.choose();
    if (found.type !== 'split') throw new Error(found.type);
    t.excluded.push(found.decode.route.worker.instanceId);
    expect(t.placement.decodeAgain(found.prefill.route.worker)?.route.worker.instanceId).toBe('decode/3@1');
    expect(t.record.decisions.map(({ hop }) => hop)).toEqual(['decode', 'prefill', 'decode']); // those that were passed over are no decisions
  });

  it('none can: the request begins again elsewhere instead', () => {
    const t = place([ranks('tp2'), ranks('x')], [ranks('tp2')]);
    const found = t.placement.choose();
    if (found.type !== 'split') throw new Error(found.type);
    t.excluded.push(found.decode.route.worker.instanceId);
    expect(t.placement.decodeAgain(found.prefill.route.worker)).toBeUndefined();
  });
});
