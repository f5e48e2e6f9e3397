import { ManualClock } from '@armature/contracts/testing/manual-clock';
import type { KvOperation } from '@armature/contracts';
import { expect, test } from 'vitest';
import { seeded } from '../random.test.support.ts';
import type { KvFetchResult } from './face.ts';
import { BLOCK_SIZE, promptHashes } from './fake-engine.test.support.ts';
import { PeerLinks, Rig, slowLink } from './rig.test.support.ts';
import { SlowTier } from './slow-tier.test.support.ts';

const SEEDS = Number(process.env['KVBM_SEEDS'] ?? 12);
const FIRST = Number(process.env['KVBM_SEED'] ?? 1);
const STEPS = 300;

/** Over all seeds: shows that the paths ran. */
const ran = { onboarded: 0, corrupted: 0, cancelled: 0, found: 0 };

interface World {
  readonly clock: ManualClock;
  readonly rigs: readonly Rig[];
  readonly tiers: readonly SlowTier[];
  readonly links: PeerLinks;
  readonly below: (bound: number) => number;
  readonly running: Set<KvOperation>;
  onboarded: number;
  corrupted: number;
  cancelled: number;
}

async function open(below: (bound: number) => number): Promise<World> {
  const clock = new ManualClock();
  const links = new PeerLinks(clock);
  const transport = slowLink(clock, { delayMs: () => below(8) });
  const rigs: Rig[] = [];
  const tiers: SlowTier[] = [];
  for (const name of ['a', 'b']) {
    const lower = [new SlowTier('disk', 24), new SlowTier('object', 200)];
    tiers.push(...lower);
    const offload = { device: 'stored', host: (['stored', 'evict', { uses: 1 }] as const)[below(3)], disk: (['stored', { uses: 1 }] as const)[below(2)] } as const;
    const prefetch = (['route', 'queue', 'never'] as const)[below(3)];
    rigs.push(await Rig.open({ clock, transport, name, lower, offload, prefetch, peers: links, isWasm: below(2) === 0, deviceBlocks: 24, hostBlocks: 16, tokensPerMs: 0.1, config: { batchBlocks: 1 + below(5), maxQueuedBlocks: 16 } }));
    links.rigs.set(name, rigs[rigs.length - 1]);
  }
  return { clock, rigs, tiers, links, below, running: new Set(), onboarded: 0, corrupted: 0, cancelled: 0 };
}

/** Prompts of few families that fork: so that they share their beginnings. */
function prompt({ below }: World): Int32Array {
  return promptHashes(1 + below(6), 1 + below(10), below(3), 2 + below(6));
}

/** The model: whatever happened to the tiers, what the engine is handed is a function of the hashes. */
function fetch(world: World, rig: Rig): void {
  const { below, rigs, running } = world;
  const hashes = prompt(world);
  const other = rigs[rigs[0] === rig ? 1 : 0];
  const more = { peers: below(2) === 0 ? [other.asPeer(1 + below(10))] : [], queuedTokens: below(3) * 40, cacheSalt: ['', 'tenant'][below(2)] };
  let isOver = false;
  let operation: KvOperation | undefined = undefined;
  const end = (result: KvFetchResult): void => {
    expect(isOver, 'done once').toBe(false);
    isOver = true;
    if (operation !== undefined) running.delete(operation);
    world.onboarded += result.record.onboardedBlocks;
    const ready = result.readyTokens / BLOCK_SIZE;
    if (result.reservation === undefined) expect(ready).toBe(0);
    else expect(rig.engine.adopt(result.reservation, hashes, ready)).toEqual([]);
    let next = 0;
    for (const { fromBlock, blocks, source, outcome } of result.record.runs) {
      if (outcome === 'not-worth-it') continue;
      if (source === 'recompute') expect(fromBlock).toBeLessThanOrEqual(hashes.length / 2);
      else next = Math.max(next, fromBlock + blocks);
    }
    expect(next).toBeLessThanOrEqual(hashes.length / 2);
  };
  operation = rig.manager.fetch(rig.request(hashes, more), end);
  if (!isOver) running.add(operation);
}

function spoil(world: World, rig: Rig): void {
  const { below, tiers } = world;
  world.corrupted++;
  if (below(2) === 0) {
    rig.hostBytes[below(rig.hostBytes.length)] ^= 1 << below(8);
    return;
  }
  const held = [...tiers[below(tiers.length)].held.values()];
  if (held.length > 0) held[below(held.length)].bytes[below(900)] ^= 1 << below(8);
}

async function step(world: World): Promise<void> {
  const { below, rigs, tiers, links, clock, running } = world;
  const rig = rigs[below(rigs.length)];
  const tier = tiers[below(tiers.length)];
  const what = below(20);
  if (what < 5) rig.engine.compute(prompt(world), ['', 'tenant'][below(2)]);
  else if (what < 10) fetch(world, rig);
  else if (what === 10) rig.engine.forget();
  else if (what === 11) rig.manager.prefetch(below(2) === 0 ? 'route' : 'queue', prompt(world), '');
  else if (what === 12) spoil(world, rig);
  else if (what === 13) {
    tier.latencyMs = [0.1, 1, 20, 500][below(4)];
    tier.isStubborn = below(4) === 0;
  } else if (what === 14) tier.failure = below(3) === 0 ? ([2, 3, 4, 5] as const)[below(4)] : undefined;
  else if (what === 15) links.isDead = below(4) === 0;
  else if (what === 16) links.ttlMs = below(2) === 0 ? 1 + below(6) : undefined;
  else if (what === 17 && running.size > 0) {
    const [operation] = running;
    world.cancelled++;
    operation.cancel();
  }
  await clock.elapse(below(3) === 0 ? below(40) : below(3) / 2);
}

test.each(Array.from({ length: SEEDS }, (_, i) => FIRST + i))('every block handed to the engine is right, and nothing is left pinned (seed %i)', async (seed) => {
  const world = await open(seeded(seed));
  const { clock, rigs, running, tiers } = world;
  for (let i = 0; i < STEPS; i++) await step(world);
  await clock.elapse(120_000);
  expect(running.size, `seed ${seed}: fetches that did not end`).toBe(0);
  for (const rig of rigs) {
    expect(rig.engine.wrongBlocks(), `seed ${seed}: wrong blocks on the device of ${rig.name}`).toBe(0);
    expect(rig.leaks(), `seed ${seed}: left in ${rig.name}`).toEqual([]);
    const { queuedOffloads } = rig.manager.stats();
    expect(queuedOffloads).toBe(0);
  }
  ran.onboarded += world.onboarded;
  ran.corrupted += world.corrupted;
  ran.cancelled += world.cancelled;
  ran.found += rigs.reduce((sum, rig) => sum + rig.manager.stats().corruptBlocks, 0);
  for (const rig of rigs) await rig.close();
  expect(tiers.map(({ running: count }) => count)).toEqual([0, 0, 0, 0]);
}, 60_000);

test('the paths ran: blocks came up, bytes were spoilt and found, fetches were cancelled', () => {
  for (const [what, count] of Object.entries(ran)) expect(count, what).toBeGreaterThan(SEEDS / 6);
});

test('closing in the midst of everything returns what was lent', async () => {
  for (let seed = 1; seed <= 6; seed++) {
    const world = await open(seeded(seed + 1000));
    for (let i = 0; i < 60; i++) await step(world);
    for (const rig of world.rigs) await rig.close();
    for (const rig of world.rigs) expect(rig.engine.counts(), `seed ${seed}`).toEqual({ leases: 0, reservations: 0, quarantined: 0 });
    expect(world.running.size).toBe(0);
  }
}, 60_000);
