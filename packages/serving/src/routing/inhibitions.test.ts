import type { WorkerRecord } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { CountingMetrics, ManualClock, silentLog, workerRecord } from '../test-support/fakes.ts';
import { Inhibitions } from './inhibitions.ts';
import { WorkerTable } from './worker-table.ts';

function build() {
  const clock = new ManualClock();
  const metrics = new CountingMetrics();
  const table = new WorkerTable();
  const health = new Map<string, string>();
  const probes: { readonly worker: WorkerRecord; readonly atMs: number; readonly done: (isWell: boolean) => void }[] = [];
  const changed: number[] = [];
  const counter = (name: string) => metrics.counter({ name }).with();
  const inhibitions = new Inhibitions({
    model: 'm',
    table,
    clock,
    log: silentLog,
    inhibited: counter('inhibited'),
    returned: counter('returned'),
    out: metrics.gauge({ name: 'out' }).with(),
    health: { set: (name, state, reason) => void health.set(name, `${state}: ${reason}`), remove: (name) => void health.delete(name), report: () => ({ state: 'ready', components: {} }) },
    probe: (worker, done) => void probes.push({ worker, atMs: clock.nowMs(), done }),
    changed: () => void changed.push(clock.nowMs()),
  });
  const candidates = (): string[] => {
    const columns = table.candidates('both', []);
    return columns.workers.slice(0, columns.count).map((worker) => worker.instanceId);
  };
  for (const name of ['a/0', 'a/1']) table.add(workerRecord(name, 'both'));
  return { clock, metrics, table, health, probes, changed, inhibitions, candidates };
}

describe('a worker that was lost', () => {
  it('gets nothing until it answers a probe, is asked ever more seldom, and is seen to be out', () => {
    const t = build();
    t.inhibitions.inhibit('a/0@1', 'PLANE_DISCONNECTED');
    t.inhibitions.inhibit('a/0@1', 'SERVING_STALLED'); // the second of many requests on it
    expect(t.candidates()).toEqual(['a/1@1']);
    expect([...t.health]).toEqual([['inhibited m/a/0@1', expect.stringMatching(/^degraded: .*PLANE_DISCONNECTED/)]]);
    expect([t.metrics.total('inhibited'), t.metrics.total('out')]).toEqual([1, 1]);
    for (let i = 0; i < 12; i++) {
      while (t.probes.length === i) t.clock.advance(100);
      t.probes[i]?.done(false);
    }
    const waits = t.probes.map(({ atMs }, i) => atMs - (t.probes[i - 1]?.atMs ?? 0));
    expect(waits).toEqual([100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 5_000, 5_000, 5_000]);
    expect(t.changed).toEqual([]);
    t.clock.advance(5_000);
    t.probes[12]?.done(true);
    expect(t.candidates()).toEqual(['a/0@1', 'a/1@1']);
    expect([t.metrics.total('returned'), t.metrics.total('out'), t.health.size, t.changed.length, t.clock.pendingTimers]).toEqual([1, 0, 0, 1, 0]);
  });

  it('that leaves takes its probe along, and its next life starts well', () => {
    const t = build();
    t.inhibitions.inhibit('a/0@1', 'PLANE_DISCONNECTED');
    t.clock.advance(100);
    t.inhibitions.left('a/0@1');
    t.table.remove('a/0@1');
    t.table.add(workerRecord('a/0', 'both', { instanceId: 'a/0@2' }));
    t.probes[0]?.done(true); // the answer of the life before
    expect(t.candidates().sort()).toEqual(['a/0@2', 'a/1@1']);
    expect([t.metrics.total('returned'), t.changed.length, t.clock.pendingTimers, t.health.size]).toEqual([0, 0, 0, 0]);
  });

  it('is asked no more once the frontend closes', () => {
    const t = build();
    t.inhibitions.inhibit('a/0@1', 'PLANE_DISCONNECTED');
    t.inhibitions.close();
    t.inhibitions.inhibit('a/1@1', 'PLANE_DISCONNECTED');
    t.clock.advance(10_000);
    expect([t.probes.length, t.clock.pendingTimers]).toEqual([0, 0]);
  });
});
