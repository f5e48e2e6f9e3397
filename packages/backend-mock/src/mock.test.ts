import { configProblemsOf } from './testing.test.support.ts';
import { EngineSession, blockBytes, copyBlocks, seeded } from '@armature/contracts/testing/engine-session';
import type { Recording } from '@armature/contracts/testing/engine-session';
import { describe, expect, it } from 'vitest';
import { measuredTiming } from './config.ts';
import { mockDefaults, mockSchema } from './index.ts';
import { decodePassMs, passMs } from './pass-time.ts';
import { BLOCK_SIZE, MockWorld } from './testing.test.support.ts';

const stop = (maxTokens: number): Pick<Recording['request'], 'stop'> => ({ stop: { maxTokens, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: false } });

describe('time', () => {
  const batch = (rows: readonly [tokens: number, context: number, samples: number][]): Parameters<typeof passMs>[0] => ({
    sequenceCount: rows.length,
    slots: new Int32Array(rows.length),
    queryLengths: Int32Array.from(rows, ([tokens]) => tokens),
    contextLengths: Int32Array.from(rows, ([, context]) => context),
    tokenIds: new Int32Array(0),
    blockTable: new Int32Array(0),
    maxBlocksPerSequence: 0,
    samples: Uint8Array.from(rows, ([, , samples]) => samples),
    outputIndexes: new Int32Array(rows.length),
  });
  const near = (value: number, expected: number): void => expect(value).toBeCloseTo(expected, 9);

  it("is Dynamo's formula", () => {
    near(passMs(batch([[1000, 0, 1]]), mockDefaults, 16), 4.209989e-7 * 1e6 + 1.518344e-2 * 1000 + 16.50142);
    near(passMs(batch([[600, 0, 1], [400, 0, 0]]), mockDefaults, 16), 4.209989e-7 * 1e6 + 1.518344e-2 * 1000 + 16.50142);
    near(passMs(batch([[1, 131_072, 1]]), mockDefaults, 16), -25.74 * 0.25 + 54.01 * 0.5 + 5.74);
    near(passMs(batch([[1, 0, 1], [10, 0, 1]]), mockDefaults, 16), 5.74 + 4.209989e-7 * 100 + 0.1518344 + 16.50142);
  });

  it('has a floor, and speedups', () => {
    near(passMs(batch([[1, 0, 1]]), { ...mockDefaults, decodeCoefficients: [0, 0, 0.2] }, 16), 1);
    near(passMs(batch([[1, 0, 1]]), { ...mockDefaults, speedup: 2, decodeSpeedup: 2 }, 16), 5.74 / 4);
    expect(passMs(batch([[1000, 0, 1]]), { ...mockDefaults, speedup: 0 }, 16)).toBe(0);
    // Measured times take the place of the polynomials; a prompt's context is not the decoding sequences'.
    const linear = { prefillMsPerToken: 0.1, prefillMs: 5, decodeMsPerSequence: 0.5, decodeMsPerContextToken: 0.01, decodeMs: 2 };
    const measured = measuredTiming({ ...mockDefaults, timing: { linear } });
    near(passMs(batch([[1, 100, 1], [1, 300, 1], [50, 900, 0]]), { ...mockDefaults, speedup: 2 }, 16, measured), (50 * 0.1 + 5 + 2 * 0.5 + 400 * 0.01 + 2) / 2);
    near(decodePassMs(2, 400, mockDefaults, 16, measured), 2 * 0.5 + 400 * 0.01 + 2);
  });

  it('passes on the clock: a prompt, then its tokens one by one', async () => {
    const world = new MockWorld({ prefillCoefficients: [0, 1, 10], decodeCoefficients: [0, 0, 5] });
    const session = await EngineSession.open(world);
    const startedAtMs = world.clock.nowMs();
    const times: number[] = [];
    const recording = session.submit(session.request(session.prompt(1, 20), stop(4)));
    recording.onBatch = () => void times.push(world.clock.nowMs() - startedAtMs);
    await session.ended(recording);
    expect(times).toEqual([30, 35, 40, 45]);
  });
});

describe('answers', () => {
  const answer = async (config: ConstructorParameters<typeof MockWorld>[0], maxTokens: number): Promise<number[]> => {
    const session = await EngineSession.open(new MockWorld(config));
    return (await session.run(session.prompt(1, 10), stop(maxTokens))).tokens[0]!;
  };
  it('can be fixed', async () => {
    expect(await answer({ answerTokenIds: [5, 6, 7] }, 5)).toEqual([5, 6, 7, 5, 6]);
    expect(await answer({ answerTokenIds: [5, 6, 7], eosTokenIds: [2] }, 50)).toEqual([5, 6, 7, 2]);
  });
  it('end by chance when asked to', async () => {
    const lengths: number[] = [];
    const session = await EngineSession.open(new MockWorld({ eosTokenIds: [2], eosProbability: 0.1 }));
    for (let seed = 0; seed < 60; seed++) lengths.push((await session.run(session.prompt(seed, 10), stop(100))).rows);
    const mean = lengths.reduce((sum, length) => sum + length, 0) / lengths.length;
    expect([mean > 6, mean < 15]).toEqual([true, true]);
    expect(await answer({ eosTokenIds: [2] }, 100)).not.toContain(2);
  });
});

describe('a wrong KV block is noticed when it is read', () => {
  it.each(['blocks', 'tokens'] as const)('in a running sequence: the request fails, others go on, nobody matches it again (kvCheck %s)', async (kvCheck) => {
    const world = new MockWorld({ kvCheck });
    const session = await EngineSession.open(world);
    const tokens = session.prompt(1, 2 * BLOCK_SIZE + 3);
    const victim = session.submit(session.request(tokens, stop(50)));
    const other = session.submit(session.request(session.prompt(2, 20), stop(50)));
    await session.until('a token', () => victim.rows > 1);
    const arena = session.kv.arena();
    const pinned = session.kv.reserve(session.hashes(tokens), 2, 1e6)!; // tells which blocks hold the prompt
    expect(pinned.matchedBlocks).toBe(2);
    blockBytes(arena, pinned.blocks[1]!)[0]![BLOCK_SIZE * 4 - 1]! ^= 1; // one bit of the last token
    await session.ended(victim, other);
    expect([victim.outcome, other.outcome, world.corruptions]).toEqual(['failed ENGINE_KV_CORRUPT', 'finished', 1]);
    expect(world.logged.map(({ code }) => code)).toContain('ENGINE_KV_CORRUPT');
    expect([session.kv.match(session.hashes(tokens)), session.cache.match(session.hashes(tokens))]).toEqual([0, 0]);
    session.kv.release(pinned.id);
    const again = await session.run(tokens, stop(50));
    expect([again.outcome, again.end]).toMatchObject(['finished', { usage: { cachedTokens: 0 } }]);
    expect(session.engine.load().usedBlocks).toBe(0);
  });

  it('in the cache: any byte, at the next admission', async () => {
    for (const at of [0, 13, 4 * BLOCK_SIZE - 1]) {
      const world = new MockWorld();
      const session = await EngineSession.open(world);
      const tokens = session.prompt(1, 3 * BLOCK_SIZE + 1);
      await session.run(tokens);
      const { id, blocks } = session.kv.reserve(session.hashes(tokens), 3, 1e6)!;
      blockBytes(session.kv.arena(), blocks[0]!)[0]![at]! ^= 0x80;
      session.kv.release(id);
      expect([(await session.run(tokens)).outcome, world.corruptions]).toEqual(['failed ENGINE_KV_CORRUPT', 1]);
    }
  });

  it('after a transfer of another prompt, a stale block, or half a block', async () => {
    const spoil: ((bytes: Uint8Array) => void)[] = [(bytes) => bytes.fill(0), (bytes) => bytes.fill(0, bytes.length / 2), (bytes) => bytes.copyWithin(4, 0)];
    for (const damage of spoil) {
      const world = new MockWorld();
      const [from, to] = [await EngineSession.open(world), await EngineSession.open(world)];
      const tokens = from.prompt(3, 3 * BLOCK_SIZE);
      const prefill = await from.run(tokens, { leg: 'prefill' });
      const reservation = to.kv.reserve(to.hashes(tokens), 3, 1e6)!;
      copyBlocks(from.kv.arena(), prefill.handovers.at(-1)!.blocks, to.kv.arena(), reservation.blocks);
      damage(blockBytes(to.kv.arena(), reservation.blocks[1]!)[0]!);
      const kvSource = { type: 'reservation', reservation: reservation.id, readyTokens: tokens.length } as const;
      const decode = await to.run(tokens, { leg: 'decode', firstTokens: Int32Array.of(prefill.tokens[0]![0]!), kvSource });
      expect([decode.outcome, world.corruptions, to.engine.load().usedBlocks]).toEqual(['failed ENGINE_KV_CORRUPT', 1, 0]);
    }
  });
});

for (const seed of [1, 2, 3]) {
  it(`the same requests in the same order give the same story, byte for byte (seed ${seed})`, async () => {
    const story = async (): Promise<string> => {
      const world = new MockWorld({ totalBlocks: 20, maxBatchedTokens: 24 });
      const session = await EngineSession.open(world);
      const next = seeded(seed);
      const lines: string[] = [];
      const recordings: Recording[] = [];
      for (let i = 0; i < 60; i++) {
        const tokens = Int32Array.of(...session.blocks(next(3), next(4)), ...session.prompt(next(30), 1 + next(20)));
        const sampling = { ...session.request(tokens).sampling, temperature: next(2), topLogprobs: next(3) - 1 };
        const recording = session.submit(session.request(tokens, { sampling, choices: 1 + next(2), priority: next(2), ...stop(1 + next(20)) }));
        recording.onBatch = () => void lines.push(`${world.clock.nowMs()} ${i} ${recording.tokens.map((list) => list.at(-1)).join()}`);
        recordings.push(recording);
        if (next(5) === 0) session.engine.cancel(recordings[next(recordings.length)]!.handle!);
        await world.elapse(next(12));
      }
      await session.settled(...recordings);
      const { preemptions, usedBlocks } = session.engine.load();
      expect([usedBlocks, world.corruptions]).toEqual([0, 0]);
      expect(preemptions).toBeGreaterThan(0);
      lines.push(JSON.stringify([session.events.map(({ type, eventId }) => [type, eventId]), preemptions, recordings.map(({ outcome, logprobs }) => [outcome, logprobs])]));
      return lines.join('\n');
    };
    const first = await story();
    expect(await story()).toBe(first);
    process.stdout.write(`mock seed ${seed}: ${first.length} characters of story\n`);
  });

  it(`children are evicted before their parents (seed ${seed})`, async () => {
    const session = await EngineSession.open(new MockWorld({ totalBlocks: 40, maxBatchedTokens: 24 }));
    const next = seeded(seed);
    const recordings: Recording[] = [];
    for (let i = 0; i < 120; i++) {
      const tokens = Int32Array.of(...session.blocks(1 + next(4), next(6)), ...session.prompt(next(30), 1 + next(20)));
      recordings.push(session.submit(session.request(tokens, stop(1 + next(20)))));
      await session.elapse(next(25));
    }
    await session.settled(...recordings);
    const parents = new Map<string, string>();
    let removed = 0;
    for (const event of session.events) {
      if (event.type === 'cleared') continue;
      for (let i = 0; i < event.sequenceHashes.length; i += 2) {
        const hash = event.sequenceHashes.slice(i, i + 2).join();
        if (event.type === 'stored') {
          const parent = i > 0 ? event.sequenceHashes.slice(i - 2, i).join() : event.parent.join();
          expect(parent === '' || parents.has(parent)).toBe(true);
          parents.set(hash, parent);
        } else {
          expect([...parents.values()]).not.toContain(hash);
          parents.delete(hash);
          removed++;
        }
      }
    }
    expect(removed).toBeGreaterThan(50);
  });
}

describe('configuration', () => {
  it('every field has a description and a default', () => {
    for (const [field, schema] of Object.entries(mockSchema.properties)) {
      expect(schema, field).toHaveProperty('description');
      expect(schema, field).toHaveProperty('default');
    }
  });
  it('tokens must be in the vocabulary, an end by chance needs a token', () => {
    expect(configProblemsOf({})).toEqual([]);
    expect(configProblemsOf({ vocabSize: 10, eosTokenIds: [3, 10], answerTokenIds: [11] })).toEqual(['eosTokenIds.1', 'answerTokenIds.0']);
    expect(configProblemsOf({ eosProbability: 0.5 })).toEqual(['eosProbability']);
  });
});
