import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import type { EngineBackend, KvArena } from '@armature/contracts';
import { Checkpoint } from './checkpoint/checkpoint.ts';
import { arenaOf } from './arena.ts';
import { ReferenceLlama } from './reference/llama.ts';
import { splitHeads } from './ranks.ts';
import { DirectRunner } from './testing/direct-runner.ts';
import type { DirectSequence } from './testing/direct-runner.ts';
import { ask, createEngine, request } from './testing/engines.ts';
import { seededRandom, writeCheckpoint } from './testing/write-checkpoint.ts';

const golden = JSON.parse(readFileSync(fileURLToPath(new URL('../../model-demo/golden.json', import.meta.url)), 'utf8')) as { items: { prompt: number[]; greedy: number[] }[] };
const BLOCKS = 96;
const engines: EngineBackend[] = [];
afterEach(async () => {
  await Promise.all(engines.splice(0).map((engine) => engine.close?.()));
});

/** Heads split evenly, one KV head for two ranks, one for all. */
const MODELS = {
  '8 query and 4 KV heads': { num_attention_heads: 8, num_key_value_heads: 4, head_dim: 8 },
  '8 query and 2 KV heads, biases': { num_attention_heads: 8, num_key_value_heads: 2, head_dim: 16, attention_bias: true },
  '4 query heads and 1 KV head': { num_attention_heads: 4, num_key_value_heads: 1, head_dim: 8 },
};

const bitsOf = (values: Float32Array): string => Buffer.from(values.slice().buffer).toString('base64');
const runnerFor = (folder: string, tensorParallel: number): DirectRunner => new DirectRunner(folder, { blockSize: 8, totalBlocks: BLOCKS, tensorParallel });

/** Steps of random batches: chunks of several sequences, decodes among them. The same for every runner. */
function randomSteps(seed: number): DirectSequence[][] {
  const random = seededRandom(seed);
  const sequences = Array.from({ length: 6 }, (_, s) => ({
    tokens: Array.from({ length: 15 + Math.floor(random() * 60) }, () => Math.floor(random() * 77)),
    blocks: Array.from({ length: 12 }, (_, i) => s + 6 * i),
    at: 0,
  }));
  const steps: DirectSequence[][] = [];
  while (sequences.some((s) => s.at < s.tokens.length)) {
    const batch: DirectSequence[] = [];
    for (const s of sequences) {
      if (s.at >= s.tokens.length || random() < 0.3) continue;
      const end = Math.min(s.tokens.length, s.at + (random() < 0.4 ? 1 : 1 + Math.floor(random() * 25)));
      batch.push({ tokens: s.tokens.slice(s.at, end), context: s.at, blocks: s.blocks, samples: random() < 0.8 });
      s.at = end;
    }
    if (batch.length > 0) steps.push(batch);
  }
  return steps;
}

function logitsOf(runner: DirectRunner, steps: readonly DirectSequence[][]): string[] {
  return steps.flatMap((batch) => runner.step(batch).map(bitsOf));
}

/** Bytes of a block's KV head in one layer and plane, by the arena's own words. */
function headBytes(arena: KvArena, place: { block: number; layer: number; plane: number; head: number }, copy = 0): string {
  const found = arena.ranks!.filter(({ layout }) => {
    const { firstKvHead, kvHeads } = splitHeads({ heads: layout.tpSize * layout.kvHeads, kvHeads: layout.kvHeads } as never, layout.tpSize)[layout.tpRank]!;
    return place.head >= firstKvHead && place.head < firstKvHead + kvHeads;
  });
  const { byteOffset, layout } = found[copy]!;
  const perRank = Math.max(1, layout.kvHeads / layout.tpSize);
  const bytes = layout.headDim * layout.blockSize * 4;
  const head = place.head % perRank;
  const at = (((place.block * layout.layers + place.layer) * 2 + place.plane) * perRank + head) * bytes;
  return Buffer.from(new Uint8Array(arena.segments[0]!.buffer, arena.segments[0]!.byteOffset + byteOffset + at, bytes).slice()).toString('base64');
}

describe('any number of ranks gives the same bits', () => {
  for (const [name, config] of Object.entries(MODELS)) {
    it(`${name}: logits of random batches, and of the plain model`, () => {
      const folder = writeCheckpoint({ config, seed: 3 });
      let compared = 0;
      for (const seed of [21, 22, 23]) {
        const steps = randomSteps(seed);
        const one = logitsOf(runnerFor(folder, 1), steps);
        for (const ranks of [2, 4]) {
          logitsOf(runnerFor(folder, ranks), steps).forEach((bits, i) => {
            expect(bits, `seed ${seed}, ${ranks} ranks, logits ${i}`).toBe(one[i]);
            compared++;
          });
        }
      }
      expect(compared).toBeGreaterThan(150);
      const tokens = randomSteps(24).flat()[0]!.tokens;
      const [kernels] = runnerFor(folder, 4).step([{ tokens, context: 0, blocks: [4, 9, 2, 11], samples: true }]);
      for (const ranks of [1, 2, 4]) {
        const plain = new ReferenceLlama(Checkpoint.open(folder), ranks);
        let expected: Float32Array = new Float32Array(0);
        for (const token of tokens) expected = plain.next(token);
        expect(bitsOf(expected), `${ranks} plain ranks`).toBe(bitsOf(kernels!));
      }
    });

    it(`${name}: each rank's arena holds its heads and no others, and blocks are what the ranks say`, () => {
      const folder = writeCheckpoint({ config, seed: 3 });
      const runners = [1, 2, 4].map((ranks) => runnerFor(folder, ranks));
      const views = runners.map(({ model }) => arenaOf(model.plan, model.memory, model.fingerprint));
      for (const runner of runners) logitsOf(runner, randomSteps(25));
      const { layers, kvHeads } = runners[0]!.model.plan.shape;
      for (const block of [0, 7, 13]) {
        for (let layer = 0; layer < layers; layer++) {
          for (const plane of [0, 1]) {
            for (let head = 0; head < kvHeads; head++) {
              const one = headBytes(views[0]!, { block, layer, plane, head });
              expect(one).not.toMatch(/^A*=*$/); // written at all
              expect(headBytes(views[1]!, { block, layer, plane, head })).toBe(one);
              const copies = Math.max(1, 4 / kvHeads);
              for (let copy = 0; copy < copies; copy++) expect(headBytes(views[2]!, { block, layer, plane, head }, copy)).toBe(one);
            }
          }
        }
      }
      for (const arena of views) expect(arena.ranks!.reduce((sum, rank) => sum + rank.lengthBytes, 0)).toBe(arena.segments[0]!.lengthBytes);
      expect(new Set(views.map((arena) => arena.layoutFingerprint)).size).toBe(3);
      expect(new Set(runners.map(({ model }) => model.fingerprint)).size).toBe(1);
    });
  }

  it('engines: golden prompts, sampled with logprobs and greedy', async () => {
    const prompts = golden.items.slice(0, 24);
    const answers: string[] = [];
    for (const tensorParallel of [1, 2, 4]) {
      const engine = await createEngine({ tensorParallel, maxBatchedTokens: 64 });
      engines.push(engine);
      await engine.start();
      const said = await Promise.all(
        prompts.map(async ({ prompt, greedy }, i) => {
          const plain = request(prompt);
          const sampling = i % 2 === 0 ? { ...plain.sampling, topLogprobs: 3 } : { ...plain.sampling, temperature: 0.8, topK: 20, seedLo: i, topLogprobs: 0 };
          const answer = await ask(engine, { ...plain, id: `r${i}`, sampling });
          expect(answer.end?.type).toBe('finished');
          if (i % 2 === 0) expect(answer.tokens[0]).toEqual(greedy);
          return { tokens: answer.tokens, logprobs: bitsOf(Float32Array.from(answer.logprobs)) };
        }),
      );
      answers.push(JSON.stringify(said));
    }
    expect(answers[1]).toBe(answers[0]);
    expect(answers[2]).toBe(answers[0]);
  });
});

it('sabotage: two heads swapped between ranks change the logits', () => {
  const runner = runnerFor(writeCheckpoint({ config: MODELS['8 query and 4 KV heads'], seed: 3 }), 2);
  const tokens = randomSteps(26).flat().flatMap((s) => s.tokens).slice(0, 20);
  runner.step([{ tokens: tokens.slice(0, 19), context: 0, blocks: [4, 9, 1], samples: false }]);
  const last = (): string => bitsOf(runner.step([{ tokens: tokens.slice(19), context: 19, blocks: [4, 9, 1], samples: true }])[0]!);
  const clean = last();
  expect(last()).toBe(clean);
  const { plan, memory } = runner.model;
  const headFloats = plan.shape.headDim * plan.limits.blockSize;
  const [a, b] = plan.rankArenas.map((arena) => new Float32Array(memory.buffer, arena + 4 * plan.rankBlockBytes, headFloats));
  const kept = a!.slice();
  a!.set(b!);
  b!.set(kept);
  expect(last()).not.toBe(clean);
});

it('refuses ranks that cannot share the heads evenly, and says which can', async () => {
  const folder = writeCheckpoint({ config: { num_attention_heads: 6, num_key_value_heads: 3, head_dim: 8 } });
  await expect(createEngine({ tensorParallel: 4 }, folder)).rejects.toMatchObject({ code: 'ENGINE_CONFIG_INVALID', message: expect.stringContaining('6 query heads and 3 KV heads') as string, hint: 'set tensorParallel to 1' });
  const even = writeCheckpoint({ config: { num_attention_heads: 6, num_key_value_heads: 2, head_dim: 8 } });
  await expect(createEngine({ tensorParallel: 4 }, even)).rejects.toMatchObject({ hint: 'set tensorParallel to 1 or 2' });
});
