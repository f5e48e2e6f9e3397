import { ArmatureError } from '@armature/contracts';
import type { Discovery, PlainData, Registration, WorkerRecord } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { FakePlane, ManualClock, workerRecord } from '../test-support/fakes.ts';
import { ClusterControl } from './cluster-control.ts';
import { roleMinimum } from './minimum.ts';

/** Entries of one process, delivered at once. */
class PaperDiscovery implements Discovery {
  readonly supports = { processes: false };
  readonly entries = new Map<string, PlainData>();
  /** Sabotage: everybody gets the lock. */
  grantsAll = false;
  lockTaken = 0;

  async register(key: string, value: PlainData): Promise<Registration> {
    if (this.entries.has(key) && !this.grantsAll) throw new ArmatureError('DISCOVERY_KEY_TAKEN', key);
    this.lockTaken++;
    this.entries.set(key, value);
    return { update: async () => undefined, close: async () => void this.entries.delete(key) };
  }
  async watch(prefix: string, watcher: { put(entry: { key: string; value: PlainData }): void; synced?(): void }): Promise<{ close(): void }> {
    for (const [key, value] of this.entries) if (key.startsWith(prefix)) watcher.put({ key, value });
    watcher.synced?.();
    return { close: () => undefined };
  }
}

/** Workers that leave discovery when they are told to change, and come back when the test says so. */
function build(roles: Readonly<Record<string, WorkerRecord['role']>>, minimum = 1) {
  const clock = new ManualClock();
  const discovery = new PaperDiscovery();
  const requests = new FakePlane();
  const key = (record: WorkerRecord): string => `workers/m/${record.instanceId}`;
  const put = (record: WorkerRecord): void => void discovery.entries.set(key(record), record as unknown as PlainData);
  Object.entries(roles).forEach(([name, role]) => put(workerRecord(name, role, { index: Number(name.split('/')[1]) })));
  const waiting: (() => void)[] = [];
  requests.onOpen = (call) => {
    const record = [...discovery.entries.values()].find((value) => (value as unknown as WorkerRecord).address === call.address) as unknown as WorkerRecord;
    const role = call.open.message['role'] as WorkerRecord['role'];
    discovery.entries.delete(key(record));
    call.reply({ type: 'draining', legs: 2 });
    waiting.push(() => {
      put({ ...record, role, instanceId: `${record.pool}/${record.index}@2` });
      call.reply({ type: 'done', instanceId: `${record.pool}/${record.index}@2`, moved: 0 });
      call.finish();
    });
  };
  const control = new ClusterControl({ discovery, requests, clock, minimum: () => minimum });
  const change = (worker: string, role: WorkerRecord['role'], waitMs = 10_000): Promise<string> =>
    control.changeRole({ model: 'm', worker, role, drainMs: 1_000, waitMs }).then(
      ({ instanceId }) => instanceId,
      (error: unknown) => ArmatureError.from(error).code,
    );
  const counts = (): Record<string, number> => {
    const seen: Record<string, number> = {};
    for (const value of discovery.entries.values()) {
      const { role } = value as unknown as WorkerRecord;
      if (role !== undefined) seen[role] = (seen[role] ?? 0) + 1;
    }
    return seen;
  };
  /** Lets everything run that can. */
  const settle = async (): Promise<void> => {
    for (let i = 0; i < 50; i++) {
      await new Promise((resolve) => setImmediate(resolve));
      clock.advance(100);
      waiting.shift()?.();
    }
  };
  return { clock, discovery, requests, control, change, counts, settle, waiting };
}

const four = { 'prefill/0': 'prefill', 'prefill/1': 'prefill', 'decode/0': 'decode', 'decode/1': 'decode' } as const;

describe('control of a cluster', () => {
  it('changes a role, and gives the lock back', async () => {
    const t = build(four);
    const changed = t.change('decode/1', 'prefill');
    await t.settle();
    expect([await changed, t.counts(), t.discovery.lockTaken]).toEqual(['decode/1@2', { prefill: 3, decode: 1 }, 1]);
    expect([...t.discovery.entries.keys()].filter((key) => key.startsWith('control/'))).toEqual([]);
    expect(t.requests.calls[0]?.open).toMatchObject({ method: 'worker.role', message: { role: 'prefill', deadlineMs: 1_000 } });
  });

  it.each([
    [false, ['CONTROL_ROLE_MINIMUM', 'decode/0@2'], { prefill: 3, decode: 1 }],
    [true, ['decode/0@2', 'decode/1@2'], { prefill: 4 }], // sabotage: without the lock both are let through
  ])('two who ask at once cannot go below the minimum (lock for everybody: %s)', async (grantsAll, answers, counts) => {
    const t = build(four);
    t.discovery.grantsAll = grantsAll;
    const both = Promise.all([t.change('decode/0', 'prefill'), t.change('decode/1', 'prefill')]);
    await t.settle();
    expect([(await both).sort(), t.counts()]).toEqual([answers, counts]);
  });

  it('refuses what would leave too few, asks nobody then; both counts for each leg', async () => {
    const few = build(four, 2);
    expect([await few.change('decode/0', 'prefill'), await few.change('prefill/0', 'decode'), few.requests.calls.length]).toEqual(['CONTROL_ROLE_MINIMUM', 'CONTROL_ROLE_MINIMUM', 0]);
    const mixed = build({ 'decode/0': 'decode', 'all/0': 'both' });
    const changed = mixed.change('decode/0', 'prefill');
    await mixed.settle();
    expect([await changed, await mixed.change('all/0', 'prefill')]).toEqual(['decode/0@2', 'CONTROL_ROLE_MINIMUM']);
    expect(await few.change('decode/9', 'prefill')).toBe('CONTROL_WORKER_UNKNOWN');
  });

  it('waits for another change up to a deadline', async () => {
    const t = build(four);
    await t.discovery.register('control/m/role', {});
    const changed = t.change('decode/1', 'prefill', 300);
    await t.settle();
    expect([await changed, t.requests.calls.length]).toEqual(['CONTROL_BUSY', 0]);
  });

  it('tells what the worker answered, and that it was lost; the lock is given back', async () => {
    const t = build(four);
    t.requests.onOpen = (call) => call.finish({ code: 'SERVING_ROLE_FIXED', message: 'no' });
    expect(await t.change('decode/1', 'prefill')).toBe('SERVING_ROLE_FIXED');
    t.requests.onOpen = (call) => call.finish();
    expect(await t.change('decode/1', 'prefill')).toBe('CONTROL_NO_ANSWER');
    expect(t.discovery.lockTaken).toBe(2);
  });

  it('counts the minimum over the pools whose role takes the leg', () => {
    const pools = [{ role: 'prefill', minReplicas: 1 }, { role: 'decode', minReplicas: 2 }, { role: 'decode', minReplicas: 1 }, { role: 'both', minReplicas: 4 }] as const;
    expect([roleMinimum(pools, 'prefill'), roleMinimum(pools, 'decode'), roleMinimum([], 'decode')]).toEqual([5, 7, 0]);
  });
});
