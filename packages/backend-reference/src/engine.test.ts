import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { EngineBackend } from '@armature/contracts';
import { afterEach, describe, expect, it } from 'vitest';
import { ask, createEngine, request } from './testing/engines.ts';
import type { ReferenceConfig } from './plugin.ts';

interface Golden {
  readonly items: readonly { readonly prompt: number[]; readonly greedy: number[] }[];
}
const golden = JSON.parse(readFileSync(fileURLToPath(new URL('../../model-demo/golden.json', import.meta.url)), 'utf8')) as Golden;
const engines: EngineBackend[] = [];

async function started(config: Partial<ReferenceConfig> = {}): Promise<EngineBackend> {
  const engine = await createEngine(config);
  engines.push(engine);
  await engine.start();
  return engine;
}

afterEach(async () => {
  await Promise.all(engines.splice(0).map((engine) => engine.close?.()));
});

describe('engine on the demo model', () => {
  it('answers 64 golden prompts at once, in small chunks and with preemptions, as one by one', async () => {
    const engine = await started({ totalBlocks: 120, maxBatchedTokens: 48, maxSequences: 12 });
    const answers = await Promise.all(golden.items.map((item) => ask(engine, request(item.prompt))));
    const equal = answers.filter((answer, i) => answer.tokens[0]!.join() === golden.items[i]!.greedy.join()).length;
    expect(answers.map((answer) => answer.end?.type)).toEqual(golden.items.map(() => 'finished'));
    expect(equal).toBe(64);
    expect(engine.load()).toMatchObject({ running: 0, waiting: 0 });
    process.stdout.write(`engine: ${equal} of 64 prompts equal, ${engine.load().preemptions} preemptions\n`);
  });

  it('draws the same tokens under preemption: sampling states stay with their sequences', async () => {
    const asks = golden.items.slice(0, 24).map((item, i) => request(item.prompt, { sampling: { ...request([]).sampling, temperature: 1.2, seedLo: i }, stop: { ...request([]).stop, maxTokens: 100 } }));
    const roomy = await started({ totalBlocks: 1024 });
    const expected = await Promise.all(asks.map((what) => ask(roomy, { ...what, tokenIds: what.tokenIds.slice() })));
    expect(roomy.load().preemptions).toBe(0);
    const tight = await started({ totalBlocks: 64, maxSequences: 16 });
    const got = await Promise.all(asks.map((what) => ask(tight, what)));
    expect(tight.load().preemptions).toBeGreaterThan(5);
    expect(got.map((answer) => answer.tokens)).toEqual(expected.map((answer) => answer.tokens));
  });

  it('draws the same tokens with and without prefix cache and company', async () => {
    const engine = await started();
    const sampling = { ...request([]).sampling, temperature: 1, topP: 0.9, topLogprobs: 0 };
    const one = request(golden.items[3]!.prompt, { sampling });
    const alone = await ask(engine, one);
    const company = golden.items.slice(4, 9).map((item) => ask(engine, request(item.prompt)));
    const again = await ask(engine, { ...one, tokenIds: one.tokenIds.slice() });
    await Promise.all(company);
    expect(again.tokens).toEqual(alone.tokens);
    expect(again.logprobs).toEqual(alone.logprobs);
    expect(alone.end).toMatchObject({ usage: { cachedTokens: 0 } });
    expect(again.end).toMatchObject({ usage: { cachedTokens: Math.floor((one.promptTokens - 1) / 16) * 16 } });
  });

  it('continues bit for bit from KV that another engine computed', async () => {
    const [prefill, decode, whole] = await Promise.all([started(), started({ totalBlocks: 100 }), started()]);
    const { prompt } = golden.items[10]!;
    const sampling = { ...request([]).sampling, temperature: 0.8, topLogprobs: 0 };
    const expected = await ask(whole, request(prompt, { sampling }));

    const first = await ask(prefill, request(prompt, { sampling, leg: 'prefill' }));
    const handover = first.handovers.at(-1)!;
    expect(handover.tokens).toBe(prompt.length);
    const from = prefill.kv!.arena();
    const to = decode.kv!.arena();
    expect(to.layoutFingerprint).toBe(from.layoutFingerprint);
    const leg = request(prompt, { sampling, leg: 'decode', firstTokens: Int32Array.from(first.tokens[0]!) });
    const reservation = decode.kv!.reserve(leg.sequenceHashes, handover.blocks.length, 5000)!;
    expect(reservation.matchedBlocks).toBe(0);
    const bytes = (arena: typeof from, block: number): Uint8Array =>
      new Uint8Array(arena.segments[0]!.buffer, arena.segments[0]!.byteOffset + block * arena.blockStrideBytes, arena.pieceBytes);
    handover.blocks.forEach((block, i) => bytes(to, reservation.blocks[i]!).set(bytes(from, block)));
    expect(prefill.kv!.releaseLease(handover.lease)).toBe('valid');
    decode.kv!.commit(reservation.id, reservation.blocks.length);
    const rest = await ask(decode, { ...leg, kvSource: { type: 'reservation', reservation: reservation.id, readyTokens: handover.tokens } });
    expect([...first.tokens[0]!, ...rest.tokens[0]!]).toEqual(expected.tokens[0]);
    expect([...first.logprobs, ...rest.logprobs]).toEqual(expected.logprobs);
    expect(rest.end).toMatchObject({ usage: { cachedTokens: prompt.length } });
  });

  it('n choices differ by their number, each the same every time', async () => {
    const engine = await started();
    const sampling = { ...request([]).sampling, temperature: 1.5 };
    const [a, b] = [await ask(engine, request(golden.items[0]!.prompt, { sampling, choices: 3 })), await ask(engine, request(golden.items[0]!.prompt, { sampling, choices: 3 }))];
    expect(b.tokens).toEqual(a.tokens);
    expect(new Set(a.tokens.map((tokens) => tokens.join())).size).toBe(3);
    expect(a.tokens.every((tokens) => tokens.length === 32)).toBe(true);
  });
});
