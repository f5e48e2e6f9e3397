import { EngineSession, copyBlocks } from '@armature/contracts/testing/engine-session';
import type { Recording } from '@armature/contracts/testing/engine-session';
import { saltHash, sequenceHashes } from '@armature/tokens';
import { describe, expect, it } from 'vitest';
import { BLOCK_SIZE, MockWorld, configProblemsOf } from './testing.test.support.ts';

const adapters = ['legal', 'medical'];
const cached = ({ end }: Recording): number => (end?.type === 'finished' ? end.usage.cachedTokens : NaN);

describe('adapters', () => {
  it('are told, and absent where there are none', async () => {
    expect((await EngineSession.open(new MockWorld({ adapters }))).engine.info.adapters).toEqual(adapters);
    expect((await EngineSession.open(new MockWorld())).engine.info.adapters).toBeUndefined();
    expect(configProblemsOf({ adapters: ['a', 'b', 'a'] })).toEqual(['adapters.2']);
  });

  it.each(['tokens', 'none'] as const)('each has tokens of its own, the same ones every time, and never the KV of another (kvCheck %s)', async (kvCheck) => {
    const world = new MockWorld({ adapters, kvCheck });
    const session = await EngineSession.open(world);
    const prompt = session.prompt(1, 3 * BLOCK_SIZE + 1);
    const names = [undefined, ...adapters];
    const runs = async (): Promise<Recording[]> => {
      const recordings: Recording[] = [];
      for (const adapter of names) recordings.push(await session.run(prompt, adapter === undefined ? {} : { adapter }));
      return recordings;
    };
    const first = await runs();
    const again = await runs();
    expect(new Set(first.map(({ tokens }) => tokens.join()))).toHaveLength(3);
    expect(again.map(({ tokens }) => tokens)).toEqual(first.map(({ tokens }) => tokens));
    expect([first.map(cached), again.map(cached), world.corruptions]).toEqual([[0, 0, 0], [3 * BLOCK_SIZE, 3 * BLOCK_SIZE, 3 * BLOCK_SIZE], 0]);
  });

  it('one that the engine lacks is refused', async () => {
    const session = await EngineSession.open(new MockWorld({ adapters }));
    expect((await session.run(session.prompt(1, 5), { adapter: 'other' })).outcome).toBe('failed ENGINE_ADAPTER_UNKNOWN');
    expect((await (await EngineSession.open(new MockWorld())).run(session.prompt(1, 5), { adapter: 'legal' })).outcome).toBe('failed ENGINE_ADAPTER_UNKNOWN');
  });

  it.each([
    ['legal', 'finished', 0],
    // As if the hashes did not tell adapters apart: KV of one under another is noticed.
    ['medical', 'failed ENGINE_KV_CORRUPT', 1],
  ])('KV prefilled with "legal", decoded with "%s": %s', async (adapter, outcome, corruptions) => {
    const world = new MockWorld({ adapters });
    const [from, to] = [await EngineSession.open(world), await EngineSession.open(world)];
    const tokens = from.prompt(3, 3 * BLOCK_SIZE);
    const alone = await from.run(tokens, { adapter: 'legal' });
    const prefill = await from.run(tokens, { leg: 'prefill', adapter: 'legal' });
    const hashes = sequenceHashes(tokens, tokens.length, BLOCK_SIZE, saltHash({ lora: adapter }));
    const reservation = to.kv.reserve(hashes, 3, 1e6)!;
    copyBlocks(from.kv.arena(), prefill.handovers.at(-1)!.blocks, to.kv.arena(), reservation.blocks);
    const kvSource = { type: 'reservation', reservation: reservation.id, readyTokens: tokens.length } as const;
    const decode = await to.run(tokens, { leg: 'decode', adapter, firstTokens: Int32Array.of(prefill.tokens[0]![0]!), kvSource });
    expect([decode.outcome, world.corruptions]).toEqual([outcome, corruptions]);
    if (adapter === 'legal') expect([prefill.tokens[0]![0], ...decode.tokens[0]!]).toEqual(alone.tokens[0]);
  });
});
