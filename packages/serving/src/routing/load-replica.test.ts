import { ArmatureError } from '@armature/contracts';
import type { EventPlane, PlainData, RouterPolicy } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { CountingMetrics, ManualClock, silentLog, testRandom, workerRecord } from '../test-support/fakes.ts';
import { ModelRouter } from './model-router.ts';
import type { RouteQuery } from './model-router.ts';
import type { Charge } from './worker-table.ts';

/** A plane between processes that loses what it is told to. */
class LossyPlane implements EventPlane {
  readonly supports = { processes: true };
  readonly subscribers: { prefix: string; listener: (subject: string, payload: PlainData) => void }[] = [];
  lose: (subject: string, payload: PlainData) => boolean = () => false;
  publish(subject: string, payload: PlainData): void {
    if (this.lose(subject, payload)) return;
    for (const { prefix, listener } of [...this.subscribers]) if (subject.startsWith(prefix)) listener(subject, structuredClone(payload));
  }
  subscribe(prefix: string, listener: (subject: string, payload: PlainData) => void): { close(): void } {
    const entry = { prefix, listener };
    this.subscribers.push(entry);
    return { close: () => void this.subscribers.splice(this.subscribers.indexOf(entry), 1) };
  }
}

const WORKERS = ['w/0', 'w/1', 'w/2'];
const leastLoaded: RouterPolicy = {
  name: 'least',
  supports: { deterministic: true },
  score: (_request, candidates, costs) => {
    for (let i = 0; i < candidates.count; i++) costs[i] += candidates.activePrefillTokens[i] + candidates.activeBlocks[i];
  },
};

function open(plane: EventPlane, clock: ManualClock, routerId: string) {
  const metrics = new CountingMetrics();
  const router = new ModelRouter({ model: 'm', policy: leastLoaded, clock, random: testRandom(1), log: silentLog, metrics, snapshot: (_w, done) => done([]), replica: { events: plane, routerId } });
  for (const name of WORKERS) router.join(workerRecord(name, 'both'));
  router.replica?.start();
  return { router, metrics };
}

const query = (id: string, promptTokens = 16): RouteQuery => ({
  id,
  hop: 'aggregated',
  role: 'both',
  promptTokens,
  sequenceHashes: new Int32Array(8),
  blockSize: 4,
  creditsOverlap: true,
  overrides: {},
  excluded: [],
  startedAtMs: 0,
});

function send(router: ModelRouter, id: string, promptTokens = 16): Charge {
  const q = query(id, promptTokens);
  const route = router.route(q);
  if (ArmatureError.is(route)) throw route;
  return router.dispatch(route, q, 'aggregated');
}

const loads = (router: ModelRouter): unknown => WORKERS.map((_name, slot) => router.table.load(slot));
const idle = WORKERS.map(() => ({ requests: 0, prefillTokens: 0, blocks: 0 }));

describe('LoadReplica', () => {
  it('routers that start together do not herd: each sees what the other sent', () => {
    const plane = new LossyPlane();
    const clock = new ManualClock();
    const a = open(plane, clock, 'a');
    const b = open(plane, clock, 'b');
    const charges: [ModelRouter, Charge, string][] = [];
    for (let i = 0; i < 9; i++) {
      const { router } = i % 2 === 0 ? a : b;
      charges.push([router, send(router, `r${i}`), `r${i}`]);
      clock.advance(2);
    }
    expect(loads(a.router)).toEqual(loads(b.router));
    expect(a.router.table.load(0).requests).toBe(3); // nine requests over three workers, whoever sent them
    for (const [router, charge, id] of charges) router.prefilled(charge, id);
    clock.advance(2);
    expect(b.router.table.load(1).prefillTokens).toBe(0);
    for (const [router, charge, id] of charges) router.ended(charge, id);
    clock.advance(2);
    expect(loads(a.router)).toEqual(idle);
    expect(loads(b.router)).toEqual(idle);
  });

  it('a router that comes later is told what runs; one that leaves or dies takes its requests with it', () => {
    const plane = new LossyPlane();
    const clock = new ManualClock();
    const a = open(plane, clock, 'a');
    for (let i = 0; i < 6; i++) send(a.router, `r${i}`);
    clock.advance(2);
    const b = open(plane, clock, 'b');
    clock.advance(2);
    expect(loads(b.router)).toEqual(loads(a.router));
    const c = open(plane, clock, 'c');
    send(c.router, 'x', 400);
    clock.advance(2);
    expect(a.router.replica?.peers()).toEqual({ b: 0, c: 1 });
    c.router.close();
    expect(a.router.replica?.peers()).toEqual({ b: 0 });
    plane.lose = (subject) => subject.endsWith('/a'); // a dies without a word
    clock.advance(15_000);
    expect(loads(b.router)).toEqual(idle);
  });

  it('whatever is lost, in the end every router has the same loads', () => {
    const seed = 1 + (Date.now() % 100_000);
    console.log(`seeds ${seed} to ${seed + 49}`);
    let gaps = 0;
    for (let s = seed; s < seed + 50; s++) {
      const random = testRandom(s);
      const plane = new LossyPlane();
      const clock = new ManualClock();
      const routers = ['a', 'b', 'c'].map((id) => open(plane, clock, id));
      plane.lose = () => random.below(10) === 0;
      const running: { at: number; charge: Charge; id: string }[] = [];
      for (let step = 0; step < 300; step++) {
        const at = random.below(3);
        if (random.below(2) === 0) running.push({ at, charge: send(routers[at]!.router, `r${step}`, 1 + random.below(300)), id: `r${step}` });
        else if (running.length > 0) {
          const { at: owner, charge, id } = running.splice(random.below(running.length), 1)[0]!;
          if (random.below(2) === 0) routers[owner]!.router.prefilled(charge, id);
          routers[owner]!.router.ended(charge, id);
        }
        if (random.below(4) === 0) clock.advance(random.below(500));
      }
      plane.lose = () => false;
      clock.advance(20_000);
      for (const { router } of routers) expect(loads(router), `seed ${s}`).toEqual(loads(routers[0]!.router));
      for (const { at, charge, id } of running) routers[at]!.router.ended(charge, id);
      clock.advance(20_000);
      for (const { router, metrics } of routers) {
        expect(loads(router), `seed ${s}`).toEqual(idle);
        gaps += metrics.total('armature_router_load_gaps_total');
      }
    }
    expect(gaps).toBeGreaterThan(100);
  });

  it.each([
    ['a foreign message', 'hello'],
    ['no batch number', { type: 'changes', changes: [] }],
    ['a request without hashes', { type: 'state', batch: 1, requests: [{ id: 'x', instanceId: 'w/0@1', hop: 'aggregated', promptTokens: 1, prefillTokens: 1, blockSize: 4, sequenceHashes: ['1'] }], prefilled: [] }],
    ['negative tokens', { type: 'state', batch: 1, requests: [{ id: 'x', instanceId: 'w/0@1', hop: 'aggregated', promptTokens: -1, prefillTokens: 1, blockSize: 4, sequenceHashes: new Int32Array(2) }], prefilled: [] }],
  ])('%s is counted and changes nothing', (_name, payload) => {
    const plane = new LossyPlane();
    const { router, metrics } = open(plane, new ManualClock(), 'a');
    plane.publish('load/m/b', payload as unknown as PlainData);
    expect(metrics.total('armature_router_load_malformed_total')).toBe(1);
    expect(loads(router)).toEqual(idle);
  });
});
