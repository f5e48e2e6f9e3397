import type { InferenceEnd, RouterPolicy, TokenBatch, WorkerRole } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { always } from '../policies/disaggregation.ts';
import { Method } from '../messages.ts';
import { Inhibitions } from '../routing/inhibitions.ts';
import { ModelRouter } from '../routing/model-router.ts';
import { RequestRecords } from '../routing/records.ts';
import { CountingMetrics, ManualClock, silentLog, testRandom } from '../test-support/fakes.ts';
import { callUnary } from '../worker/unary.ts';
import { executionMetrics } from './execution-metrics.ts';
import type { ExecutionHost } from './execution-host.ts';
import { FakeCluster, draw } from './fake-cluster.test.support.ts';
import type { FakeWorker } from './fake-cluster.test.support.ts';
import { HopTimes } from './hop-times.ts';
import { RequestRun } from './request-run.ts';
import { WaitingRoom } from './waiting-room.ts';

type Pools = readonly (readonly [string, WorkerRole])[];

const HISTORIES = 150;
const REQUESTS = 6;
const LEASE_TTL_MS = 400;
const flat: RouterPolicy = { name: 'flat', supports: { deterministic: true }, score: () => undefined };
const policy = await always.create({ whenNoPrefillWorker: 'fail' }, undefined as never);
const noHealth = { set: () => undefined, remove: () => undefined, report: () => ({ state: 'ready' as const, components: {} }) };

function build(seed: number, migrationLimit = 8) {
  const clock = new ManualClock();
  const random = testRandom(seed);
  const metrics = new CountingMetrics();
  const cluster = new FakeCluster(clock, random);
  const router = new ModelRouter({ model: 'm', policy: flat, clock, random: testRandom(seed + 1), log: silentLog, metrics, snapshot: (_worker, done) => done([]) });
  const waitingRoom = new WaitingRoom(clock);
  const gauge = (name: string) => metrics.gauge({ name }).with();
  const counter = (name: string) => metrics.counter({ name }).with();
  const inhibitions = new Inhibitions({
    model: 'm',
    table: router.table,
    clock,
    log: silentLog,
    health: noHealth,
    inhibited: counter('inhibited'),
    returned: counter('returned'),
    out: gauge('out'),
    probe: ({ address }, done) => callUnary(cluster, address, { method: Method.Probe, message: { type: 'probe' }, deadlineMs: 1_000 }, (answer) => done(answer?.['well'] === true)),
    changed: () => waitingRoom.wake(),
  });
  let runs = 0;
  const host: ExecutionHost = {
    model: 'm',
    blockSize: 4,
    leaseTtlMs: LEASE_TTL_MS,
    migrationLimit,
    deadlines: { prefillMs: 150, transferMs: 150, firstTokenMs: 150, interTokenMs: 150 },
    failoverWaitMs: 2_000,
    router,
    policy,
    inhibitions,
    waitingRoom,
    hopTimes: new HopTimes(),
    requests: cluster,
    records: new RequestRecords(1_000),
    clock,
    log: silentLog,
    input: { promptTokens: 0, overlapTokens: 0, prefillWorkers: 0, leastPrefillTokens: 0, decodePrefillTokens: 0, localFirstTokenMs: NaN, remoteFirstTokenMs: NaN },
    metrics: executionMetrics(metrics, 'm'),
    nextRunId: () => `run-${++runs}`,
  };
  const join = (name: string, role: WorkerRole): FakeWorker => {
    const worker = cluster.add(name, role);
    router.join(worker.record);
    waitingRoom.wake();
    return worker;
  };
  const leave = (worker: FakeWorker): void => {
    inhibitions.left(worker.record.instanceId);
    router.leave(worker.record.instanceId);
    waitingRoom.workerLeft();
  };
  return { clock, random, metrics, cluster, router, waitingRoom, inhibitions, host, join, leave };
}

type World = ReturnType<typeof build>;

interface Told {
  readonly run: RequestRun;
  readonly tokens: number[][];
  readonly ends: InferenceEnd[];
  readonly seed: number;
  readonly maxTokens: number;
}

function start(world: World, seed: number, choices: number, maxTokens: number): Told {
  const tokens: number[][] = Array.from({ length: choices }, () => []);
  const ends: InferenceEnd[] = [];
  const sink = {
    tokens: (batch: TokenBatch) => {
      for (let i = 0; i < batch.count; i++) tokens[batch.choices?.[i] ?? 0]?.push(batch.tokenIds[i]);
    },
    end: (end: InferenceEnd) => void ends.push(end),
  };
  const request = { id: `req-${seed}`, promptTokenIds: Int32Array.from({ length: 10 }, (_, i) => i), sampling: { seedLo: seed } as never, stop: { maxTokens } as never, choices, deadlineMs: 20_000, cacheSalt: '', priority: 0, routing: {}, traceparent: '' };
  const run = new RequestRun(world.host, request, sink);
  run.start();
  return { run, tokens, ends, seed, maxTokens };
}

const expected = ({ seed, maxTokens, tokens }: Told): number[][] => tokens.map((_, choice) => Array.from({ length: maxTokens }, (__, i) => draw(seed, choice, i)));

/** Kills, stops and drains workers while requests run; every worker that goes is followed by a new one of its name. */
function disturb(world: World, pools: Pools, live: FakeWorker[]): void {
  const { random, clock } = world;
  const at = random.below(live.length);
  const worker = live[at];
  const pool = pools[at];
  if (worker === undefined || pool === undefined || worker.state !== 'running' || worker.isDraining) return;
  const replace = (): void => {
    world.leave(worker);
    clock.setTimer(random.below(300), () => (live[at] = world.join(...pool)));
  };
  const dice = random.below(4);
  if (dice === 0) {
    worker.kill();
    clock.setTimer(random.below(200), replace);
  } else if (dice === 1) {
    worker.stop();
    clock.setTimer(50 + random.below(600), () => worker.resume());
  } else if (dice === 2) {
    worker.isDraining = true;
    clock.setTimer(random.below(100), replace);
    clock.setTimer(3_000, () => worker.kill());
  } else {
    for (const stream of [...worker.streams].slice(0, 2)) stream.lose();
  }
}

function live(seed: number, pools: Pools, sabotage: FakeCluster['sabotage'] = 'none') {
  const world = build(seed);
  world.cluster.sabotage = sabotage;
  const workers = pools.map((pool) => world.join(...pool));
  const told: Told[] = [];
  for (let i = 0; i < REQUESTS; i++) {
    const requestSeed = seed * 100 + i;
    world.clock.setTimer(world.random.below(200), () => void told.push(start(world, requestSeed, 1 + world.random.below(3), 2 + world.random.below(20))));
  }
  for (let i = 0; i < 6; i++) world.clock.setTimer(world.random.below(600), () => disturb(world, pools, workers));
  world.clock.setTimer(world.random.below(400), () => told[0]?.run.cancel());
  world.clock.advance(25_000);
  return { world, told };
}

const aggregated: Pools = ['a/0', 'a/1', 'a/2'].map((name) => [name, 'both']);
const split: Pools = [['p/0', 'prefill'], ['p/1', 'prefill'], ['d/0', 'decode'], ['d/1', 'decode']];

describe('requests in a cluster that falls apart', () => {
  for (const [name, pools] of [['aggregated', aggregated], ['disaggregated', split]] as const) {
    it(`end once, with the tokens of an undisturbed run, and leave nothing behind (${name}, ${HISTORIES} histories, seeds 1 to ${HISTORIES})`, () => {
      const seen = { finished: 0, cancelled: 0, failed: [] as string[], migrations: 0, reattached: 0, inhibited: 0, returned: 0, choiceMoves: 0 };
      for (let seed = 1; seed <= HISTORIES; seed++) {
        const { world, told } = live(seed, pools);
        const { clock, cluster, router, metrics, host } = world;
        for (const one of told) {
          expect(one.ends, `seed ${seed}, request ${one.seed}`).toHaveLength(1);
          const end = one.ends[0];
          if (end?.type === 'finished') {
            expect(one.tokens, `seed ${seed}, request ${one.seed}`).toEqual(expected(one));
            seen.finished++;
          } else if (end?.type === 'failed') seen.failed.push(`${seed}/${one.seed}: ${end.error.code}: ${end.error.message}`);
          else seen.cancelled++;
          // Whatever was delivered before a failure was right as well.
          const whole = expected(one);
          one.tokens.forEach((tokens, choice) => expect(tokens).toEqual(whole[choice]?.slice(0, tokens.length)));
          seen.choiceMoves += host.records.get(`req-${one.seed}`)?.moves.filter(({ choice }) => choice !== undefined).length ?? 0;
        }
        for (const worker of cluster.workers.values()) worker.expire();
        expect(cluster.complaints, `seed ${seed}`).toEqual([]);
        expect({ streams: cluster.streams.size, leases: cluster.leases, waiting: world.waitingRoom.size, out: world.inhibitions.size, timers: clock.pendingTimers }, `seed ${seed}`).toEqual({ streams: 0, leases: 0, waiting: 0, out: 0, timers: 0 });
        for (const { instanceId } of router.table.records()) {
          expect(router.table.load(router.table.slotOf(instanceId) ?? -1), `seed ${seed}, ${instanceId}`).toEqual({ requests: 0, prefillTokens: 0, blocks: 0 });
        }
        seen.migrations += metrics.total('armature_migrations_total');
        seen.reattached += metrics.total('armature_decode_reattached_total');
        seen.inhibited += metrics.total('inhibited');
        seen.returned += metrics.total('returned');
      }
      expect(seen.failed).toEqual([]); // every lost worker is followed by another within the wait
      expect(seen.migrations).toBeGreaterThan(HISTORIES);
      expect(seen.inhibited).toBeGreaterThan(HISTORIES / 2);
      expect(seen.returned).toBeGreaterThan(HISTORIES / 10);
      expect(seen.choiceMoves).toBeGreaterThan(HISTORIES / 4);
      expect(seen.cancelled).toBeGreaterThan(HISTORIES / 10);
      if (pools === split) expect(seen.reattached).toBeGreaterThan(HISTORIES / 20);
    }, 120_000);
  }

  it('rolling restarts of every worker under load, twice: nobody fails and nobody starts again, whatever the limit of migrations', () => {
    for (const pools of [aggregated, split]) {
      const world = build(77, 0);
      const { clock, random } = world;
      const workers = pools.map((pool) => world.join(...pool));
      const told: Told[] = [];
      for (let i = 0; i < 400; i++) clock.setTimer(i * 10, () => void told.push(start(world, i, 1 + random.below(2), 2 + random.below(30))));
      for (let i = 0; i < 2 * pools.length; i++) {
        clock.setTimer(200 + i * 400, () => {
          const at = i % pools.length;
          const [old, pool] = [workers[at]!, pools[at]!];
          old.isDraining = true;
          clock.setTimer(30, () => world.leave(old)); // the news travels, and requests are refused meanwhile
          clock.setTimer(100, () => (workers[at] = world.join(...pool)));
          clock.setTimer(2_000, () => old.kill()); // by then it has answered what it had
        });
      }
      clock.advance(12_000);
      expect(told).toHaveLength(400);
      expect(told.filter(({ ends }) => ends.length !== 1 || ends[0]?.type !== 'finished').map(({ seed, ends }) => [seed, ends])).toEqual([]);
      for (const one of told) expect(one.tokens).toEqual(expected(one));
      expect(told.filter(({ seed }) => (world.host.records.get(`req-${seed}`)?.moves ?? []).length > 0).length).toBeGreaterThan(0);
      expect({ streams: world.cluster.streams.size, waiting: world.waitingRoom.size }).toEqual({ streams: 0, waiting: 0 });
    }
  }, 60_000);

  it('sabotage: a worker that ignores the choice number, or the output so far, is seen', () => {
    for (const sabotage of ['no-choice', 'no-output'] as const) {
      let wrong = 0;
      for (let seed = 1; seed <= 40; seed++) {
        const { told, world } = live(seed, aggregated, sabotage);
        wrong += world.cluster.complaints.length;
        for (const one of told) if (one.ends[0]?.type === 'finished' && JSON.stringify(one.tokens) !== JSON.stringify(expected(one))) wrong++;
      }
      expect(wrong, sabotage).toBeGreaterThan(0);
    }
  }, 60_000);
});
