import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { expect, test } from 'vitest';
import { BLOCK_SIZE, promptHashes } from './fake-engine.test.support.ts';
import { PeerLinks, Rig, slowLink } from './rig.test.support.ts';
import { SlowTier } from './slow-tier.test.support.ts';

const HASHES = promptHashes(1, 12);

interface Pair {
  readonly lender: Rig;
  readonly borrower: Rig;
  readonly links: PeerLinks;
  readonly disk: SlowTier;
  readonly clock: ManualClock;
}

/** The lender's host tier holds the prompt; the borrower computes slowly, so that fetching pays. `readMs`: what a read over the link takes. */
async function pair(readMs = 0.5): Promise<Pair> {
  const clock = new ManualClock();
  const links = new PeerLinks(clock);
  const transport = slowLink(clock, { delayMs: () => readMs });
  const disk = new SlowTier('disk', 100);
  const lender = await Rig.open({ clock, transport, name: 'lender', lower: [disk], offload: { host: 'stored' } });
  const borrower = await Rig.open({ clock, transport, name: 'borrower', peers: links, tokensPerMs: 0.05 });
  links.rigs.set('lender', lender).set('borrower', borrower);
  lender.engine.compute(HASHES);
  await clock.elapse(100);
  return { lender, borrower, links, disk, clock };
}

async function end({ lender, borrower, clock }: Pair): Promise<void> {
  await clock.elapse(30_000);
  expect([lender.leaks(), borrower.leaks()]).toEqual([[], []]);
  await lender.close();
  await borrower.close();
}

test('blocks come from a peer, are checked, and stay here', async () => {
  const two = await pair();
  const { borrower, lender, links } = two;
  const result = await borrower.fetch(HASHES, { peers: [lender.asPeer(12)] });
  expect(result).toMatchObject({ readyTokens: 12 * BLOCK_SIZE, wrong: [], record: { runs: [{ source: 'peer', peer: 'lender', blocks: 12, outcome: 'done' }] } });
  expect(borrower.tier('host').heldBlocks).toBe(12);
  expect([links.settles, borrower.metrics.total('hit_blocks_total', 'peer')]).toEqual([3, 12]);
  await end(two);
});

test('the lender brings blocks up from its disk first', async () => {
  const two = await pair();
  const { lender, borrower, disk, clock } = two;
  for (let seed = 2; seed < 10; seed++) {
    lender.engine.compute(promptHashes(seed, 8));
    await clock.elapse(100);
  }
  const loads = disk.loadedBlocks;
  const result = await borrower.fetch(HASHES, { peers: [lender.asPeer(12)] });
  expect(result).toMatchObject({ readyTokens: 48, wrong: [] });
  expect(disk.loadedBlocks).toBeGreaterThan(loads);
  await end(two);
});

test('another layout is not asked', async () => {
  const two = await pair();
  const result = await two.borrower.fetch(HASHES, { peers: [two.lender.asPeer(12, 'other-layout')] });
  expect([result.readyTokens, two.links.settles]).toEqual([0, 0]);
  await end(two);
});

test('a byte changed in the lender: found by the borrower, nothing from there on is used', async () => {
  const two = await pair();
  const { lender, borrower } = two;
  lender.manager.lend(HASHES, 5, 6, 1_000, 1_000, (loan) => {
    lender.hostBytes[loan!.blocks[0] * loan!.blockStrideBytes] ^= 0x80;
    lender.manager.settleLoan(loan!.lease);
  });
  const result = await borrower.fetch(HASHES, { peers: [lender.asPeer(12)] });
  expect([result.readyTokens, result.wrong, borrower.manager.stats().corruptBlocks]).toEqual([20, [], 1]);
  await end(two);
});

test('the loan runs out while it is read: nothing is used', async () => {
  const two = await pair(20);
  two.links.ttlMs = 5;
  const result = await two.borrower.fetch(HASHES, { peers: [two.lender.asPeer(12)] });
  expect(result).toMatchObject({ readyTokens: 0, reservation: undefined });
  expect(two.borrower.tier('host').heldBlocks).toBe(0);
  await end(two);
});

test('a long read keeps its loan by renewal', async () => {
  const two = await pair(8_000);
  const { lender, borrower, links } = two;
  const result = await borrower.fetch(HASHES.slice(0, 8), { peers: [lender.asPeer(12)], queuedTokens: 1_000_000, deadlineMs: 60_000 });
  expect(result.readyTokens).toBe(0); // longer than fetchDeadlineMs: not waited for
  expect(links.renewals).toBeGreaterThan(0);
  await end(two);
});

test('the peer dies while it is read: the request waits no longer than the bound', async () => {
  const two = await pair(50);
  const { lender, borrower, links, clock } = two;
  clock.setTimer(20, () => {
    links.isDead = true;
    borrower.agent.removePeer('lender');
  });
  const result = await borrower.fetch(HASHES, { peers: [lender.asPeer(12)] });
  const recomputeMs = (12 * BLOCK_SIZE + 1) * 20;
  expect(result).toMatchObject({ readyTokens: 0, reservation: undefined });
  expect(result.elapsedMs).toBeLessThanOrEqual(0.05 * recomputeMs + 1e-6);
  await end(two);
});

test('a peer that does not answer is asked less and less', async () => {
  const two = await pair();
  two.links.isDead = true;
  const waits: number[] = [];
  for (let i = 0; i < 6; i++) waits.push((await two.borrower.fetch(HASHES, { peers: [two.lender.asPeer(12)] })).elapsedMs);
  expect(waits[0]).toBeGreaterThan(0);
  expect(waits[5]).toBe(0);
  await end(two);
});

test('loans are bounded, expire on the lender, and are told apart', async () => {
  const two = await pair();
  const { lender, clock } = two;
  const leases: number[] = [];
  let refused = 0;
  for (let i = 0; i < 300; i++) lender.manager.lend(HASHES, 0, 1, 1_000, 10, (loan) => (loan === undefined ? refused++ : leases.push(loan.lease)));
  expect([leases.length, refused]).toEqual([32, 268]); // half of 64 blocks
  expect(lender.manager.renewLoan(leases[0], 5_000)).toBe(true);
  await clock.elapse(2_000);
  expect([lender.manager.settleLoan(leases[0]), lender.manager.settleLoan(leases[1]), lender.manager.renewLoan(leases[1], 1)]).toEqual(['valid', 'expired', false]);
  await end(two);
});
