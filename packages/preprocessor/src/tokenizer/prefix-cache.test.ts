import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { BpeEncoder } from './bpe-encoder.ts';
import { PrefixCache } from './prefix-cache.ts';
import { TestRandom, randomText } from './random-text.test.helper.ts';
import { TokenBuffer } from './token-buffer.ts';
import type { TokenizerJson } from './tokenizer-json.ts';

const read = (path: string): TokenizerJson => JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')) as TokenizerJson;
const json = read('../../fixtures/llama3.tokenizer.json');

function whole(encoder: BpeEncoder, text: string): Int32Array {
  const out = new TokenBuffer();
  encoder.encodeInto(text, out);
  return out.copy();
}

test('conversations that grow give the ids of the whole text, and reuse what was encoded', () => {
  const seed = 31337;
  console.log(`prefix-cache.test seed ${seed}`);
  const random = new TestRandom(seed);
  for (const tokens of [json, read('../../../model-demo/model/tokenizer.json'), read('../../fixtures/llama2.tokenizer.json')]) {
    const encoder = BpeEncoder.create(tokens) as BpeEncoder;
    const reference = BpeEncoder.create(tokens) as BpeEncoder;
    const cache = new PrefixCache(encoder, 1 << 22);
    const special = tokens.added_tokens.map((token) => token.content);
    const chats = Array.from({ length: 6 }, (_, i) => `${special[0]}${'You are helpful. '.repeat(20)}${i % 2}`);
    let reused = 0;
    for (let turn = 0; turn < 300; turn++) {
      const i = random.below(chats.length);
      if (random.below(40) === 0) chats[i] = chats[i].slice(0, 300 + random.below(500)); // an edited history
      chats[i] += random.pick(special) + randomText(random, special);
      const { tokenIds, reusedTokens } = cache.encode(chats[i]);
      const expected = whole(reference, chats[i]);
      if (Buffer.compare(Buffer.from(tokenIds.buffer), Buffer.from(expected.buffer)) !== 0) expect.fail(`seed ${seed} turn ${turn}: ids differ`);
      expect(reusedTokens).toBeLessThanOrEqual(tokenIds.length);
      reused += reusedTokens;
    }
    expect(cache.hits).toBeGreaterThan(200);
    expect(cache.reusedTokens).toBe(reused);
  }
});

test('a cut only behind tokens that nothing longer contains', () => {
  const tricky: TokenizerJson = {
    ...json,
    added_tokens: [
      { id: 900, content: '<|a|>' },
      { id: 901, content: '<|a|>b' },
      { id: 902, content: '<|c|>' },
    ],
  };
  const encoder = BpeEncoder.create(tricky) as BpeEncoder;
  const cache = new PrefixCache(encoder, 1 << 20);
  const start = `${'x '.repeat(200)}`;
  cache.encode(`${start}<|a|>`);
  expect(cache.usedBytes).toBe(0); // `<|a|>` may turn out to be `<|a|>b`
  expect(cache.encode(`${start}<|a|>b`).tokenIds).toEqual(whole(encoder, `${start}<|a|>b`));
  cache.encode(`${start}<|c|>`);
  expect(cache.encode(`${start}<|c|>more`).reusedTokens).toBeGreaterThan(100);
});

test('memory stays within the budget, groups within eight entries, and 0 switches it off', () => {
  const encoder = BpeEncoder.create(json) as BpeEncoder;
  const cache = new PrefixCache(encoder, 50_000);
  for (let i = 0; i < 400; i++) {
    cache.encode(`${i % 7} ${'word '.repeat(100 + (i % 50))}${i}<|eot_id|>tail`);
    expect(cache.usedBytes).toBeLessThanOrEqual(50_000);
  }
  expect(cache.usedBytes).toBeGreaterThan(10_000);
  cache.clear();
  expect(cache.usedBytes).toBe(0);
  const many = new PrefixCache(encoder, 1 << 24);
  const text = (i: number): string => `${'same start '.repeat(40)}${i}<|eot_id|>`;
  for (let i = 0; i < 20; i++) many.encode(text(i));
  expect(many.encode(`${text(19)}x`).reusedTokens).toBeGreaterThan(0);
  expect(many.encode(`${text(2)}x`).reusedTokens).toBe(0); // pushed out by eight later ones
  const off = new PrefixCache(encoder, 0);
  off.encode(text(1));
  expect(off.encode(text(1)).reusedTokens).toBe(0);
});
