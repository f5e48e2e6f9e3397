import { expect, it } from 'vitest';
import { KvBlockStatus } from '@armature/contracts';
import type { Clock } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { s3Double } from './s3-double.test.support.ts';
import { batchOf, chain, configOf, hostOf, loaded, openStore, probed, rightRows, stored, until } from './testing.test.support.ts';

const BYTES = 4096;

/** Of a process that has run for a day. */
const oldClock: Clock = new Proxy(realClock, {
  get: (clock, name) => (name === 'nowMs' ? () => clock.nowMs() + 86_400_000 : (clock[name as keyof Clock] as unknown)),
});

it.each([
  ['began just now', realClock],
  ['has run for a day', oldClock],
])('deadlines of load and probe are milliseconds from now: a process that %s', async (_name, clock) => {
  const { endpoint } = await s3Double();
  const hashes = chain(1, 32);
  await stored(await openStore(configOf(endpoint), hostOf(BYTES)), batchOf(hashes, 0, 32, BYTES, true));
  const host = hostOf(BYTES, { clock });
  const store = await openStore(configOf(endpoint), host);
  expect(await probed(store, hashes, 0, 10_000)).toBe(32);
  const batch = batchOf(hashes, 0, 32, BYTES, false);
  await loaded(store, batch, 10_000);
  expect([rightRows(batch, BYTES), host.problems]).toEqual([32, []]);
});

it('behind reads that hang, a load ends by its own deadline, and at once when it is cancelled', async () => {
  const { double, endpoint } = await s3Double();
  const hashes = chain(1, 32);
  await stored(await openStore(configOf(endpoint), hostOf(BYTES)), batchOf(hashes, 0, 32, BYTES, true));
  const store = await openStore(configOf(endpoint, { connections: 1, requestTimeoutMs: 60_000 }), hostOf(BYTES));
  expect(await probed(store, hashes)).toBe(32);
  double.fault = ({ method }) => (method === 'GET' ? 'hang' : undefined);
  const hanging: { cancel(): void }[] = [];
  const ended: string[] = [];
  const begin = (name: string, deadlineMs: number): Promise<unknown> =>
    loaded(store, batchOf(hashes, 0, 32, BYTES, false), deadlineMs, (operation) => hanging.push(operation)).then((statuses) => {
      ended.push(name);
      return [...new Set(statuses)];
    });
  const first = begin('hangs', 50_000);
  const cancelled = begin('cancelled', 50_000);
  expect(await begin('late', 50)).toEqual([KvBlockStatus.Failed]);
  hanging[1]!.cancel();
  expect(await cancelled).toEqual([KvBlockStatus.Canceled]);
  expect(ended).toEqual(['late', 'cancelled']);
  hanging[0]!.cancel();
  expect(await first).toEqual([KvBlockStatus.Canceled]);
  double.fault = () => undefined;
  const batch = batchOf(hashes, 0, 32, BYTES, false);
  await loaded(store, batch);
  expect([rightRows(batch, BYTES), store.stats().pinnedBlocks]).toEqual([32, 0]);
});

it('a call that waits for a connection ends by its deadline', async () => {
  const { double, endpoint } = await s3Double();
  const hashes = chain(1, 32);
  await stored(await openStore(configOf(endpoint), hostOf(BYTES)), batchOf(hashes, 0, 32, BYTES, true));
  const store = await openStore(configOf(endpoint, { connections: 1, requestTimeoutMs: 60_000, blocksPerObject: 4, closeTimeoutMs: 100 }), hostOf(BYTES));
  expect(await probed(store, hashes)).toBe(32);
  double.fault = ({ method }) => (method === 'PUT' ? 'hang' : undefined);
  const writing = { isOver: false };
  store.store(batchOf(chain(2, 4), 0, 4, BYTES, true), () => (writing.isOver = true));
  await until('it is being written', () => double.count('PUT') > 2);
  expect(await loaded(store, batchOf(hashes, 0, 32, BYTES, false), 50)).toEqual(Array(32).fill(KvBlockStatus.Failed));
  expect(writing.isOver).toBe(false);
});
