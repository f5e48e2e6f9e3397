import assert from 'node:assert/strict';
import { EngineSession, ReplayedCache, blockBytes, copyBlocks, seeded } from './engine-session.ts';
import type { EngineSurroundings, Recording } from './engine-session.ts';
import type { ContractRule } from './runner.ts';

type Check = (session: EngineSession) => Promise<void>;

/** Runs `check` on a started engine, and closes it. */
export function onEngine(around: EngineSurroundings, check: Check): () => Promise<void> {
  return async () => {
    const session = await EngineSession.open(around);
    try {
      await check(session);
    } finally {
      await session.close();
    }
  };
}

/** Prompts that share prefixes, more than the cache holds. */
export async function churn(session: EngineSession, seed: number): Promise<Int32Array[]> {
  const next = seeded(seed);
  const roots = [session.blocks(2, 1), session.blocks(3, 2), session.blocks(1, 3)];
  const sequences: Int32Array[] = [];
  const recordings: Recording[] = [];
  for (let i = 0; i < 40; i++) {
    const root = roots[next(roots.length)] as Int32Array;
    const tokens = Int32Array.of(...root, ...session.prompt(100 + next(12), 1 + next(session.blockSize * 4)));
    recordings.push(session.submit(session.request(tokens, { stop: { maxTokens: 1 + next(session.blockSize * 2), minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: true } })));
    if (next(3) === 0) await session.elapse(7);
  }
  await session.settled(...recordings);
  for (const { request, tokens } of recordings) sequences.push(Int32Array.of(...request.tokenIds, ...(tokens[0] ?? [])));
  return sequences;
}

/** Rules of KV events: behind `abilities.kvEvents`. */
export function kvEventRules(around: EngineSurroundings, seed: number): ContractRule[] {
  return [
    {
      name: 'KV event ids count from 1 without gaps',
      run: onEngine(around, async (session) => {
        await churn(session, seed);
        assert.ok(session.events.length > 10, 'there were events');
        session.events.forEach((event, i) => assert.equal(event.eventId, i + 1, `id of event ${i + 1} (${event.type})`));
      }),
    },
    {
      name: 'replayed KV events hold exactly what the engine matches, decoded blocks too',
      run: onEngine(around, async (session) => {
        for (let round = 0; round < 3; round++) {
          const sequences = await churn(session, seed + round);
          for (const tokens of sequences) {
            const hashes = session.hashes(tokens);
            assert.equal(session.cache.match(hashes), session.kv.match(hashes), `seed ${seed + round}: blocks of a sequence of ${tokens.length} tokens, by events and by match()`);
          }
        }
        assert.ok(session.events.some(({ type }) => type === 'removed'), 'the cache was full: blocks were evicted');
      }),
    },
    {
      name: 'a snapshot rebuilds what the engine matches; its last id is the last one given out',
      run: onEngine(around, async (session) => {
        assert.equal(session.engine.snapshot().length, 0, 'nothing at the beginning');
        const sequences = await churn(session, seed);
        const snapshot = session.engine.snapshot();
        const replayed = new ReplayedCache();
        const known = new Set<string>();
        for (const event of snapshot) {
          replayed.apply(event);
          if (event.type !== 'stored') continue;
          if (event.parent.length > 0) assert.ok(known.has(event.parent.join()), 'a parent is stored before its children');
          for (let i = 0; i < event.sequenceHashes.length; i += 2) known.add(event.sequenceHashes.slice(i, i + 2).join());
        }
        for (const tokens of sequences) {
          const hashes = session.hashes(tokens);
          assert.equal(replayed.match(hashes), session.kv.match(hashes), `seed ${seed}: by snapshot and by match()`);
        }
        assert.equal(snapshot.at(-1)?.eventId, session.events.length, 'last id of the snapshot');
      }),
    },
    {
      name: 'a request\'s stored events come before its end',
      run: onEngine(around, async (session) => {
        const recording = session.submit(session.request(session.blocks(3, 5), { stop: { maxTokens: 1, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: true } }));
        let held = -1;
        let last = -1;
        let said: number | undefined;
        recording.onEnd = (eventId) => {
          held = session.cache.match(recording.request.sequenceHashes);
          last = session.events.at(-1)?.eventId ?? 0;
          said = eventId;
        };
        await session.ended(recording);
        assert.equal(held, 3, 'blocks of the prompt that the events had announced at the end');
        assert.ok(said !== undefined && said > 0 && said <= last, `the end names event ${said}; the last one was ${last}`);
      }),
    },
  ];
}

/** Rules of the prefill leg and its lease: behind a kv face and the role `prefill`. */
export function leaseRules(around: EngineSurroundings): ContractRule[] {
  const prefill = (session: EngineSession, leaseTtlMs = 60_000): Promise<Recording> => session.run(Int32Array.of(...session.blocks(4, 21), 7), { leg: 'prefill', leaseTtlMs });
  return [
    {
      name: 'prefill leg: progress grows up to the whole prompt, then at most one token, then the end',
      run: onEngine(around, async (session) => {
        const recording = await prefill(session);
        const { handovers, calls, request } = recording;
        assert.equal(recording.outcome, 'finished');
        assert.ok(handovers.length > 0, 'progress was told');
        handovers.forEach(({ tokens, lease, blocks }, i) => {
          assert.ok(tokens >= (handovers[i - 1]?.tokens ?? 0), 'readable tokens do not shrink');
          assert.equal(lease, handovers[0]?.lease, 'one lease');
          assert.deepEqual([...blocks], [...(handovers[0]?.blocks ?? [])], 'the blocks of a lease stay the same');
        });
        assert.equal(handovers.at(-1)?.tokens, request.promptTokens, 'the last progress makes the whole prompt readable');
        assert.equal(handovers.at(-1)?.blocks.length, Math.ceil(request.promptTokens / session.blockSize), 'blocks of the prompt');
        assert.ok(calls.lastIndexOf('prefilled') < calls.indexOf('end'), 'progress ends before the end');
        assert.equal(recording.rows, session.engine.abilities.firstToken === 'prefill' ? 1 : 0, 'tokens of a prefill leg');
        session.kv.releaseLease(handovers[0]?.lease ?? 0);
      }),
    },
    {
      name: 'leased blocks keep their bytes until the lease is released, which is then valid',
      run: onEngine(around, async (session) => {
        const { handovers } = await prefill(session);
        const { lease, blocks } = handovers.at(-1)!;
        const bytes = (): number[][] => [...blocks].flatMap((block) => blockBytes(session.kv.arena(), block).map((piece) => Array.from(piece)));
        const before = bytes();
        assert.ok(session.engine.load().usedBlocks >= blocks.length, 'leased blocks count as used');
        await churn(session, 31);
        assert.deepEqual(bytes(), before, 'bytes of the leased blocks');
        assert.equal(session.kv.releaseLease(lease), 'valid');
        assert.equal(session.kv.counts().leases, 0);
        assert.equal(session.engine.load().usedBlocks, 0, 'released blocks are free or evictable');
      }),
    },
    {
      name: 'a lease that was not renewed in time is expired, and says so',
      run: onEngine(around, async (session) => {
        const { handovers } = await prefill(session, 200);
        const lease = handovers[0]?.lease ?? 0;
        await session.elapse(400);
        assert.equal(session.kv.renewLease(lease, 1000), false, 'renewal of an expired lease');
        assert.equal(session.kv.releaseLease(lease), 'expired');
        assert.equal(session.kv.releaseLease(987_654), 'expired', 'a lease that never was');
        assert.deepEqual([session.kv.counts().leases, session.engine.load().usedBlocks], [0, 0], 'leases, used blocks');
      }),
    },
    {
      name: 'a renewed lease lives on',
      run: onEngine(around, async (session) => {
        const { handovers } = await prefill(session, 400);
        const lease = handovers[0]?.lease ?? 0;
        for (let i = 0; i < 4; i++) {
          await session.elapse(200);
          assert.equal(session.kv.renewLease(lease, 400), true, `renewal ${i + 1}`);
        }
        assert.equal(session.kv.releaseLease(lease), 'valid');
      }),
    },
    {
      name: 'a cancelled prefill leg leaves its blocks to the lease',
      run: onEngine(around, async (session) => {
        const recording = session.submit(session.request(session.blocks(8, 25), { leg: 'prefill', leaseTtlMs: 500 }));
        await session.until('progress or the end', () => recording.handovers.length + recording.ends.length > 0);
        session.engine.cancel(recording.handle!);
        await session.settled(recording);
        assert.equal(session.kv.counts().leases, 1, 'a borrower may be reading');
        assert.ok(session.engine.load().usedBlocks >= 8, 'leased blocks are in use');
        await session.elapse(1000);
        assert.deepEqual([session.kv.counts().leases, session.engine.load().usedBlocks], [0, 0], 'leases, used blocks');
      }),
    },
  ];
}

/** Rules of reservations and the decode leg: behind a kv face and the role `decode`. */
export function reservationRules(around: EngineSurroundings): ContractRule[] {
  return [
    {
      name: 'reserved blocks are distinct and taken; release gives them back; too many are refused',
      run: onEngine(around, async (session) => {
        const { totalBlocks } = session.engine.info;
        const first = session.kv.reserve(session.hashes(session.blocks(4, 41)), 5, 60_000);
        assert.ok(first !== undefined);
        assert.deepEqual([first.blocks.length, new Set(first.blocks).size, first.matchedBlocks], [5, 5, 0], 'blocks, distinct blocks, matched blocks');
        assert.equal(session.engine.load().freeBlocks, totalBlocks - 5);
        assert.equal(session.kv.reserve(new Int32Array(0), totalBlocks - 4, 60_000), undefined, 'more than is free');
        assert.equal(session.engine.load().freeBlocks, totalBlocks - 5, 'a refused reservation holds nothing');
        session.kv.release(first.id);
        session.kv.release(first.id);
        assert.deepEqual([session.engine.load().freeBlocks, session.kv.counts().reservations], [totalBlocks, 0]);
      }),
    },
    {
      name: 'destination rule: neither quarantine nor time frees reserved blocks, only release does',
      run: onEngine(around, async (session) => {
        const kept = session.kv.reserve(new Int32Array(0), 3, 50)!;
        const quarantined = session.kv.reserve(new Int32Array(0), 2, 60_000)!;
        const bytes = [...kept.blocks, ...quarantined.blocks].map((block) => blockBytes(session.kv.arena(), block));
        for (const pieces of bytes) for (const piece of pieces) piece.fill(0x5c);
        session.kv.quarantine(quarantined.id);
        await session.elapse(300);
        await churn(session, 43);
        assert.equal(session.engine.load().usedBlocks, 5, 'blocks that a transfer may still write');
        assert.ok(bytes.every((pieces) => pieces.every((piece) => piece.every((byte) => byte === 0x5c))), 'nobody else wrote into them');
        assert.ok(session.kv.counts().quarantined >= 1, 'counted');
        session.kv.release(kept.id);
        session.kv.release(quarantined.id);
        assert.deepEqual([session.engine.load().usedBlocks, session.kv.counts().reservations, session.kv.counts().quarantined], [0, 0, 0]);
      }),
    },
    {
      name: 'committed blocks can be matched, growing and once; what is matched is not reserved again',
      run: onEngine(around, async (session) => {
        const hashes = session.hashes(session.blocks(4, 44));
        const reservation = session.kv.reserve(hashes, 4, 60_000)!;
        assert.equal(session.kv.match(hashes), 0, 'nothing before the commit');
        session.kv.commit(reservation.id, 2);
        session.kv.commit(reservation.id, 2);
        assert.deepEqual([session.kv.match(hashes), session.cache.match(hashes)], [2, 2], 'by match() and by events');
        session.kv.commit(reservation.id, 4);
        session.kv.commit(reservation.id, 1);
        assert.deepEqual([session.kv.match(hashes), session.cache.match(hashes), session.cache.size], [4, 4, 4]);
        const second = session.kv.reserve(hashes, 5, 60_000)!;
        assert.equal(second.matchedBlocks, 4);
        assert.deepEqual([...second.blocks.slice(0, 4)], [...reservation.blocks]);
        session.kv.release(reservation.id);
        assert.equal(session.engine.load().usedBlocks, 5, 'matched blocks stay pinned by the second reservation');
        session.kv.release(second.id);
        assert.deepEqual([session.engine.load().usedBlocks, session.kv.match(hashes)], [0, 4], 'free but still matched');
      }),
    },
    {
      name: 'a cancelled or refused decode leg gives its reservation back',
      run: onEngine(around, async (session) => {
        const tokens = session.blocks(2, 45);
        const leg = (): Partial<Recording['request']> => {
          const { id } = session.kv.reserve(session.hashes(tokens), 2, 60_000)!;
          return { leg: 'decode', kvSource: { type: 'reservation', reservation: id, readyTokens: 0 } };
        };
        const cancelled = session.submit(session.request(tokens, leg()));
        session.engine.cancel(cancelled.handle!);
        const refused = session.submit(session.request(Int32Array.of(...tokens, -5), leg()));
        await session.settled(cancelled, refused);
        assert.match(refused.outcome, /^failed /);
        assert.deepEqual([session.engine.load().usedBlocks, session.kv.counts().reservations], [0, 0]);
      }),
    },
  ];
}

/** Rules that need both legs. */
export function disaggregationRules(around: EngineSurroundings): ContractRule[] {
  const both = async (check: (from: EngineSession, to: EngineSession) => Promise<void>): Promise<void> => {
    const [from, to] = [await EngineSession.open(around), await EngineSession.open(around)];
    try {
      await check(from, to);
    } finally {
      await from.close();
      await to.close();
    }
  };
  const sampling = (session: EngineSession): Recording['request']['sampling'] => ({ ...session.request(session.prompt(1, 4)).sampling, temperature: 0.9 });
  return [
    {
      name: 'a decode leg goes on exactly where the prefill leg ended',
      run: () =>
        both(async (from, to) => {
          for (const extra of [5, 0]) {
            const tokens = Int32Array.of(...from.blocks(3, 51 + extra), ...from.prompt(52, extra));
            const choices = extra === 0 ? 2 : 1;
            const prefill = await from.run(tokens, { leg: 'prefill', choices, sampling: sampling(from) });
            const handover = prefill.handovers.at(-1)!;
            const hashes = to.hashes(tokens);
            const reservation = to.kv.reserve(hashes, handover.blocks.length, 60_000)!;
            copyBlocks(from.kv.arena(), handover.blocks, to.kv.arena(), reservation.blocks);
            assert.equal(from.kv.releaseLease(handover.lease), 'valid');
            to.kv.commit(reservation.id, Math.floor(tokens.length / to.blockSize));
            const firstTokens = from.engine.abilities.firstToken === 'prefill' ? Int32Array.from(prefill.tokens, (list) => list[0]!) : undefined;
            const kvSource = { type: 'reservation', reservation: reservation.id, readyTokens: tokens.length } as const;
            const decode = await to.run(tokens, { leg: 'decode', choices, firstTokens, kvSource, sampling: sampling(to) });
            const whole = await from.run(tokens, { choices, sampling: sampling(from) });
            assert.equal(decode.outcome, 'finished');
            assert.deepEqual(decode.tokens.map((list, choice) => [...(prefill.tokens[choice] ?? []), ...list]), whole.tokens, `prompt of ${tokens.length} tokens, ${choices} choices`);
            await to.settled(decode);
            assert.deepEqual([to.engine.load().usedBlocks, to.kv.counts().reservations], [0, 0]);
          }
        }),
    },
    {
      name: 'a decode leg computes what did not arrive, and never reads it',
      run: () =>
        both(async (from, to) => {
          const tokens = from.blocks(4, 55);
          const prefill = await from.run(tokens, { leg: 'prefill', sampling: sampling(from) });
          const handover = prefill.handovers.at(-1)!;
          const reservation = to.kv.reserve(to.hashes(tokens), handover.blocks.length, 60_000)!;
          copyBlocks(from.kv.arena(), handover.blocks.subarray(0, 2), to.kv.arena(), reservation.blocks.subarray(0, 2));
          for (const block of reservation.blocks.subarray(2)) for (const piece of blockBytes(to.kv.arena(), block)) piece.fill(0x77);
          to.kv.commit(reservation.id, 2);
          const firstTokens = from.engine.abilities.firstToken === 'prefill' ? Int32Array.from(prefill.tokens, (list) => list[0]!) : undefined;
          const kvSource = { type: 'reservation', reservation: reservation.id, readyTokens: 2 * to.blockSize } as const;
          const decode = await to.run(tokens, { leg: 'decode', firstTokens, kvSource, sampling: sampling(to) });
          const whole = await from.run(tokens, { sampling: sampling(from) });
          assert.deepEqual([...(prefill.tokens[0] ?? []), ...(decode.tokens[0] ?? [])], whole.tokens[0]);
        }),
    },
  ];
}
