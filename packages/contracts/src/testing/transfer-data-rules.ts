import assert from 'node:assert/strict';
import { TransferStatus } from '../transfer-transport.ts';
import type { TransferTransport } from '../transfer-transport.ts';
import type { ContractRule } from './runner.ts';
import { expected, pause, plan, random, randomContent, randomLayout, shuffledPieces, until } from './transfer-hosts.ts';
import type { Pair, Row, SuiteSegment } from './transfer-hosts.ts';

/** What the rules of one transport share. */
export interface TransferSuite {
  create(): TransferTransport | Promise<TransferTransport>;
  open(): Promise<Pair>;
  withPair(body: (it: Pair) => Promise<void>): () => Promise<void>;
  readonly seed: number;
  readonly opens: number;
}

/** A part of a rule that this transport declares it does not support. Said on stdout: never silent. */
export function leftOut(transport: TransferTransport, what: string, why: string): void {
  process.stdout.write(`transfer-transport contract, ${transport.name}: ${what} left out, ${why}\n`);
}

const shape = async ({ transport, endpointA, endpointB, peer }: Pair): Promise<void> => {
  assert.equal(typeof transport.name, 'string');
  assert.equal(transport.unavailable(), undefined);
  assert.ok(transport.supports.kinds.length > 0);
  assert.ok(endpointA.canReach(endpointB.metadata()));
  assert.ok(!endpointA.canReach({}));
  assert.deepEqual(JSON.parse(JSON.stringify(endpointA.metadata())), endpointA.metadata());
  assert.equal(endpointA.estimateMicros('nobody', 1, 1), Infinity);
  assert.ok(Number.isFinite(endpointA.estimateMicros(peer, 1 << 20, 16)));
  await Promise.resolve();
};

/** Runs one layout in one direction and compares the whole target. */
async function moves(it: Pair, op: 'read' | 'write', rows: { target: Row[]; source: Row[] }, sides: { target: SuiteSegment; source: SuiteSegment }, label: string): Promise<void> {
  const want = expected(sides.target, rows, sides.source);
  const status = await it.run(op === 'read' ? plan('read', it.peer, rows.target, rows.source) : plan('write', it.peer, rows.source, rows.target));
  assert.equal(status, TransferStatus.Done, label);
  assert.ok(Buffer.compare(sides.target.load(), want) === 0, `bytes differ, ${label}`);
}

function randomBytes(seed: number) {
  return async (it: Pair): Promise<void> => {
    for (let round = 0; round < 24; round++) {
      const below = random(seed + round);
      const here = it.here(100_000 + below(400_000), below(2) === 1);
      const there = it.there(100_000 + below(400_000), below(2) === 1);
      here.store(randomContent(here.lengthBytes, below));
      there.store(randomContent(there.lengthBytes, below));
      const op = below(2) === 0 ? 'read' : 'write';
      const [target, source] = op === 'read' ? [here, there] : [there, here];
      await moves(it, op, randomLayout(below, target, source), { target, source }, `${op}, seed ${seed + round}`);
      it.a.assertGuards();
      it.b.assertGuards();
    }
  };
}

/** Around the widths of words, cache lines, sectors and pages. */
const ODD_LENGTHS = [0, 1, 2, 3, 5, 7, 8, 9, 15, 17, 31, 33, 63, 65, 0, 511, 513, 4095, 4097, 0];

function oddRows(seed: number) {
  return async (it: Pair): Promise<void> => {
    const below = random(seed);
    for (const op of ['read', 'write'] as const) {
      const here = it.here(40_001);
      const there = it.there(40_003, true);
      const [target, source] = op === 'read' ? [here, there] : [there, here];
      source.store(randomContent(source.lengthBytes, below));
      const rows: { target: Row[]; source: Row[] } = { target: [], source: [] };
      let at = 1;
      for (const length of ODD_LENGTHS) {
        rows.target.push({ segment: target.id, offset: at, length });
        rows.source.push({ segment: source.id, offset: 2 * at + 1, length });
        at += length + 1;
      }
      // Nothing at the very end is inside; the last byte is too.
      for (const length of [0, 1]) {
        rows.target.push({ segment: target.id, offset: target.lengthBytes - length, length });
        rows.source.push({ segment: source.id, offset: source.lengthBytes - length, length });
      }
      await moves(it, op, rows, { target, source }, `${op} of odd rows`);
    }
    assert.equal(await it.run(plan('read', it.peer, [], [])), TransferStatus.Done, 'an empty list');
    if (!it.transport.supports.notifications) return leftOut(it.transport, 'notification of an empty list', 'it has no notifications');
    assert.equal(await it.run(plan('write', it.peer, [], []), Uint8Array.of(4)), TransferStatus.Done);
    await until('notification of an empty list', () => it.b.notifications.length === 1);
    it.b.notifications.length = 0;
  };
}

function batches(seed: number) {
  return async (it: Pair): Promise<void> => {
    for (const op of ['read', 'write'] as const) {
      const below = random(seed);
      const here = it.here(4096 * 301);
      const there = it.there(4096 * 301);
      const [target, source] = op === 'read' ? [here, there] : [there, here];
      const rows = shuffledPieces(below, target, source, 301);
      const transfer = op === 'read' ? plan(op, it.peer, rows.target, rows.source) : plan(op, it.peer, rows.source, rows.target);
      // One plan, posted again with other bytes: nothing of an earlier post may be kept.
      for (let round = 0; round < 3; round++) {
        source.store(randomContent(source.lengthBytes, below));
        const want = expected(target, rows, source);
        assert.equal(await it.run(transfer), TransferStatus.Done, `${op}, round ${round}, seed ${seed}`);
        assert.ok(Buffer.compare(target.load(), want) === 0, `bytes differ, ${op}, round ${round}, seed ${seed}`);
      }
    }
  };
}

function manyAtOnce(seed: number) {
  return async (it: Pair): Promise<void> => {
    const below = random(seed);
    const here = it.here(64 * 4099);
    const there = it.there(64 * 4099, true);
    there.store(randomContent(there.lengthBytes, below));
    const piece = (segment: SuiteSegment, at: number): Row[] => [{ segment: segment.id, offset: at * 4099, length: 4099 }];
    const all = Array.from({ length: 64 }, (_, i) => it.run(plan('read', it.peer, piece(here, i), piece(there, 63 - i))));
    assert.deepEqual(new Set(await Promise.all(all)), new Set([TransferStatus.Done]), `seed ${seed}`);
    const [got, want] = [here.load(), there.load()];
    for (let i = 0; i < 64; i++) assert.ok(Buffer.compare(got.subarray(i * 4099, (i + 1) * 4099), want.subarray((63 - i) * 4099, (64 - i) * 4099)) === 0);
  };
}

function notifyAfterData(seed: number) {
  return async (it: Pair): Promise<void> => {
    if (!it.transport.supports.notifications) {
      assert.equal(it.endpointA.notify(it.peer, Uint8Array.of(9)), false, 'a transport without notifications takes one');
      return leftOut(it.transport, 'order of notification and data', 'it has no notifications');
    }
    const below = random(seed);
    for (let round = 0; round < 8; round++) {
      for (const op of ['read', 'write'] as const) {
        const length = 1 + below(3_000_000);
        const here = it.here(length);
        const there = it.there(length);
        const [target, source] = op === 'read' ? [here, there] : [there, here];
        source.store(new Uint8Array(length).fill(7));
        let sawData = false;
        it.b.onNotified = () => (sawData = Buffer.compare(target.load(), source.load()) === 0);
        const row = (segment: number): Row[] => [{ segment, offset: 0, length }];
        assert.equal(await it.run(plan(op, it.peer, row(here.id), row(there.id)), Uint8Array.of(round, 1, 2)), TransferStatus.Done);
        await until('notification', () => it.b.notifications.length === 1);
        assert.ok(sawData, `notification before the data (${op}, ${length} bytes)`);
        assert.deepEqual(it.b.notifications.pop(), { peer: 'a', payload: Uint8Array.of(round, 1, 2) });
      }
    }
    assert.ok(it.endpointA.notify(it.peer, Uint8Array.of(9)));
    await until('notification', () => it.b.notifications.length === 1);
    assert.equal(it.endpointA.notify('nobody', Uint8Array.of(9)), false);
    await pause(1);
  };
}

export function dataRules({ withPair, seed }: TransferSuite): ContractRule[] {
  return [
    { name: 'shape: name, abilities, metadata, estimates', run: withPair(shape) },
    { name: 'behaviour: byte equality over random layouts', run: withPair(randomBytes(seed)) },
    { name: 'behaviour: unaligned and zero-length descriptors', run: withPair(oddRows(seed)) },
    { name: 'behaviour: batches of 4,096 descriptors, one plan posted again', run: withPair(batches(seed)) },
    { name: 'behaviour: many transfers at once', run: withPair(manyAtOnce(seed)) },
    { name: 'behaviour: notification after the data', run: withPair(notifyAfterData(seed)) },
  ];
}
