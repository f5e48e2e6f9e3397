import { beforeEach, describe, expect, it } from 'vitest';
import { exp32 } from '../math/elementary.ts';
import type { SamplingSetup, StepResult } from '@armature/engine-core';
import { argmax, sumExponentials } from '../reference/ops.ts';
import { randomFloats, seededRandom } from '../testing/write-checkpoint.ts';
import { uniformDraw } from '@armature/engine-core';
import { Sampler } from './sampler.ts';

const VOCAB = 50;
const NEUTRAL: SamplingSetup = {
  slot: 0,
  choice: 0,
  temperature: 1,
  topP: 1,
  topK: 0,
  minP: 0,
  seedLo: 5,
  seedHi: 6,
  frequencyPenalty: 0,
  presencePenalty: 0,
  repetitionPenalty: 1,
  biasTokenIds: new Int32Array(0),
  biasValues: new Float32Array(0),
  topLogprobs: -1,
  promptTokenIds: new Int32Array(0),
  outputTokenIds: new Int32Array(0),
  minTokens: 0,
  bannedBeforeMinTokens: new Int32Array(0),
};

const bias = (id: number, value: number): Partial<SamplingSetup> => ({ biasTokenIds: Int32Array.of(id), biasValues: Float32Array.of(value) });

let result: StepResult;
let sampler: Sampler;

beforeEach(() => {
  result = { tokenIds: new Int32Array(4), logprobs: new Float32Array(4), topTokenIds: new Int32Array(80), topLogprobs: new Float32Array(80), maxTopLogprobs: 20 };
  sampler = new Sampler({
    math: { argmax, sumExponentials, exponentials: (values, out) => out.set(values.map(exp32)) },
    adjusted: new Float32Array(VOCAB),
    weights: new Float32Array(VOCAB),
    result,
  });
});

function draw(setup: Partial<SamplingSetup>, logits: Float32Array, outputIndex = 0): number {
  sampler.open({ ...NEUTRAL, ...setup });
  expect(sampler.sample(0, logits, outputIndex, 0)).toBe(true);
  return result.tokenIds[0]!;
}

/** The same distribution computed plainly: filters over a sorted list of probabilities. */
function naive(setup: SamplingSetup, logits: Float32Array, u: number): number {
  let list = [...logits].map((logit, id) => ({ id, p: Math.exp((logit - Math.max(...logits)) / setup.temperature) }));
  const filtered = setup.topK > 0 || setup.topP < 1 || setup.minP > 0;
  if (filtered) list.sort((a, b) => b.p - a.p || a.id - b.id);
  if (setup.topK > 0) list = list.slice(0, setup.topK);
  const mass = list.reduce((sum, item) => sum + item.p, 0);
  let before = 0;
  if (setup.topP < 1) {
    list = list.filter((item) => {
      const keep = before < setup.topP * mass;
      before += item.p;
      return keep;
    });
  }
  if (setup.minP > 0) list = list.filter((item) => item.p >= setup.minP);
  const total = list.reduce((sum, item) => sum + item.p, 0);
  let sum = 0;
  for (const item of list) if ((sum += item.p) > u * total) return item.id;
  return list.at(-1)!.id;
}

describe('Sampler', () => {
  it('equals a naive sampler over random logits and settings', () => {
    const seed = 21;
    const random = seededRandom(seed);
    const drawn = new Set<number>();
    for (let i = 0; i < 2000; i++) {
      const setup = {
        ...NEUTRAL,
        temperature: 0.1 + 2 * random(),
        topK: random() < 0.5 ? 0 : 1 + Math.floor(random() * 60),
        topP: random() < 0.5 ? 1 : 0.05 + 0.95 * random(),
        minP: random() < 0.5 ? 0 : 0.3 * random(),
        seedLo: i,
      };
      const logits = randomFloats(random, VOCAB, random() < 0.5 ? 4 : 30);
      const token = draw(setup, logits, i);
      drawn.add(token);
      expect(token, `seed ${seed}, round ${i}`).toBe(naive(setup, logits, uniformDraw(i, 6, 0, i)));
    }
    expect(drawn.size).toBeGreaterThan(40);
  });

  it('temperature 0 takes the highest, the lowest id of equals', () => {
    const logits = new Float32Array(VOCAB);
    logits[7] = logits[9] = 3;
    expect(draw({ temperature: 0 }, logits)).toBe(7);
    expect(draw({ temperature: 0, ...bias(7, -1) }, logits)).toBe(9);
  });

  it('applies bias, then repetition over prompt and output, then frequency and presence over output', () => {
    const logits = new Float32Array(VOCAB);
    logits[1] = 10;
    logits[2] = 8;
    const greedy = { temperature: 0 };
    expect(draw({ ...greedy, repetitionPenalty: 1.5, promptTokenIds: Int32Array.of(1) }, logits)).toBe(2);
    expect(draw({ ...greedy, presencePenalty: 2, promptTokenIds: Int32Array.of(1) }, logits)).toBe(1);
    expect(draw({ ...greedy, presencePenalty: 1, frequencyPenalty: 0.6, outputTokenIds: Int32Array.of(1, 1) }, logits)).toBe(2);
    // 10 + 20 bias = 30, / 1.5 = 20 > 8: the bias is penalised too.
    expect(draw({ ...greedy, repetitionPenalty: 1.5, ...bias(1, 20), promptTokenIds: Int32Array.of(1) }, logits)).toBe(1);
  });

  it('counts what it draws', () => {
    const logits = new Float32Array(VOCAB);
    logits[1] = 1;
    sampler.open({ ...NEUTRAL, temperature: 0, frequencyPenalty: 0.4 });
    const tokens: number[] = [];
    for (let i = 0; i < 4; i++) {
      sampler.sample(0, logits, i, 0);
      tokens.push(result.tokenIds[0]!);
    }
    expect(tokens).toEqual([1, 1, 1, 0]);
  });

  it('bans tokens until the minimum length', () => {
    const logits = new Float32Array(VOCAB);
    logits[3] = 5;
    const ban = { temperature: 0, minTokens: 2, bannedBeforeMinTokens: Int32Array.of(3) };
    expect(draw(ban, logits, 1)).toBe(0);
    expect(draw(ban, logits, 2)).toBe(3);
    expect(draw({ ...ban, temperature: 1, ...bias(3, 100) }, logits, 1)).not.toBe(3);
  });

  it('gives logprobs of the raw logits and the best alternatives', () => {
    const logits = randomFloats(seededRandom(4), VOCAB, 5);
    const logTotal = Math.log([...logits].reduce((sum, logit) => sum + Math.exp(logit), 0));
    const token = draw({ topLogprobs: 3, temperature: 0.2, ...bias(11, 50) }, logits);
    expect(token).toBe(11);
    expect(result.logprobs[0]).toBeCloseTo(logits[11]! - logTotal, 5);
    const best = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!);
    expect([...result.topTokenIds.subarray(0, 4)]).toEqual([...best.slice(0, 3), -1]);
    expect(result.topLogprobs[2]).toBeCloseTo(logits[best[2]!]! - logTotal, 5);
    draw({ topLogprobs: 0 }, logits);
    expect(result.topTokenIds[0]).toBe(-1);
    expect(result.logprobs[0]).toBeLessThan(0);
  });

  it('refuses a slot that is not open', () => {
    expect(sampler.sample(2, new Float32Array(VOCAB), 0, 0)).toBe(false);
    sampler.open({ ...NEUTRAL, slot: 2 });
    expect(sampler.sample(2, new Float32Array(VOCAB), 0, 0)).toBe(true);
    sampler.close(2);
    expect(sampler.sample(2, new Float32Array(VOCAB), 0, 0)).toBe(false);
  });
});
