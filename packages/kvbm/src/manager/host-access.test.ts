import { readFileSync } from 'node:fs';
import type { KvHostPin, KvHostPull, KvLender, KvOperation } from '@armature/contracts';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { afterEach, expect, test } from 'vitest';
import { seeded } from '../random.test.support.ts';
import { contentOf, promptHashes } from './fake-engine.test.support.ts';
import { BLOCK_BYTES, PeerLinks, Rig, slowLink } from './rig.test.support.ts';
import type { RigOptions } from './rig.test.support.ts';
import { SlowTier } from './slow-tier.test.support.ts';

const STRIDE_BYTES = 4096;
const TTL_MS = 1_000;
const rigs: Rig[] = [];
afterEach(async () => {
  for (const rig of rigs.splice(0)) await rig.close();
});

/** The engine's process: fills and reads blocks of the mapping. */
class OwnCopies {
  readonly rig: Rig;

  constructor(rig: Rig) {
    this.rig = rig;
  }

  static async open(options: RigOptions = {}): Promise<OwnCopies> {
    const rig = await Rig.open({ isOutOfReach: true, ...options });
    rigs.push(rig);
    return new OwnCopies(rig);
  }

  get host(): Rig['manager']['host'] {
    return this.rig.manager.host;
  }

  bytes(block: number): Uint8Array {
    return this.rig.hostBytes.subarray(block * STRIDE_BYTES, block * STRIDE_BYTES + BLOCK_BYTES);
  }

  reserve(hashes: Int32Array, cacheSalt = ''): ReturnType<Rig['manager']['host']['reserve']> {
    const parents = new Int32Array(hashes.length);
    parents.set(hashes.subarray(0, hashes.length - 2), 2);
    return this.host.reserve({ sequenceHashes: hashes, parents, cacheSalt }, TTL_MS);
  }

  /** Reserves, fills and commits what is lacking. */
  async store(hashes: Int32Array): Promise<number> {
    const reservation = this.reserve(hashes);
    if (reservation === undefined) return 0;
    this.fill(hashes, reservation);
    let kept = -1;
    this.host.commit(reservation.id, reservation.rows.length, (count) => (kept = count));
    await this.rig.until(() => kept !== -1);
    return kept;
  }

  fill(hashes: Int32Array, { rows, blocks }: { rows: Int32Array; blocks: Int32Array }): void {
    rows.forEach((row, i) => this.bytes(blocks[i]).set(contentOf(hashes[2 * row], hashes[2 * row + 1])));
  }

  start(hashes: Int32Array, more: Partial<KvHostPull>, done: (pin: KvHostPin | undefined) => void): KvOperation {
    return this.host.pull({ sequenceHashes: hashes, from: 0, to: hashes.length / 2, cacheSalt: '', deadlineMs: 500, ...more }, done);
  }

  async pull(hashes: Int32Array, more: Partial<KvHostPull> = {}): Promise<KvHostPin | undefined> {
    let answer: { pin: KvHostPin | undefined } | undefined;
    this.start(hashes, more, (pin) => (answer = { pin }));
    await this.rig.until(() => answer !== undefined);
    return answer!.pin;
  }

  /** Rows whose bytes are not what belongs to their hash. */
  wrong(hashes: Int32Array, from: number, { blocks }: KvHostPin): number[] {
    return [...blocks.keys()].filter((i) => Buffer.compare(this.bytes(blocks[i]), contentOf(hashes[2 * (from + i)], hashes[2 * (from + i) + 1])) !== 0);
  }

  asLender(): KvLender {
    return { instanceId: this.rig.name, address: this.rig.name, agentMetadata: this.rig.agent.metadata(), layoutFingerprint: 'fake-layout' };
  }
}

test('what the engine wrote is announced, matched, pinned and given back', async () => {
  const engine = await OwnCopies.open();
  const hashes = promptHashes(1, 8);
  expect(await engine.store(hashes)).toBe(8);
  expect(engine.rig.events).toMatchObject([{ type: 'stored', tier: 'host', parent: new Int32Array(0) }]);
  expect(engine.host.match(promptHashes(1, 8, 1, 5), 0)).toBe(5);
  const pin = await engine.pull(hashes, { from: 2 });
  expect([pin!.blocks.length, pin!.sources, engine.wrong(hashes, 2, pin!)]).toEqual([6, { host: 6 }, []]);
  expect(engine.host.counts()).toMatchObject({ pins: 1, pinnedBlocks: 6 });
  expect([engine.host.release(pin!.lease), engine.host.release(pin!.lease)]).toEqual(['valid', 'expired']);
  expect(engine.rig.leaks()).toEqual([]);
  expect(engine.rig.metrics.total('hit_blocks_total', 'host')).toBe(6);
});

test('its mapping is writable to the engine; that of an engine with an arena is not', async () => {
  if (process.platform !== 'linux') return void console.log('skipped: memfd mappings are of Linux');
  const engine = await OwnCopies.open();
  const { fd } = engine.host.location!.mapping;
  expect(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')).toContain('flags:');
  const { openSync, writeSync, closeSync } = await import('node:fs');
  const write = (memory: number): number => {
    const other = openSync(`/proc/self/fd/${memory}`, 'r+');
    try {
      return writeSync(other, Buffer.from('x'), 0, 1, 0);
    } finally {
      closeSync(other);
    }
  };
  expect(write(fd)).toBe(1);
  const arena = await Rig.open();
  rigs.push(arena);
  expect(() => write(arena.manager.host.location!.mapping.fd)).toThrow(/EPERM/);
});

test('a reservation that nobody commits lapses; a commit after that keeps nothing', async () => {
  const engine = await OwnCopies.open();
  const reservation = engine.reserve(promptHashes(1, 4))!;
  await engine.rig.clock.elapse(TTL_MS + 1);
  expect(engine.host.counts()).toEqual({ pins: 0, pinnedBlocks: 0, reservations: 0, reservedBlocks: 0 });
  let kept = -1;
  engine.host.commit(reservation.id, 4, (count) => (kept = count));
  expect([kept, engine.rig.tier('host').heldBlocks]).toEqual([0, 0]);
});

test('rows that are held or being filled are not given out twice; a part of a reservation can be kept', async () => {
  const engine = await OwnCopies.open();
  await engine.store(promptHashes(1, 2));
  const first = engine.reserve(promptHashes(1, 5))!;
  expect([...first.rows]).toEqual([2, 3, 4]);
  expect(engine.reserve(promptHashes(1, 5))).toBe(undefined);
  engine.fill(promptHashes(1, 5), first);
  let kept = -1;
  engine.host.commit(first.id, 1, (count) => (kept = count));
  await engine.rig.until(() => kept !== -1);
  expect([kept, engine.host.match(promptHashes(1, 5), 0)]).toEqual([1, 3]);
  expect([...engine.reserve(promptHashes(1, 5))!.rows]).toEqual([3, 4]);
});

test('at most a quarter of the tier waits to be filled, at most half is pinned', async () => {
  const engine = await OwnCopies.open({ hostBlocks: 32 });
  expect(engine.reserve(promptHashes(1, 20))!.rows.length).toBe(8);
  expect(engine.reserve(promptHashes(2, 20))).toBe(undefined);
  await engine.rig.clock.elapse(TTL_MS + 1);
  for (let row = 8; row <= 24; row += 8) await engine.store(promptHashes(3, row));
  const pin = await engine.pull(promptHashes(3, 24));
  expect(pin!.blocks.length).toBe(16);
  expect(await engine.pull(promptHashes(3, 24))).toBe(undefined);
});

test('blocks that left host memory come back from the disk; what does not come in time is left out', async () => {
  const disk = new SlowTier('disk', 100);
  const engine = await OwnCopies.open({ hostBlocks: 32, lower: [disk], offload: { host: 'stored' } });
  const hashes = promptHashes(1, 6);
  await engine.store(hashes);
  for (let seed = 2; seed < 14; seed++) {
    await engine.store(promptHashes(seed, 6));
    await engine.rig.clock.elapse(50);
  }
  expect(engine.host.match(hashes, 0)).toBe(6);
  const pin = await engine.pull(hashes);
  expect([pin!.sources, engine.wrong(hashes, 0, pin!)]).toEqual([{ disk: 6 }, []]);
  engine.host.release(pin!.lease);
  disk.latencyMs = 5_000;
  const start = engine.rig.clock.nowMs();
  const late = await engine.pull(promptHashes(3, 6), { deadlineMs: 80 });
  expect(engine.rig.clock.nowMs() - start).toBeLessThanOrEqual(100);
  expect(late?.blocks.length ?? 0).toBeLessThan(6);
  if (late !== undefined) engine.host.release(late.lease);
  await engine.rig.clock.elapse(10_000);
  expect(engine.rig.leaks()).toEqual([]);
});

test('cancelled in the middle nothing stays, and nothing is told', async () => {
  const disk = new SlowTier('disk', 100);
  const engine = await OwnCopies.open({ hostBlocks: 16, lower: [disk], offload: { host: 'stored' } });
  const hashes = promptHashes(1, 4);
  await engine.store(hashes);
  for (let seed = 2; seed < 8; seed++) {
    await engine.store(promptHashes(seed, 4));
    await engine.rig.clock.elapse(50);
  }
  disk.latencyMs = 20;
  let answers = 0;
  const pull = engine.start(hashes, {}, () => answers++);
  await engine.rig.clock.elapse(5);
  pull.cancel();
  await engine.rig.clock.elapse(5_000);
  expect([answers, ...engine.rig.leaks()]).toEqual([0]);
});

test('a peer takes blocks by loan, waits for those being filled, and gives up with its deadline', async () => {
  const clock = new ManualClock();
  const links = new PeerLinks(clock);
  const transport = slowLink(clock, { delayMs: () => 0.5 });
  const [lender, borrower] = [await OwnCopies.open({ clock, transport, name: 'lender' }), await OwnCopies.open({ clock, transport, name: 'borrower', peers: links })];
  links.rigs.set('lender', lender.rig);
  const hashes = promptHashes(1, 4);
  const reservation = lender.reserve(hashes)!;
  let pin: KvHostPin | undefined;
  borrower.start(hashes, { lender: { worker: lender.asLender(), blocks: 4 } }, (got) => (pin = got));
  await clock.elapse(50);
  expect(pin).toBe(undefined);
  lender.fill(hashes, reservation);
  lender.host.commit(reservation.id, 4, () => undefined);
  await clock.elapse(50);
  expect([pin!.sources, borrower.wrong(hashes, 0, pin!)]).toEqual([{ peer: 4 }, []]);
  borrower.host.release(pin!.lease);
  lender.reserve(promptHashes(2, 4));
  expect(await borrower.pull(promptHashes(2, 4), { deadlineMs: 100, lender: { worker: lender.asLender(), blocks: 4 } })).toBe(undefined);
  expect(await borrower.pull(hashes, { lender: { worker: { ...lender.asLender(), layoutFingerprint: 'other' }, blocks: 4 } })).toMatchObject({ sources: { host: 4 } });
  await clock.elapse(30_000);
  expect(lender.rig.leaks()).toEqual([]);
});

test('closing in the midst of everything', async () => {
  const disk = new SlowTier('disk', 100);
  const engine = await OwnCopies.open({ hostBlocks: 16, lower: [disk], offload: { host: 'stored' } });
  await engine.store(promptHashes(1, 4));
  await engine.pull(promptHashes(1, 4));
  engine.reserve(promptHashes(2, 2));
  disk.latencyMs = 50;
  let answer: KvHostPin | undefined | 'none' = 'none';
  engine.start(promptHashes(1, 8), { lender: { worker: engine.asLender(), blocks: 8 } }, (pin) => (answer = pin));
  await rigs.pop()!.close();
  expect(answer).not.toBe('none');
  expect(engine.host.counts()).toEqual({ pins: 0, pinnedBlocks: 0, reservations: 0, reservedBlocks: 0 });
  expect([engine.host.match(promptHashes(1, 4), 0), engine.reserve(promptHashes(3, 2))]).toEqual([0, undefined]);
});

test.each([11, 12, 13, 14])('random stores, pulls, spoilt bytes, cancels and lapses: never a wrong byte, nothing left (seed %i)', async (seed) => {
  const below = seeded(seed);
  const disk = new SlowTier('disk', 60);
  const engine = await OwnCopies.open({ hostBlocks: 24, lower: [disk], offload: { host: 'stored' } });
  const { rig, host } = engine;
  const pins: KvHostPin[] = [];
  let [checked, spoilt] = [0, 0];
  for (let round = 0; round < 250; round++) {
    const hashes = promptHashes(below(6), 1 + below(7));
    const action = below(10);
    if (action < 4) await engine.store(hashes);
    else if (action < 7) {
      const pin = await engine.pull(hashes, { deadlineMs: 1 + below(20) });
      if (pin !== undefined) {
        expect(engine.wrong(hashes, 0, pin), `seed ${seed} round ${round}`).toEqual([]);
        checked += pin.blocks.length;
        pins.push(pin);
      }
    } else if (action === 7) {
      const pull = engine.start(hashes, {}, (pin) => void (pin !== undefined && host.release(pin.lease)));
      await rig.clock.elapse(below(3));
      pull.cancel();
    } else if (action === 8 && pins.length === 0) {
      rig.hostBytes[below(24) * STRIDE_BYTES + below(BLOCK_BYTES)] ^= 1 << below(8);
      spoilt++;
    } else if (below(2) === 0) engine.reserve(promptHashes(20 + below(50), 1 + below(3))); // never filled: lapses
    while (pins.length > below(4)) expect(host.release(pins.pop()!.lease)).toBe('valid');
    if (below(8) === 0) await rig.clock.elapse(TTL_MS);
  }
  for (const { lease } of pins) host.release(lease);
  await rig.clock.elapse(30_000);
  expect(rig.leaks(), `seed ${seed}`).toEqual([]);
  expect([checked > 100, spoilt > 3, rig.manager.stats().corruptBlocks > 0, disk.loadedBlocks > 0], `seed ${seed}: ${checked} ${spoilt} ${disk.loadedBlocks}`).toEqual([true, true, true, true]);
});
