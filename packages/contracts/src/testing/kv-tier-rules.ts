import assert from 'node:assert/strict';
import { isMemoryTier, KvBlockStatus } from '../kv-tier.ts';
import { contentOf, equal, hashes, hashOf, key, SuiteRandom } from './kv-tier-session.ts';
import type { TierSession } from './kv-tier-session.ts';
import type { TierSuite } from './kv-tier.ts';
import type { ContractRule } from './runner.ts';

const { Done, Present, Missing, Refused } = KvBlockStatus;

/** What a tier gives back of what it was given, and what it lets go. */
export function contentRules(suite: TierSuite): ContractRule[] {
  return [
    { name: 'an empty tier says so', run: suite.withTier({}, empty) },
    { name: 'store, match, load: the same bytes, checksums and lineage, for any block size and layout', run: () => roundTrips(suite) },
    { name: 'a held block is not stored twice, nor overwritten', run: suite.withTier({}, duplicates) },
    { name: 'what is not held is Missing, and match ends at the first gap', run: suite.withTier({}, missing) },
    { name: 'records: all that is held, parents before their children', run: suite.withTier({}, records) },
    { name: 'removed rows are gone, reported once, with their reason', run: suite.withTier({}, removal) },
  ];
}

/** Rules of tiers that fill up. */
export function evictionRules(suite: TierSuite): ContractRule[] {
  return [
    { name: 'a full tier evicts the victim of its order, and reports it', run: suite.withTier({}, evictsInOrder) },
    { name: 'what the order does not admit is refused, and nothing goes', run: suite.withTier({}, admission) },
    { name: 'a tenant at its quota loses its own blocks, never those of others', run: suite.withTier({}, quotas) },
    { name: 'blocks that are being loaded are not evicted nor overwritten', run: suite.withTier({}, pins) },
    { name: 'held = stored - removed, over random calls', run: () => balance(suite) },
  ];
}

export function range(from: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => from + i);
}

function all(count: number, status: KvBlockStatus): KvBlockStatus[] {
  return Array.from({ length: count }, () => status);
}

async function empty(it: TierSession): Promise<void> {
  const { store, backend } = it;
  assert.equal(store.tier, backend.tier);
  assert.ok(store.capacityBlocks >= 1, `a tier of ${store.capacityBlocks} blocks`);
  const stats = store.stats();
  assert.equal(stats.capacityBlocks, store.capacityBlocks);
  assert.equal(stats.heldBlocks, 0, 'a new tier holds blocks');
  assert.equal(store.match(hashes([1, 2]), 0), 0);
  assert.deepEqual(it.records(), []);
  assert.deepEqual(await it.storeRows([]), []);
  assert.deepEqual(await it.loadRows([]), []);
}

async function roundTrips(suite: TierSuite): Promise<void> {
  for (const [round, blockBytes] of [4096, 12_288, 1000, 65_536].entries()) {
    await suite.withTier({ blockBytes }, async (it) => {
      const random = new SuiteRandom(suite.seed + round);
      const pieces = (): number => (isMemoryTier(it.store) ? [1, 2, 4][random.below(3)] : 1);
      const ids = range(1, Math.min(it.store.capacityBlocks, 12));
      const parents = ids.map((id) => (id === 1 ? 0 : id - 1));
      assert.deepEqual(await it.storeRows(ids, { parents, pieces: pieces() }), all(ids.length, Done), 'blocks were not stored though there is room');
      assert.equal(it.store.match(hashes(ids), 0), ids.length, 'stored blocks are not matched');
      for (let i = 0; i < 4; i++) {
        const rows = ids.filter(() => random.below(3) > 0).reverse();
        assert.deepEqual(await it.loadRows(rows, { pieces: pieces() }), all(rows.length, Done), `seed ${suite.seed + round}: stored blocks were not loaded`);
      }
      const lineage = new Map(it.records().map(({ hash, parent }) => [hash, parent]));
      for (const [row, id] of ids.entries()) {
        const parent = parents[row] === 0 ? key(0, 0) : key(...hashOf(parents[row]));
        assert.equal(lineage.get(key(...hashOf(id))), parent, `block ${id} is recorded with another parent than it was stored with`);
      }
      assert.deepEqual(it.removed, [], 'blocks were removed though there is room');
    })();
  }
}

async function duplicates(it: TierSession): Promise<void> {
  const other = (id: number): Uint8Array => contentOf(id + 1000, it.blockBytes);
  assert.deepEqual(await it.storeRows([1, 2]), [Done, Done]);
  assert.deepEqual(await it.storeRows([2, 3, 1], { contents: (id) => (id === 3 ? contentOf(3, it.blockBytes) : other(id)) }), [Present, Done, Present]);
  assert.deepEqual(await it.loadRows([1, 2, 3]), [Done, Done, Done]);
  assert.deepEqual((await it.storeRows([4, 4])).sort(), [Done, Present], 'the same hash twice in one batch');
  const [first, second] = [it.beginStore([5]), it.beginStore([5])];
  assert.deepEqual([...(await first.ended), ...(await second.ended)].sort(), [Done, Present], 'the same hash in two batches at once');
  const { heldBlocks, duplicates: counted } = it.store.stats();
  assert.equal(heldBlocks, 5);
  assert.equal(counted, 4);
  assert.equal(it.records().length, 5);
}

async function missing(it: TierSession): Promise<void> {
  assert.deepEqual(await it.storeRows([1, 2, 4]), [Done, Done, Done]);
  assert.equal(it.store.match(hashes([1, 2, 3, 4]), 0), 2, 'match goes on behind a gap');
  assert.equal(it.store.match(hashes([1, 2, 3, 4]), 1), 1);
  assert.equal(it.store.match(hashes([1, 2, 3, 4]), 2), 0);
  assert.equal(it.store.match(hashes([1, 2, 3, 4]), 3), 1);
  assert.equal(it.store.match(hashes([1, 2]), 2), 0);
  const running = it.beginLoad([3, 1, 9, 2]);
  const before = running.memory.read(2);
  assert.deepEqual([...(await running.ended)], [Missing, Done, Missing, Done]);
  it.checkLoaded(running);
  assert.ok(equal(running.memory.read(2), before), 'a Missing row was written to');
  assert.ok(it.store.stats().misses >= 2, 'misses are not counted');
}

async function records(it: TierSession): Promise<void> {
  // Children first, grandchildren in between, a parent that is not held.
  await it.storeRows([3, 2], { parents: [2, 1] });
  await it.storeRows([5, 4], { parents: [4, 3] });
  await it.storeRows([1, 7], { parents: [0, 6] });
  const listed = it.records().map(({ hash }) => hash);
  assert.deepEqual([...listed].sort(), [1, 2, 3, 4, 5, 7].map((id) => key(...hashOf(id))).sort());
  for (const id of [2, 3, 4, 5]) {
    assert.ok(listed.indexOf(key(...hashOf(id - 1))) < listed.indexOf(key(...hashOf(id))), `records lists block ${id} before its parent`);
  }
}

async function removal(it: TierSession): Promise<void> {
  await it.storeRows([1, 2, 3]);
  assert.equal(it.store.remove(hashes([2, 9, 3]), 3, 'expired'), 2);
  assert.deepEqual(it.removed, [2, 3].map((id) => ({ hash: key(...hashOf(id)), reason: 'expired' })));
  assert.deepEqual(it.heldOf([1, 2, 3]), [1]);
  assert.equal(it.store.remove(hashes([2]), 1, 'removed'), 0);
  assert.deepEqual(await it.loadRows([2]), [Missing]);
  // While it is loaded: the hash goes at once, the bytes stay until the load has ended.
  it.mover.isHeld = true;
  const load = it.beginLoad([1]);
  assert.equal(it.store.remove(hashes([1]), 1, 'corrupt'), 1);
  assert.deepEqual(it.heldOf([1]), []);
  const store = it.beginStore([4]);
  it.mover.letGo();
  await Promise.all([load.ended, store.ended]);
  it.checkLoaded(load);
  assert.deepEqual(await it.storeRows([1, 2]), [Done, Done], 'removed blocks cannot be stored again');
  assert.equal(it.removed.length, 3);
}

/** As many blocks as the tier holds. */
async function fill(it: TierSession, from = 1): Promise<number[]> {
  const ids = range(from, it.store.capacityBlocks);
  for (let at = 0; at < ids.length; at += 16) {
    const rows = ids.slice(at, at + 16);
    assert.deepEqual(await it.storeRows(rows), all(rows.length, Done), 'blocks were not stored though there is room');
  }
  return ids;
}

async function evictsInOrder(it: TierSession): Promise<void> {
  const ids = await fill(it);
  assert.deepEqual(it.removed, [], 'a block went though there was room');
  it.store.touch(hashes(ids), 0, 1);
  await it.loadRows([ids[2]]);
  for (let id = 10_001; id <= 10_000 + Math.min(4, ids.length); id++) {
    const next = it.order.next();
    const before: number = it.removed.length;
    assert.deepEqual(await it.storeRows([id]), [Done]);
    assert.deepEqual(it.removed.slice(before), [{ hash: next, reason: 'evicted' }], 'the evicted block is not the victim of the order, or was not reported');
    assert.equal(it.store.stats().heldBlocks, it.store.capacityBlocks);
  }
  assert.deepEqual(it.heldOf([ids[0]]), [ids[0]], 'a block just touched was evicted');
  assert.equal(it.store.stats().evictions, Math.min(4, ids.length));
}

async function admission(it: TierSession): Promise<void> {
  await fill(it);
  it.order.admitsAll = false;
  const { refusals } = it.store.stats();
  assert.deepEqual(await it.storeRows([10_001]), [Refused]);
  assert.deepEqual(it.removed, []);
  assert.equal(it.store.stats().refusals, refusals + 1);
  it.order.admitsAll = true;
  assert.deepEqual(await it.storeRows([10_001]), [Done]);
}

async function quotas(it: TierSession): Promise<void> {
  const share = 3;
  it.quotas.set(1, share).set(2, 0);
  assert.deepEqual(await it.storeRows([1, 2]), [Done, Done]);
  for (const id of range(101, 8)) assert.deepEqual(await it.storeRows([id], { tenant: 1 }), [Done]);
  assert.equal(it.heldOf(range(101, 8)).length, share, `a tenant with a quota of ${share} blocks`);
  assert.deepEqual(it.heldOf(range(101, 8)), range(106, share), 'a tenant at its quota does not lose its oldest block');
  assert.deepEqual(it.heldOf([1, 2]), [1, 2], 'blocks of others went for a tenant at its quota');
  assert.deepEqual(await it.storeRows([201], { tenant: 2 }), [Refused]);
}

async function pins(it: TierSession): Promise<void> {
  const ids = (await fill(it)).slice(0, 8);
  it.mover.isHeld = true;
  const load = it.beginLoad(ids);
  // Twice the tier: without pins each of the blocks above would be evicted, and its place written before the load copies.
  const stores = range(0, 2 * it.store.capacityBlocks).map((i) => it.beginStore([10_001 + i]));
  it.mover.letGo();
  await load.ended;
  it.checkLoaded(load);
  for (const [row, status] of load.batch.statuses.entries()) assert.equal(status, Done, `row ${row} of a load was lost to a store`);
  for (const store of stores) await store.ended;
  const held = it.heldOf(range(10_001, stores.length));
  for (const id of held) assert.deepEqual(await it.loadRows([id]), [Done]);
}

async function balance(suite: TierSuite): Promise<void> {
  for (let round = 0; round < 3; round++) {
    const seed = suite.seed + 100 + round;
    await suite.withTier({}, async (it) => {
      const random = new SuiteRandom(seed);
      const ids = range(1, 3 * Math.min(it.store.capacityBlocks, 64));
      const held = new Set<string>();
      let told = 0;
      const learn = (): void => {
        for (const { hash } of it.removed.slice(told)) assert.ok(held.delete(hash), `seed ${seed}: removed() of a block that is not held`);
        told = it.removed.length;
      };
      for (let call = 0; call < 60; call++) {
        const rows = range(0, 1 + random.below(6)).map(() => ids[random.below(ids.length)]);
        const kind = random.below(4);
        if (kind === 0) it.store.touch(hashes(rows), 0, rows.length);
        else if (kind === 1) it.store.remove(hashes(rows), rows.length, 'removed');
        else if (kind === 2) await it.loadRows(rows);
        else {
          const statuses = await it.storeRows(rows);
          statuses.forEach((status, row) => status === Done && held.add(key(...hashOf(rows[row]))));
        }
        learn();
        const expected = ids.filter((id) => held.has(key(...hashOf(id))));
        assert.deepEqual(it.heldOf(ids), expected, `seed ${seed}, call ${call}: other blocks are matched than were stored and not removed`);
        assert.equal(it.store.stats().heldBlocks, expected.length, `seed ${seed}, call ${call}: heldBlocks`);
        assert.ok(expected.length <= it.store.capacityBlocks, `seed ${seed}: more blocks than the tier holds`);
      }
      assert.deepEqual(it.records().map(({ hash }) => hash).sort(), [...held].sort(), `seed ${seed}: records`);
    })();
  }
}
