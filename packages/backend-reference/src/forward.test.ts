import { describe, expect, it } from 'vitest';
import { Checkpoint } from './checkpoint/checkpoint.ts';
import { ReferenceLlama } from './reference/llama.ts';
import { DirectRunner } from './testing/direct-runner.ts';
import type { DirectSequence } from './testing/direct-runner.ts';
import { seededRandom, writeCheckpoint } from './testing/write-checkpoint.ts';
import type { CheckpointChoices } from './testing/write-checkpoint.ts';

const bitsOf = (values: Float32Array): string => Buffer.from(Uint8Array.from(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))).toString('base64');

/** Logit bits after each token of the prompt, by the plain model. */
function referenceBits(folder: string, tokens: readonly number[]): string[] {
  const model = new ReferenceLlama(Checkpoint.open(folder));
  return tokens.map((token) => bitsOf(model.next(token)));
}

function randomTokens(random: () => number, count: number, vocabSize: number): number[] {
  return Array.from({ length: count }, () => Math.floor(random() * vocabSize));
}

const VARIANTS: Record<string, CheckpointChoices> = {
  'tied, odd sizes': {},
  'untied, f16': { config: { tie_word_embeddings: false }, dtype: 'F16' },
  'bf16 in three shards': { dtype: 'BF16', shards: 3 },
  'attention bias, one query head per kv head': { config: { attention_bias: true, num_attention_heads: 3, num_key_value_heads: 3, head_dim: 16 } },
  'Qwen2 biases, head of 40': { config: { architectures: ['Qwen2ForCausalLM'], head_dim: 40, num_attention_heads: 2, num_key_value_heads: 1 } },
  'llama3 rotary scaling': {
    config: { rope_scaling: { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 32 } },
  },
  'linear rotary scaling': { config: { rope_scaling: { type: 'linear', factor: 2 } } },
};

describe('forward pass equals the plain model bit for bit', () => {
  for (const [name, choices] of Object.entries(VARIANTS)) {
    it(`${name}: any chunking and block size`, () => {
      const seed = 7;
      const random = seededRandom(seed);
      const folder = writeCheckpoint(choices);
      const tokens = randomTokens(random, 45, 77);
      const expected = referenceBits(folder, tokens);
      let compared = 0;
      for (const blockSize of [4, 8, 16, 20]) {
        const runner = new DirectRunner(folder, { blockSize });
        const blocks = Array.from({ length: Math.ceil(tokens.length / blockSize) }, (_, i) => 40 - 3 * i);
        for (let round = 0; round < 6; round++) {
          for (let at = 0; at < tokens.length; ) {
            const chunk = round === 0 ? 1 : round === 1 ? tokens.length : 1 + Math.floor(random() * 20);
            const end = Math.min(tokens.length, at + chunk);
            const [logits] = runner.step([{ tokens: tokens.slice(at, end), context: at, blocks, samples: true }]);
            expect(bitsOf(logits!), `seed ${seed}, block size ${blockSize}, chunk ${at}..${end}`).toBe(expected[end - 1]);
            compared++;
            at = end;
          }
        }
      }
      expect(compared).toBeGreaterThan(200);
    });
  }

  it('any batch: prefill chunks and decodes of several sequences mixed', () => {
    const seed = 11;
    const random = seededRandom(seed);
    const folder = writeCheckpoint({ seed: 5 });
    const runner = new DirectRunner(folder, { blockSize: 8, maxBatchedTokens: 256 });
    const sequences = Array.from({ length: 7 }, (_, s) => {
      const tokens = randomTokens(random, 20 + Math.floor(random() * 60), 77);
      return { tokens, expected: referenceBits(folder, tokens), blocks: Array.from({ length: 12 }, (_, i) => s + 7 * i), at: 0 };
    });
    let compared = 0;
    for (let step = 0; sequences.some((s) => s.at < s.tokens.length); step++) {
      const batch: DirectSequence[] = [];
      const checks: { expected: string; sampled: boolean }[] = [];
      for (const s of sequences.slice().sort(() => random() - 0.5)) {
        if (s.at >= s.tokens.length || random() < 0.2) continue;
        const end = Math.min(s.tokens.length, s.at + (random() < 0.5 ? 1 : 1 + Math.floor(random() * 30)));
        const sampled = random() < 0.8;
        batch.push({ tokens: s.tokens.slice(s.at, end), context: s.at, blocks: s.blocks, samples: sampled });
        checks.push({ expected: s.expected[end - 1]!, sampled });
        s.at = end;
      }
      if (batch.length === 0) continue;
      const logits = runner.step(batch);
      const wanted = checks.filter((check) => check.sampled);
      expect(logits.length).toBe(wanted.length);
      wanted.forEach((check, i) => expect(bitsOf(logits[i]!), `seed ${seed}, step ${step}, row ${i}`).toBe(check.expected));
      compared += wanted.length;
    }
    expect(compared).toBeGreaterThan(20);
  });

  it('sabotage: one changed bit in a KV block changes the logits', () => {
    const folder = writeCheckpoint();
    const tokens = randomTokens(seededRandom(3), 20, 77);
    const runner = new DirectRunner(folder);
    const run = (): string => bitsOf(runner.step([{ tokens: tokens.slice(19), context: 19, blocks: [4, 9], samples: true }])[0]!);
    runner.step([{ tokens: tokens.slice(0, 19), context: 0, blocks: [4, 9], samples: false }]);
    const clean = run();
    const { plan, memory } = runner.model;
    new Uint32Array(memory.buffer, plan.arena + 4 * plan.rankBlockBytes, plan.rankBlockBytes / 4)[5]! ^= 1 << 20;
    expect(run()).not.toBe(clean);
  });
});
