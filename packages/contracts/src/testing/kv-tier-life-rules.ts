import assert from 'node:assert/strict';
import { isMemoryTier, KvBlockStatus } from '../kv-tier.ts';
import type { KvBlockBatch, KvMemoryTier } from '../kv-tier.ts';
import { range } from './kv-tier-rules.ts';
import { contentOf, equal, hashes, hashOf, key, SuiteRandom, SuiteTierMemory, within } from './kv-tier-session.ts';
import type { Running, TierSession } from './kv-tier-session.ts';
import type { TierSuite } from './kv-tier.ts';
import type { ContractRule } from './runner.ts';

const { Done, Present, Missing, Refused, Failed } = KvBlockStatus;

/** Operations that are cancelled, many, bad, or still running at the end. */
export function lifeRules(suite: TierSuite): ContractRule[] {
  return [
    { name: 'a cancelled operation ends once, and no byte changes after that', run: () => cancels(suite) },
    { name: 'a thousand operations at once all end', run: suite.withTier({}, thousand) },
    { name: 'bad rows end as a status, never as an exception, and do not harm good ones', run: suite.withTier({}, badRows) },
    { name: 'close ends what runs, answers what comes later, and may be called again', run: suite.withTier({}, closes) },
    { name: 'probe answers once, cancelled or not, and knows at least what match does', run: suite.withTier({}, probes) },
    { name: 'a memory tier: allocate, register, acquire, release in place', run: suite.withTier({}, memoryTier) },
  ];
}

/** Of tiers whose content outlives them. */
export function reopenRules(suite: TierSuite): ContractRule[] {
  return [
    { name: 'reopened: everything is still there', run: () => reopens(suite) },
    { name: 'reopened by another model or layout: nothing is given out', run: () => foreign(suite) },
  ];
}

/** A few turns of the event loop, for what should not happen any more. */
async function turns(): Promise<void> {
  for (let i = 0; i < 8; i++) await new Promise((resolve) => setImmediate(resolve));
}

async function cancels(suite: TierSuite): Promise<void> {
  for (let round = 0; round < 6; round++) {
    const seed = suite.seed + 200 + round;
    await suite.withTier({}, async (it) => {
      const random = new SuiteRandom(seed);
      const ids = range(1, Math.min(8, it.store.capacityBlocks));
      await it.storeRows(ids);
      it.mover.isHeld = random.below(2) === 0;
      const load = it.beginLoad(ids);
      const store = it.beginStore(range(101, 4));
      for (let i = random.below(4); i > 0; i--) await turns();
      load.operation.cancel();
      store.operation.cancel();
      load.operation.cancel();
      it.mover.letGo();
      await within(load.ended, 'a cancelled load');
      const after = load.memory.snapshot();
      await within(store.ended, 'a cancelled store');
      await turns();
      assert.ok(equal(load.memory.snapshot(), after), `seed ${seed}: a cancelled load went on writing after done`);
      it.checkLoaded(load);
      for (const [row, id] of store.ids.entries()) {
        const isHeld = it.heldOf([id]).length === 1;
        const wasRemoved = it.removed.some(({ hash }) => hash === key(...hashOf(id)));
        assert.equal(isHeld || wasRemoved, store.batch.statuses[row] === Done, `seed ${seed}: block ${id} of a cancelled store is matched though it was not Done, or the other way round`);
        if (isHeld) assert.deepEqual(await it.loadRows([id]), [Done]);
      }
      for (const status of [...load.batch.statuses, ...store.batch.statuses]) assert.ok(status <= KvBlockStatus.Canceled, `seed ${seed}: a row of a cancelled operation has no status`);
    })();
  }
}

async function thousand(it: TierSession): Promise<void> {
  const memory = new SuiteTierMemory(it.mover, { blocks: 1000, blockBytes: it.blockBytes, pieces: 1, gapBytes: 0 });
  const running: Running[] = [];
  for (let i = 0; i < 1000; i++) {
    const id = 1 + (i % 500);
    const kind = i % 3 === 0 ? 'load' : 'store';
    if (kind === 'store') memory.fill(i, contentOf(id, it.blockBytes));
    running.push(it.begin(kind, oneRow(memory, i, id), [id], memory));
  }
  for (const { ended } of running) {
    const [status] = await within(ended, 'one of a thousand operations');
    assert.ok([Done, Present, Missing, Refused].some((other) => other === status), `one of a thousand operations ended with status ${status}`);
  }
  for (const each of running) it.checkLoaded(each);
  assert.ok(it.store.stats().heldBlocks <= it.store.capacityBlocks, 'the tier holds more than its capacity');
  for (const id of it.heldOf(range(1, 500))) assert.deepEqual(await it.loadRows([id]), [Done]);
}

function oneRow(memory: SuiteTierMemory, block: number, id: number): KvBlockBatch {
  const checksums = Int32Array.of(Math.imul(id, 0x27d4eb2f), ~id);
  return { count: 1, hashes: hashes([id]), parents: new Int32Array(2), checksums, tenant: 0, memory: memory.memory, blocks: Int32Array.of(block), statuses: new Uint8Array(1).fill(255) };
}

async function badRows(it: TierSession): Promise<void> {
  await it.storeRows([1, 2]);
  const memory = new SuiteTierMemory(it.mover, { blocks: 4, blockBytes: it.blockBytes, pieces: 1, gapBytes: 0 });
  memory.fill(0, contentOf(7, it.blockBytes));
  const batchOf = (ids: readonly number[], blocks: readonly number[], rest: Partial<KvBlockBatch> = {}): KvBlockBatch => ({
    count: ids.length,
    hashes: hashes(ids),
    parents: new Int32Array(2 * ids.length),
    checksums: Int32Array.from(ids.flatMap((id) => [Math.imul(id, 0x27d4eb2f), ~id])),
    tenant: 0,
    memory: memory.memory,
    blocks: Int32Array.from(blocks),
    statuses: new Uint8Array(ids.length).fill(255),
    ...rest,
  });
  const end = async (kind: 'store' | 'load', batch: KvBlockBatch, ids: readonly number[]): Promise<number[]> => [...(await within(it.begin(kind, batch, ids, memory).ended, 'an operation with bad rows'))];
  const stored = await end('store', batchOf([7, 8, 9], [0, -1, 4]), [7, 8, 9]);
  assert.deepEqual(stored, [Done, Failed, Failed], 'a block outside the memory of its batch');
  const loaded = await end('load', batchOf([1, 2], [1, 77]), [1, 2]);
  assert.deepEqual(loaded, [Done, Failed]);
  assert.ok(equal(memory.read(1), contentOf(1, it.blockBytes)));
  // Blocks of another size: no row of it can be right.
  const half = new SuiteTierMemory(it.mover, { blocks: 2, blockBytes: it.blockBytes / 2, pieces: 1, gapBytes: 0 });
  assert.deepEqual(await end('store', batchOf([11, 12], [0, 1], { memory: half.memory }), [11, 12]), [Failed, Failed]);
  assert.deepEqual(await end('load', batchOf([1], [0], { memory: half.memory }), []), [Failed]);
  const [tenant] = await end('store', batchOf([13], [0], { tenant: -1 }), [13]);
  assert.ok(tenant === Refused || tenant === Failed, `a tenant of -1 ended with status ${tenant}`);
  assert.equal(it.store.match(hashes([1]), 5), 0);
  it.store.touch(hashes([99]), 0, 1);
  assert.deepEqual(it.heldOf([1, 2, 7, 8, 9, 11, 12, 13]), [1, 2, 7]);
}

async function closes(it: TierSession): Promise<void> {
  const ids = range(1, Math.min(8, it.store.capacityBlocks));
  await it.storeRows(ids);
  const running = [it.beginLoad(ids), it.beginStore(range(101, 4)), it.beginLoad([1]), it.beginStore([201])];
  await within(it.store.close(), 'close() with operations running');
  for (const [i, { dones }] of running.entries()) assert.equal(dones(), 1, `close() resolved before operation ${i} had ended`);
  for (const load of [running[0], running[2]]) it.checkLoaded(load);
  await within(it.store.close(), 'close() again');
  const [store, load] = [it.beginStore([301]), it.beginLoad([1])];
  assert.notEqual((await within(store.ended, 'a store after close'))[0], Done);
  assert.notEqual((await within(load.ended, 'a load after close'))[0], Done);
}

async function probes(it: TierSession): Promise<void> {
  if (it.store.probe === undefined) return;
  await it.storeRows([1, 2, 4]);
  assert.equal(await it.knownOf([1, 2, 3, 4]), 2);
  assert.equal(await it.knownOf([9]), 0);
  assert.equal(await it.knownOf([]), 0);
  let answers = 0;
  const ended = new Promise<number>((resolve) => {
    it.store.probe!(hashes([1, 2]), 0, 1000, (blocks) => {
      answers++;
      resolve(blocks);
    }).cancel();
  });
  assert.ok([0, 1, 2].includes(await within(ended, 'a cancelled probe')));
  await turns();
  assert.equal(answers, 1, `a cancelled probe answered ${answers} times`);
}

async function memoryTier(it: TierSession): Promise<void> {
  if (!isMemoryTier(it.store)) return;
  const tier: KvMemoryTier = it.store;
  const { memory, capacityBlocks } = tier;
  const count = Math.min(4, capacityBlocks);
  const places = new Int32Array(capacityBlocks + 1);
  assert.equal(tier.allocate(0, count, places), count);
  assert.equal(new Set(places.subarray(0, count)).size, count, 'a block was given twice');
  const ids = range(1, count);
  ids.forEach((id, row) => memory.bytes!.set(contentOf(id, it.blockBytes), places[row] * memory.blockStrideBytes));
  assert.deepEqual(it.heldOf(ids), [], 'a mutable block is matched');
  const batch: KvBlockBatch = {
    ...oneRow({ memory } as SuiteTierMemory, 0, 1),
    count,
    hashes: hashes(ids),
    parents: Int32Array.from([0, 0, ...ids.slice(1).flatMap((id) => hashOf(id - 1))]),
    checksums: Int32Array.from(ids.flatMap((id) => [Math.imul(id, 0x27d4eb2f), ~id])),
    blocks: places.slice(0, count),
    statuses: new Uint8Array(count).fill(255),
  };
  tier.register(batch);
  assert.deepEqual([...batch.statuses], ids.map(() => Done));
  assert.deepEqual(await it.loadRows(ids), ids.map(() => Done));
  const pinned = new Int32Array(count);
  assert.equal(tier.acquire(hashes([...ids, 99]), 1, count, pinned), count - 1);
  assert.deepEqual([...pinned.subarray(0, count - 1)], [...places.subarray(1, count)]);
  const record = new Int32Array(6);
  assert.ok(tier.record(places[1], record));
  assert.deepEqual([...record], [...hashOf(2), ...hashOf(1), Math.imul(2, 0x27d4eb2f), ~2].map((word) => word | 0));
  // Pinned blocks stay, whatever else is wanted.
  assert.equal(tier.stats().pinnedBlocks, count - 1);
  const rest = tier.allocate(0, capacityBlocks + 1, places);
  assert.equal(rest, capacityBlocks - (count - 1), 'pinned blocks were given out, or unpinned ones were not');
  assert.deepEqual(it.heldOf(ids), ids.slice(1));
  assert.equal(tier.record(places[0], record), false);
  tier.free(places, rest);
  tier.release(pinned, count - 1);
  assert.equal(tier.stats().pinnedBlocks, 0);
  // A second copy of a held hash is given up.
  assert.equal(tier.allocate(0, 1, places), 1);
  const again = { ...batch, count: 1, hashes: hashes([2]), blocks: places.slice(0, 1), statuses: new Uint8Array(1) };
  tier.register(again);
  assert.equal(again.statuses[0], Present);
}

async function reopens(suite: TierSuite): Promise<void> {
  await suite.withFolder(async (folder) => {
    const ids = range(1, 6);
    const parents = ids.map((id) => id - 1);
    await suite.withTier({ folder }, async (it) => {
      assert.deepEqual(await it.storeRows(ids, { parents }), ids.map(() => Done));
      it.store.remove(hashes([6]), 1, 'removed');
    })();
    for (let life = 0; life < 2; life++) {
      await suite.withTier({ folder }, async (it) => {
        assert.equal(await it.knownOf(ids), 5, 'blocks are not matched after reopening, or a removed one is');
        assert.deepEqual(await it.loadRows(ids.slice(0, 5)), ids.slice(0, 5).map(() => Done));
        // A shared medium is not listed when it is opened.
        if (it.store.probe === undefined) {
          assert.equal(it.store.stats().heldBlocks, 5);
          assert.deepEqual(it.records(), ids.slice(0, 5).map((id) => ({ hash: key(...hashOf(id)), parent: id === 1 ? key(0, 0) : key(...hashOf(id - 1)) })));
        }
        assert.deepEqual(await it.storeRows([1]), [Present]);
      })();
    }
  });
}

async function foreign(suite: TierSuite): Promise<void> {
  for (const fingerprints of [{ model: 'model-2' }, { layout: 'layout-2' }]) {
    await suite.withFolder(async (folder) => {
      const ids = range(1, 4);
      await suite.withTier({ folder }, async (it) => void (await it.storeRows(ids)))();
      await suite.withTier({ folder, fingerprints }, async (it) => {
        assert.equal(await it.knownOf(ids), 0, `blocks of another ${Object.keys(fingerprints)[0]} are matched`);
        assert.ok((await it.loadRows(ids)).every((status) => status === Missing || status === KvBlockStatus.Foreign), 'foreign blocks were given out');
        assert.deepEqual(await it.storeRows(ids), ids.map(() => Done), 'foreign blocks stand in the way of own ones');
        assert.deepEqual(await it.loadRows(ids), ids.map(() => Done));
      })();
    });
  }
}
