import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { Checkpoint } from './checkpoint/checkpoint.ts';
import { argmax } from './reference/ops.ts';
import { ReferenceLlama } from './reference/llama.ts';
import { DirectRunner } from './testing/direct-runner.ts';

const demo = fileURLToPath(new URL('../../model-demo/', import.meta.url));

interface Golden {
  readonly items: readonly { readonly prompt: number[]; readonly greedy: number[]; readonly top5: readonly (readonly [number, number])[] }[];
}
const golden = JSON.parse(readFileSync(`${demo}golden.json`, 'utf8')) as Golden;
const blocks = Array.from({ length: 64 }, (_, i) => (i * 37) % 64);

it('says what transformers says: 64 prompts x 32 greedy tokens, top-5 logits within 1e-3', () => {
  const runner = new DirectRunner(`${demo}model`);
  let equalTokens = 0;
  let equalPrompts = 0;
  let largestDifference = 0;
  const timed = { prefill: 0, decode: 0 };
  let promptTokens = 0;
  for (const { prompt, greedy, top5 } of golden.items) {
    const startedMs = performance.now();
    let [logits] = runner.step([{ tokens: prompt, context: 0, blocks, samples: true }]);
    const firstTokenMs = performance.now();
    timed.prefill += firstTokenMs - startedMs;
    promptTokens += prompt.length;
    for (const [id, value] of top5) largestDifference = Math.max(largestDifference, Math.abs(logits![id]! - value));
    const said: number[] = [];
    for (let i = 0; i < greedy.length; i++) {
      const token = argmax(logits!);
      said.push(token);
      [logits] = runner.step([{ tokens: [token], context: prompt.length + i, blocks, samples: true }]);
    }
    timed.decode += performance.now() - firstTokenMs;
    const matching = said.filter((token, i) => token === greedy[i]).length;
    equalTokens += matching;
    if (matching === greedy.length) equalPrompts++;
  }
  process.stdout.write(`golden: ${equalPrompts} of ${golden.items.length} prompts, ${equalTokens} tokens equal, largest logit difference ${largestDifference.toExponential(2)}\n`);
  const [prefill, decode] = [promptTokens / timed.prefill, equalTokens / timed.decode].map((perMs) => Math.round(perMs * 1000));
  process.stdout.write(`speed here and now: prefill ${prefill} tokens/s, single-stream decode ${decode} tokens/s\n`);
  expect(equalPrompts).toBe(64);
  expect(equalTokens).toBe(64 * 32);
  expect(largestDifference).toBeLessThan(1e-3);
});

it('the plain model and the kernels agree bit for bit on the demo model', () => {
  const runner = new DirectRunner(`${demo}model`);
  const plain = new ReferenceLlama(Checkpoint.open(`${demo}model`));
  const tokens = golden.items[0]!.prompt.concat(golden.items[0]!.greedy.slice(0, 4));
  let expected = new Float32Array(0) as Float32Array;
  for (const token of tokens) expected = plain.next(token);
  const [logits] = runner.step([{ tokens, context: 0, blocks, samples: true }]);
  expect(new Uint32Array(Float32Array.from(logits!).buffer)).toEqual(new Uint32Array(Float32Array.from(expected).buffer));
});
