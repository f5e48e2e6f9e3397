import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { TransferStatus } from '../transfer-transport.ts';
import type { ContractRule } from './runner.ts';
import { leftOut } from './transfer-data-rules.ts';
import type { TransferSuite } from './transfer-data-rules.ts';
import { FakeTransferHost, GUARD, isFilledWith, pause, plan, until } from './transfer-hosts.ts';
import type { Pair, Row, SuiteSegment } from './transfer-hosts.ts';

const SELF = 'the agent is its own peer';

function whole(segment: SuiteSegment, length = segment.lengthBytes): Row[] {
  return [{ segment: segment.id, offset: 0, length }];
}

function fill(segment: SuiteSegment, value: number): void {
  if (segment.kind === 'dram') segment.bytes.fill(value);
  else segment.store(new Uint8Array(segment.lengthBytes).fill(value));
}

async function refusals(it: Pair): Promise<void> {
  const isSelf = it.transport.supports.selfOnly === true;
  const here = it.here(1000);
  const there = it.there(1000);
  const secret = it.there(1000, false, isSelf ? 'open' : 'closed');
  const readable = it.there(1000, false, isSelf ? 'open' : 'read');
  [there, secret, readable].forEach((segment, i) => fill(segment, i + 1));
  const at = (segment: number, offset = 0): Row => ({ segment, offset, length: 100 });
  const both = ['read', 'write'] as const;
  const cases: [Row, TransferStatus, readonly ('read' | 'write')[]][] = [
    [at(there.id, 901), TransferStatus.InvalidDescriptor, both],
    [at(there.id, 2 ** 40), TransferStatus.InvalidDescriptor, both],
    [at(99), TransferStatus.NotFound, both],
  ];
  if (isSelf) leftOut(it.transport, 'grants', SELF);
  else cases.push([at(secret.id), TransferStatus.NotAllowed, both], [at(readable.id), TransferStatus.NotAllowed, ['write']]);
  for (const [bad, status, ops] of cases) {
    for (const op of ops) {
      const found = await it.run(plan(op, it.peer, [at(here.id), at(here.id, 100)], [at(there.id), bad]), Uint8Array.of(1));
      assert.equal(found, status, `${op} of ${JSON.stringify(bad)}`);
      const untouched = isFilledWith(here.load(), GUARD) && [there, secret, readable].every((segment, i) => isFilledWith(segment.load(), i + 1));
      assert.ok(untouched, `a refused ${op} changed bytes`);
    }
  }
  await pause(5);
  assert.equal(it.b.notifications.length, 0, 'a refused transfer was notified');
  if (!isSelf) assert.equal(await it.run(plan('read', it.peer, [at(here.id)], [at(readable.id)])), TransferStatus.Done, 'read of a readable segment');
  assert.ok((await it.run(plan('read', 'nobody', [], []))) < 0, 'a transfer with an unknown peer did not fail');
}

/** A kind that the transport does not name is refused on both sides, before a byte moves. */
async function foreignKinds(it: Pair): Promise<void> {
  const kind = (['object', 'file', 'device'] as const).find((other) => !it.transport.supports.kinds.includes(other));
  if (kind === undefined) return leftOut(it.transport, 'foreign memory kinds', 'it serves all of them');
  const here = it.here(100);
  const location = { object: { type: 'object', key: 'k' }, file: { type: 'file', path: '/nonexistent', fd: -1, direct: false }, device: { type: 'device', ordinal: 0, address: 0n } } as const;
  const foreign = it.b.addMemory({ kind, bytes: new Uint8Array(0), location: location[kind] }, 100);
  for (const op of ['read', 'write'] as const) {
    const transfer = plan(op, it.peer, whole(here), [{ segment: foreign.id, offset: 0, length: 100 }]);
    assert.notEqual(it.endpointA.canMove?.(transfer), true, `canMove of ${kind} memory`);
    const status = await it.run(transfer);
    assert.ok(status < 0, `${op} of ${kind} memory ended with ${status}`);
    assert.ok(isFilledWith(here.load(), GUARD), 'local bytes changed');
  }
}

async function peerLoss(it: Pair): Promise<void> {
  if (it.transport.supports.selfOnly === true) return leftOut(it.transport, 'peer loss', SELF);
  const here = it.here(8 << 20);
  const there = it.there(8 << 20);
  const transfer = plan('read', it.peer, whole(here), whole(there));
  assert.equal(await it.run(transfer), TransferStatus.Done);
  const running = Array.from({ length: 8 }, () => it.run(transfer));
  await it.endpointB.close();
  for (const status of await Promise.all(running)) assert.ok(status === TransferStatus.Done || status === TransferStatus.RemoteDisconnected, `status ${status}`);
  assert.equal(await it.run(transfer), TransferStatus.RemoteDisconnected);
  await until('disconnected', () => it.a.lost.length > 0);
  await pause(5);
  assert.deepEqual(it.a.lost, ['b'], 'a loss is told once');
}

async function restart(it: Pair): Promise<void> {
  if (it.transport.supports.selfOnly === true) return leftOut(it.transport, 'restart of the peer', SELF);
  const here = it.here(5000);
  fill(it.there(5000), 1);
  const transfer = plan('read', it.peer, whole(here), [{ segment: 1, offset: 0, length: 5000 }]);
  assert.equal(await it.run(transfer), TransferStatus.Done);
  const again = await it.restartOwner();
  try {
    fill(it.addTo(again, 5000), 2);
    // The same plan: segment 1 is now the other life's.
    assert.equal(await it.run(transfer), TransferStatus.Done, 'transfers run again after connect');
    assert.ok(isFilledWith(here.load(), 2), 'bytes of the earlier life');
    assert.ok(!it.a.lost.includes('b') || it.a.lost.length === 1);
  } finally {
    await it.endpointB.close();
    again.releaseMemory();
  }
}

async function cancelRead(it: Pair): Promise<void> {
  const here = it.here(32 << 20);
  const there = it.there(32 << 20, true);
  fill(there, 3);
  for (let round = 0; round < 12; round++) {
    fill(here, 1);
    const { token, ended } = it.start(plan('read', it.peer, whole(here), whole(there)), Uint8Array.of(1));
    if (round % 3 > 0) await pause(round);
    it.endpointA.cancel(token);
    const status = await ended;
    assert.ok(status === TransferStatus.Canceled || status === TransferStatus.Done, `status ${status}`);
    if (status === TransferStatus.Canceled) {
      fill(here, 9);
      await pause(20);
      assert.ok(isFilledWith(here.load(), 9), `local memory changed after the terminal status, round ${round}`);
      assert.equal(it.b.notifications.length, 0, 'a cancelled transfer was notified');
    } else assert.ok(isFilledWith(here.load(), 3), `Done without all bytes, round ${round}`);
    it.endpointA.cancel(token);
    await pause(1);
    it.b.notifications.length = 0;
  }
  it.endpointA.cancel(123_456);
  assert.equal(await it.run(plan('write', it.peer, whole(here, 10), whole(there, 10))), TransferStatus.Done, 'the path works after cancels');
}

async function cancelWrite(it: Pair): Promise<void> {
  const here = it.here(16 << 20);
  const there = it.there(16 << 20);
  for (let round = 0; round < 6; round++) {
    const { token, ended } = it.start(plan('write', it.peer, whole(here), whole(there)));
    if (round % 2 > 0) await pause(round);
    it.endpointA.cancel(token);
    const status = await ended;
    assert.ok(status === TransferStatus.Canceled || status === TransferStatus.Done, `status ${status}`);
    fill(there, 9);
    await pause(15);
    assert.ok(isFilledWith(there.load(), 9), `remote memory changed after the terminal status, round ${round}`);
  }
}

async function releasedInFlight(it: Pair): Promise<void> {
  for (const op of ['read', 'write'] as const) {
    const here = it.here(8 << 20);
    const there = it.there(8 << 20);
    const other = it.here(1 << 20);
    const kept = it.there(1 << 20);
    fill(kept, 5);
    const running = Array.from({ length: 4 }, () => it.run(plan(op, it.peer, whole(here), whole(there))));
    const unharmed = it.run(plan('read', it.peer, whole(other), whole(kept)));
    it.releaseThere(there);
    for (const status of await Promise.all(running)) assert.ok(status === TransferStatus.Done || status === TransferStatus.NotFound, `${op} ended with ${status}`);
    assert.equal(await unharmed, TransferStatus.Done, 'a transfer of another segment failed');
    assert.ok(isFilledWith(other.load(), 5));
  }
}

async function releasedBefore(it: Pair): Promise<void> {
  const here = it.here(1000);
  const there = it.there(1000);
  assert.equal(await it.run(plan('read', it.peer, whole(here), whole(there))), TransferStatus.Done);
  fill(here, 1);
  it.releaseThere(there);
  for (const op of ['read', 'write'] as const) assert.equal(await it.run(plan(op, it.peer, whole(here), whole(there))), TransferStatus.NotFound, op);
  assert.ok(isFilledWith(here.load(), 1));
}

function closing(open: () => Promise<Pair>) {
  return async (): Promise<void> => {
    const it = await open();
    const transfer = plan('read', it.peer, whole(it.here(8 << 20)), whole(it.there(8 << 20)));
    const running = it.run(transfer);
    const [, status] = await Promise.all([Promise.all([it.endpointA.close(), it.endpointA.close()]), running]);
    assert.ok(status <= 0, `status ${status} after close`);
    assert.ok((await it.run(transfer)) < 0, 'a closed endpoint took a transfer');
    await it.close();
    await it.close();
  };
}

/** What a process can run out of. Files are counted where the system shows them. */
function openHandles(): number {
  let files = 0;
  try {
    files = readdirSync('/proc/self/fd').length;
  } catch {
    // no /proc: the event loop's handles are counted alone
  }
  return files + process.getActiveResourcesInfo().filter((name) => !/Immediate|TickObject|Promise/.test(name)).length;
}

function handles({ create, open, opens }: TransferSuite) {
  return async (): Promise<void> => {
    const transport = await create();
    await transport.start?.();
    const cycle = async (times: number): Promise<void> => {
      for (let i = 0; i < times; i++) await (await transport.open(new FakeTransferHost(`h${i}`))).close();
    };
    await cycle(10);
    await pause(5);
    const before = openHandles();
    await cycle(opens);
    await pause(20);
    assert.ok(openHandles() <= before + 5, `${openHandles() - before} handles more after ${opens} opens`);
    await transport.close?.();
    const it = await open();
    assert.equal(await it.run(plan('read', it.peer, whole(it.here(64)), whole(it.there(64)))), TransferStatus.Done);
    await it.close();
  };
}

export function failureRules(suite: TransferSuite): ContractRule[] {
  const { withPair, open } = suite;
  return [
    { name: 'failure: descriptors outside, unknown or not granted are refused', run: withPair(refusals) },
    { name: 'failure: memory of a kind that it does not serve is refused', run: withPair(foreignKinds) },
    { name: 'failure: peer loss becomes a status', run: withPair(peerLoss) },
    { name: 'failure: a restarted peer works after connect', run: withPair(restart) },
    { name: 'failure: no local byte changes after a cancelled read has ended', run: withPair(cancelRead) },
    { name: 'failure: no remote byte changes after a cancelled write has ended', run: withPair(cancelWrite) },
    { name: 'failure: a segment released in flight harms no other transfer', run: withPair(releasedInFlight) },
    { name: 'failure: a released segment is not found', run: withPair(releasedBefore) },
    { name: 'lifecycle: close ends transfers and is idempotent', run: closing(open) },
    { name: `lifecycle: ${suite.opens} opens and closes`, run: handles(suite) },
  ];
}
