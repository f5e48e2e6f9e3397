import { TransferStatus } from '@armature/contracts';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { expect, test } from 'vitest';
import { deviceMemory } from '../device/device-memory.ts';
import type { KvFetchResult } from './face.ts';
import { FakeEngine, promptHashes } from './fake-engine.test.support.ts';
import { FetchJob } from './fetch-job.ts';
import { FetchJournal } from './fetch-journal.ts';
import type { ManagerParts } from './parts.ts';
import { SourceCosts } from './source-cost.ts';
import { Tenants } from './tenants.ts';
import { TurnChecks } from './turn-checks.ts';

/** A job over a mover whose copies end when the test says so, as those of a device may. */
function rig(): { clock: ManualClock; engine: FakeEngine; results: KvFetchResult[]; copies: ((status: TransferStatus) => void)[]; pins: () => number; job: FetchJob } {
  const clock = new ManualClock();
  const engine = new FakeEngine({ clock, blocks: 16 });
  const copies: ((status: TransferStatus) => void)[] = [];
  const results: KvFetchResult[] = [];
  let pins = 0;
  const store = {
    acquire: (_hashes: Int32Array, _from: number, count: number) => {
      pins += count;
      return count;
    },
    release: (_blocks: Int32Array, count: number) => void (pins -= count),
    record: () => true,
  };
  const parts = {
    clock,
    kv: engine,
    blockSize: 4,
    blockBytes: 960,
    device: deviceMemory(engine.arena(), 1),
    host: { store },
    config: { fetchDeadlineMs: 1_000 },
    tenants: new Tenants({}),
    costs: new SourceCosts(),
    checks: new TurnChecks(clock, { checksums: (_memory, _blocks, count, _hashes, out) => void out.fill(0, 0, 2 * count) }, 960),
    mover: { copy: (...[, , , , , done]: Parameters<ManagerParts['mover']['copy']>) => (copies.push(done), { cancel: () => undefined }) },
  } as unknown as ManagerParts;
  const hashes = promptHashes(1, 8);
  const candidate = { source: 'host', cost: parts.costs.host, held: () => 8 } as const;
  const job = new FetchJob({
    parts,
    loads: undefined as never,
    request: { id: 'r', sequenceHashes: hashes, promptTokens: 33, cacheSalt: '', queuedTokens: 0, deadlineMs: 1_000, peers: [] },
    batches: [{ candidate, from: 0, to: 4, landsMs: 1 }, { candidate, from: 4, to: 8, landsMs: 2 }],
    journal: new FetchJournal({ firstRow: 0, rows: 8, nowMs: () => clock.nowMs(), computeMs: (row) => 10 * (8 - row), declined: undefined }),
    sourceOf: () => undefined,
    waitLimitMs: (row) => 10 + row,
    startMs: 0,
    done: (result) => results.push(result),
  });
  job.start();
  return { clock, engine, results, copies, pins: () => pins, job };
}

test('a copy that does not stop: the reservation stays in quarantine until it has ended, the request goes on', async () => {
  const { clock, engine, results, copies, pins } = rig();
  copies[0](TransferStatus.Done); // four blocks have landed; the next copy hangs
  await clock.elapse(13);
  expect([results.length, engine.counts().reservations, pins()]).toEqual([0, 1, 4]);
  await clock.elapse(5);
  expect(results).toMatchObject([{ reservation: undefined, readyTokens: 0, record: { onboardedBlocks: 4 } }]);
  expect(engine.match(promptHashes(1, 8))).toBe(4); // what landed is in the prefix cache
  expect(engine.counts()).toEqual({ leases: 0, reservations: 1, quarantined: 1 });
  await clock.elapse(60_000);
  expect([engine.counts().reservations, engine.pool.usedBlocks, pins()]).toEqual([1, 8, 4]);
  copies[1](TransferStatus.TimedOut);
  expect([engine.counts().reservations, engine.pool.usedBlocks, pins(), results.length]).toEqual([0, 0, 0, 1]);
});

test('cancelled while a copy runs: the blocks go back when it has ended, not before', async () => {
  const { engine, results, copies, pins, job } = rig();
  job.cancel();
  job.cancel();
  expect([results.length, engine.counts().reservations, pins()]).toEqual([0, 1, 4]);
  copies[0](TransferStatus.Canceled);
  expect(results).toMatchObject([{ reservation: undefined, readyTokens: 0 }]);
  expect([engine.counts().reservations, engine.pool.usedBlocks, pins()]).toEqual([0, 0, 0]);
});

test('late while a copy runs that then stops: what had landed is handed over', async () => {
  const { clock, engine, results, copies, pins } = rig();
  copies[0](TransferStatus.Done);
  await clock.elapse(15);
  copies[1](TransferStatus.Canceled);
  expect(results).toMatchObject([{ readyTokens: 16, record: { onboardedBlocks: 4, runs: [{ source: 'host', blocks: 4, outcome: 'done' }, { source: 'host', blocks: 4, outcome: 'late' }, { source: 'recompute', blocks: 4 }] } }]);
  engine.release(results[0].reservation!);
  expect([engine.counts().reservations, pins()]).toEqual([0, 0]);
});
