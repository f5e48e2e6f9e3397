import type { Discovery, ErrorData, PlainData, PlaneMessage, Registration, WorkerRecord } from '@armature/contracts';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { describe, expect, it } from 'vitest';
import type { UnwellWorker } from '../control/unwell.ts';
import { CountingMetrics, silentLog, workerRecord } from '../test-support/fakes.ts';
import { RunningLegs } from './running-legs.ts';
import type { WorkerHostOptions } from './worker-host.ts';
import { WorkerLives } from './worker-lives.ts';
import { workerMetrics } from './worker-metrics.ts';

/** Entries, and every change of them. A test may make it slow or broken. */
class PaperDiscovery implements Discovery {
  readonly supports = { processes: false };
  readonly entries = new Map<string, PlainData>();
  before: () => Promise<void> = async () => undefined;

  async register(key: string, value: PlainData): Promise<Registration> {
    if (key.startsWith('workers/')) await this.before();
    this.entries.set(key, value);
    return { update: async (next) => void this.entries.set(key, next), close: async () => void this.entries.delete(key) };
  }
  async watch(): Promise<{ close(): void }> {
    return { close: () => undefined };
  }
}

async function build() {
  const clock = new ManualClock();
  const discovery = new PaperDiscovery();
  const metrics = new CountingMetrics();
  const running = new RunningLegs(clock);
  const health = new Map<string, string>();
  const engine = { failing: undefined as ErrorData | undefined, failure: () => engine.failing, abilities: { roles: ['prefill', 'decode'], roleChange: 'live' } };
  let life = 1;
  const reborn: string[] = [];
  const host = {
    model: 'm', pool: 'w', index: 0, role: 'decode', incarnation: '1', nextIncarnation: () => String(++life), engine, discovery, clock, log: silentLog,
    health: { set: (name: string, state: string, reason = '') => void health.set(name, `${state} ${reason}`.trim()), remove: (name: string) => void health.delete(name) },
  } as unknown as WorkerHostOptions;
  const lives: WorkerLives = new WorkerLives({
    host, running, metrics: workerMetrics(metrics, host),
    record: ({ instanceId, role, address }) => workerRecord('w/0', role, { instanceId, address }),
    reborn: () => void reborn.push(lives.subject),
  });
  await lives.start('here');
  const keys = (): string[] => [...discovery.entries.keys()];
  const changeRole = (deadlineMs: number): { readonly said: unknown[] } => {
    const said: unknown[] = [];
    const stream = { send: (message: PlaneMessage) => said.push(message.type) > 0, close: (error?: ErrorData) => void said.push(error?.code ?? 'closed') };
    lives.changeRole({ type: 'role', role: 'prefill', deadlineMs }, stream);
    return { said };
  };
  return { clock, discovery, metrics, running, health, lives, reborn, keys, changeRole, fail: () => (engine.failing = { code: 'X', message: 'broken' }), mend: () => (engine.failing = undefined) };
}

const first = 'workers/m/w/0@1';

describe('an engine that fails and recovers', () => {
  it('leaves at once, is seen as out, and comes back as another life with other KV events', async () => {
    const t = await build();
    expect(t.keys()).toEqual([first]);
    t.fail();
    await t.clock.elapse(1_000);
    expect(t.keys()).toEqual(['unwell/m/w/0@1']);
    expect(t.discovery.entries.get('unwell/m/w/0@1')).toMatchObject({ state: 'failed', code: 'X', reason: 'broken', role: 'decode' } satisfies Partial<UnwellWorker>);
    expect([t.health.get('worker m/w/0'), t.lives.isWell, t.metrics.total('armature_worker_engine_failed')]).toEqual(['failed X: broken', false, 1]);
    t.mend();
    await t.clock.elapse(2_000);
    expect(t.discovery.entries.get('unwell/m/w/0@1')).toMatchObject({ state: 'held', holdMs: 5_000 });
    expect([t.health.get('worker m/w/0'), t.lives.isWell, t.reborn]).toEqual(['degraded its engine had failed (X); back in the pool when it has been well for 5 s', false, []]);
    await t.clock.elapse(4_000);
    expect(t.keys()).toEqual(['workers/m/w/0@2']);
    expect([t.health.get('worker m/w/0'), t.lives.isWell, t.lives.instanceId, t.reborn]).toEqual(['ready', true, 'w/0@2', [t.lives.subject]]);
    expect(t.lives.subject).toContain('w/0@2');
    expect(['failures_total', 'recoveries_total', 'failed'].map((name) => t.metrics.total(`armature_worker_engine_${name}`))).toEqual([1, 1, 0]);
  });

  it('a leg that ends is enough to notice', async () => {
    const t = await build();
    t.fail();
    t.lives.legEnded();
    await t.clock.elapse(0);
    expect(t.keys()).toEqual(['unwell/m/w/0@1']);
  });

  it('does not come back twice for one flap, and not while it fails again as discovery answers', async () => {
    const t = await build();
    t.fail();
    await t.clock.elapse(1_000);
    t.mend();
    let answer: () => void = () => undefined;
    t.discovery.before = () => new Promise((resolve) => (answer = resolve));
    await t.clock.elapse(6_000);
    t.fail();
    await t.clock.elapse(1_000); // seen while the registration is on its way
    answer();
    await t.clock.elapse(10);
    expect(t.keys().filter((key) => key.startsWith('workers/'))).toEqual([]);
    t.mend();
    t.discovery.before = async () => undefined;
    await t.clock.elapse(12_000); // the second failure in a row: 10 s
    expect(t.keys()).toEqual(['workers/m/w/0@3']);
    expect(['failures_total', 'recoveries_total'].map((name) => t.metrics.total(`armature_worker_engine_${name}`))).toEqual([1, 1]);
  });

  it('tries every second while discovery refuses', async () => {
    const t = await build();
    t.fail();
    await t.clock.elapse(1_000);
    t.mend();
    let refused = 0;
    t.discovery.before = () => (refused++ < 3 ? Promise.reject(new Error('no etcd')) : Promise.resolve());
    await t.clock.elapse(6_500);
    expect(t.health.get('worker m/w/0')).toBe('degraded its engine is well again; not yet in discovery');
    await t.clock.elapse(4_000);
    expect([refused, t.keys()]).toEqual([4, ['workers/m/w/0@2']]);
  });

  it('a change of role is refused while it is out; one that sees the failure fails, and it comes back in the old role', async () => {
    const t = await build();
    t.running.add({}, { send: () => true, close: () => undefined });
    const change = t.changeRole(1_500);
    t.fail();
    await t.clock.elapse(5_000); // the leg never ends: drained after 1.5 s, told to move on, given up after 2 s more
    expect(change.said).toEqual(['draining', 'SERVING_WORKER_FAILED']);
    expect(() => t.changeRole(0)).toThrow('failed');
    t.mend();
    await t.clock.elapse(7_000);
    expect([t.keys(), t.lives.role, t.lives.isWell]).toEqual([['workers/m/w/0@2'], 'decode', true]);
    expect((t.discovery.entries.get('workers/m/w/0@2') as unknown as WorkerRecord).role).toBe('decode');
  });

  it('recovers within the drain of a change of role: one life comes of it, in the new role', async () => {
    const t = await build();
    t.running.add({}, { send: () => true, close: () => undefined });
    const change = t.changeRole(20_000);
    t.fail();
    await t.clock.elapse(1_000);
    t.mend();
    await t.clock.elapse(25_000);
    expect(change.said).toEqual(['draining', 'done', 'closed']);
    expect([t.keys(), t.lives.role, t.metrics.total('armature_worker_engine_failed')]).toEqual([['workers/m/w/0@2'], 'prefill', 0]);
  });

  it('a worker that closes does not come back, and leaves nothing behind', async () => {
    const t = await build();
    t.fail();
    await t.clock.elapse(1_000);
    t.mend();
    await t.clock.elapse(3_000);
    await t.lives.leave();
    await t.clock.elapse(60_000);
    t.lives.forget();
    expect([t.keys(), t.health.size, t.clock.pendingTimers]).toEqual([[], 0, 0]);
  });
});
