import assert from 'node:assert/strict';
import { EngineSession, blockBytes, copyBlocks } from './engine-session.ts';
import type { EngineSurroundings, Recording } from './engine-session.ts';
import { churn, onEngine } from './engine-kv-rules.ts';
import type { ContractRule } from './runner.ts';

const ONE_TOKEN = { maxTokens: 1, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: true };

/** `hash after parent` of rows of `evictable`. */
function rowsOf(columns: Int32Array): string[] {
  return Array.from({ length: columns.length / 4 }, (_, i) => `${columns.slice(4 * i, 4 * i + 2).join()} after ${columns.slice(4 * i + 2, 4 * i + 4).join()}`);
}

/** A chain in the same words: leaves first, as they are evicted. */
function chainRows(hashes: Int32Array): string[] {
  const word = (i: number): string => (i < 0 ? '0,0' : hashes.slice(2 * i, 2 * i + 2).join());
  return Array.from({ length: hashes.length / 2 }, (_, i) => `${word(i)} after ${word(i - 1)}`).reverse();
}

/** A prompt of `blocks` blocks is computed and at rest. */
async function stored(session: EngineSession, blocks: number, seed: number, cacheSalt = ''): Promise<Int32Array> {
  const recording = await session.run(session.blocks(blocks, seed), { stop: ONE_TOKEN, cacheSalt });
  await session.settled(recording);
  return recording.request.sequenceHashes;
}

/** Rules for those who copy registered blocks elsewhere: behind KV events and a kv face. */
export function tierRules(around: EngineSurroundings): ContractRule[] {
  return [
    {
      name: 'a lease by hash pins the registered run asked for, which is then valid',
      run: onEngine(around, async (session) => {
        const { kv, engine } = session;
        const hashes = Int32Array.of(...(await stored(session, 4, 61)), 11, 12);
        assert.equal(kv.lease(hashes, 4, 5, 60_000, true), undefined, 'the first block asked for is not held');
        assert.equal(kv.lease(hashes, 2, 2, 60_000, true), undefined, 'no block asked for');
        const whole = kv.lease(hashes, 0, 9, 60_000, true)!;
        const part = kv.lease(hashes, 1, 3, 60_000, false)!;
        assert.deepEqual([whole.blocks.length, [...part.blocks]], [4, [...whole.blocks.slice(1, 3)]], 'blocks of all rows, of rows 1 to 3');
        assert.deepEqual([kv.counts().leases, engine.load().usedBlocks], [2, 4], 'leases, used blocks');
        const bytes = (): number[][] => [...whole.blocks].flatMap((block) => blockBytes(kv.arena(), block).map((piece) => Array.from(piece)));
        const before = bytes();
        assert.equal(kv.releaseLease(part.id), 'valid');
        await churn(session, 62);
        assert.deepEqual([bytes(), kv.match(hashes)], [before, 4], 'bytes and hashes of leased blocks');
        assert.equal(kv.releaseLease(whole.id), 'valid');
        assert.deepEqual([kv.releaseLease(whole.id), kv.counts().leases, engine.load().usedBlocks], ['expired', 0, 0]);
      }),
    },
    {
      name: 'a lease by hash lives by its time, and by renewal',
      run: onEngine(around, async (session) => {
        const { kv } = session;
        const hashes = await stored(session, 2, 64);
        const [short, kept] = [kv.lease(hashes, 0, 2, 300, false)!, kv.lease(hashes, 0, 2, 300, true)!];
        await session.elapse(200);
        assert.equal(kv.renewLease(kept.id, 60_000), true);
        await session.elapse(400);
        assert.deepEqual([kv.releaseLease(short.id), kv.renewLease(short.id, 1000)], ['expired', false]);
        assert.equal(kv.releaseLease(kept.id), 'valid');
        assert.deepEqual([kv.counts().leases, session.engine.load().usedBlocks], [0, 0]);
      }),
    },
    {
      name: 'evictable names the blocks that go next, oldest first, and pins none',
      run: onEngine(around, async (session) => {
        const { kv, engine } = session;
        const [old, young] = [await stored(session, 3, 65), await stored(session, 4, 66)];
        const expected = [...chainRows(old), ...chainRows(young)];
        assert.deepEqual(rowsOf(kv.evictable(99)), expected, 'all of them, leaves before their parents');
        assert.deepEqual(rowsOf(kv.evictable(2)), expected.slice(0, 2), 'no more than asked for');
        assert.deepEqual([engine.load().usedBlocks, kv.counts().leases], [0, 0], 'nothing is pinned');
        const reservation = kv.reserve(new Int32Array(0), engine.info.totalBlocks - session.cache.size + 5, 60_000)!;
        assert.deepEqual([kv.match(old), kv.match(young)], [0, 2], 'left when five places were missing: nothing of the old chain, the root of the young one');
        assert.deepEqual(rowsOf(kv.evictable(99)), expected.slice(5));
        kv.release(reservation.id);
      }),
    },
    {
      name: 'a lease counts as use for eviction only when it says so',
      run: onEngine(around, async (session) => {
        const { kv } = session;
        const [old, young] = [await stored(session, 3, 67), await stored(session, 2, 68)];
        const [oldRows, youngRows] = [chainRows(old), chainRows(young)];
        const copied = kv.lease(old, 0, 3, 60_000, false)!;
        assert.deepEqual(rowsOf(kv.evictable(9)), youngRows, 'what is leased does not go next');
        kv.releaseLease(copied.id);
        assert.deepEqual(rowsOf(kv.evictable(9)), [...oldRows, ...youngRows], 'as if it had never been leased');
        kv.releaseLease(kv.lease(old, 0, 3, 60_000, true)!.id);
        assert.deepEqual(rowsOf(kv.evictable(9)), [...youngRows, ...oldRows], 'used: younger than all');
      }),
    },
    {
      name: 'stored events name the tenant: by request, and by reservation',
      run: onEngine(around, async (session) => {
        const { kv } = session;
        await stored(session, 2, 71, 'tenant-a');
        await stored(session, 2, 72);
        const hashes = session.hashes(session.blocks(2, 73), 'tenant-b');
        const reservation = kv.reserve(hashes, 2, 60_000, 'tenant-b')!;
        kv.commit(reservation.id, 2);
        kv.release(reservation.id);
        const salts = session.events.flatMap((event) => (event.type === 'stored' ? [event.cacheSalt ?? ''] : []));
        assert.deepEqual([...new Set(salts)], ['tenant-a', '', 'tenant-b'], 'salts in order of first mention');
      }),
    },
  ];
}

/** The first `blocks` blocks of a prompt, copied from one engine into a reservation of the other, and committed. */
function bring(from: EngineSession, to: EngineSession, tokens: Int32Array, blocks: number): number {
  const lease = from.kv.lease(from.hashes(tokens), 0, blocks, 60_000, false)!;
  const reservation = to.kv.reserve(to.hashes(tokens).slice(0, 2 * blocks), blocks, 60_000)!;
  copyBlocks(from.kv.arena(), lease.blocks, to.kv.arena(), reservation.blocks);
  assert.equal(from.kv.releaseLease(lease.id), 'valid');
  return reservation.id;
}

function onPair(around: EngineSurroundings, check: (from: EngineSession, to: EngineSession) => Promise<void>): () => Promise<void> {
  return async () => {
    const [from, to] = [await EngineSession.open(around), await EngineSession.open(around)];
    try {
      await check(from, to);
    } finally {
      await from.close();
      await to.close();
    }
  };
}

function cachedOf({ end }: Recording): number {
  return end?.type === 'finished' ? end.usage.cachedTokens : -1;
}

async function assertRests(session: EngineSession, recording: Recording): Promise<void> {
  await session.settled(recording);
  assert.deepEqual([session.engine.load().usedBlocks, session.kv.counts().reservations, session.kv.counts().leases], [0, 0, 0], 'used blocks, reservations, leases');
}

/** A request whose prompt's first blocks were brought into a reservation: behind KV events and a kv face. */
export function adoptionRules(around: EngineSurroundings): ContractRule[] {
  return [
    {
      name: 'a full leg goes on from the blocks it was brought: cached, and the same output',
      run: onPair(around, async (from, to) => {
        for (const extra of [9, 0]) {
          const tokens = Int32Array.of(...from.blocks(4, 81 + extra), ...from.prompt(82, extra));
          const choices = extra === 0 ? 2 : 1;
          const whole = await from.run(tokens, { choices });
          const reservation = bring(from, to, tokens, 4);
          to.kv.commit(reservation, 4);
          const brought = await to.run(tokens, { choices, kvSource: { type: 'reservation', reservation, readyTokens: 4 * to.blockSize } });
          assert.deepEqual([brought.outcome, brought.tokens], ['finished', whole.tokens], `prompt of ${tokens.length} tokens, ${choices} choices`);
          // Of a prompt that is there to its last token the last block is computed once more: something is to be sampled, and others may read the block.
          assert.equal(cachedOf(brought), (extra === 0 ? 3 : 4) * to.blockSize, 'cached tokens');
          await assertRests(to, brought);
        }
      }),
    },
    {
      name: 'blocks brought while the engine computed the same ones: one copy stays, and what it has beyond them is used',
      run: onPair(around, async (from, to) => {
        const tokens = from.blocks(6, 85);
        const whole = await from.run(tokens);
        const reservation = bring(from, to, tokens, 3);
        await to.settled(await to.run(tokens.slice(0, 5 * to.blockSize), { stop: ONE_TOKEN }));
        to.kv.commit(reservation, 3);
        const brought = await to.run(tokens, { kvSource: { type: 'reservation', reservation, readyTokens: 3 * to.blockSize } });
        assert.deepEqual([brought.outcome, brought.tokens], ['finished', whole.tokens]);
        assert.equal(cachedOf(brought), 5 * to.blockSize, 'cached: the blocks brought, and the two that follow them in the prefix cache');
        await assertRests(to, brought);
        assert.equal(to.cache.match(to.hashes(tokens)), to.kv.match(to.hashes(tokens)), 'by events and by match()');
      }),
    },
  ];
}

/** The same on a prefill leg: behind the role `prefill`, KV events and a kv face. */
export function adoptedPrefillRules(around: EngineSurroundings): ContractRule[] {
  return [
    {
      name: 'a prefill leg hands over the blocks it was brought, readable from its first word on',
      run: onPair(around, async (from, to) => {
        const tokens = Int32Array.of(...from.blocks(4, 91), ...from.prompt(92, 3));
        const whole = await from.run(tokens, { leg: 'prefill', choices: 2 });
        const reservation = bring(from, to, tokens, 3);
        to.kv.commit(reservation, 3);
        const brought = await to.run(tokens, { leg: 'prefill', choices: 2, kvSource: { type: 'reservation', reservation, readyTokens: 3 * to.blockSize } });
        assert.deepEqual([brought.outcome, brought.tokens], ['finished', whole.tokens]);
        const [first, last] = [brought.handovers[0]!, brought.handovers.at(-1)!];
        assert.deepEqual([first.tokens, first.cachedTokens, last.tokens], [3 * to.blockSize, 3 * to.blockSize, tokens.length], 'readable at first, cached, readable at last');
        assert.equal(last.blocks.length, 5, 'blocks under the lease: the brought ones, and those of the rest');
        const source = whole.handovers.at(-1)!;
        for (let i = 0; i < 4; i++) assert.deepEqual(blockBytes(to.kv.arena(), last.blocks[i]!), blockBytes(from.kv.arena(), source.blocks[i]!), `bytes of block ${i}`);
        assert.deepEqual([to.kv.releaseLease(last.lease), from.kv.releaseLease(source.lease)], ['valid', 'valid']);
        await assertRests(to, brought);
      }),
    },
  ];
}
