import { readFileSync } from 'node:fs';
import { Tokenizer as Library } from '@huggingface/tokenizers';
import { expect, test } from 'vitest';
import { BpeEncoder } from './bpe-encoder.ts';
import { oracleDiffers } from './library-oracle.test.helper.ts';
import { TestRandom, randomText } from './random-text.test.helper.ts';
import { wellFormed } from './well-formed.ts';
import { TokenBuffer } from './token-buffer.ts';
import type { TokenizerJson } from './tokenizer-json.ts';

const load = (path: string): TokenizerJson => JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')) as TokenizerJson;
const demo = load('../../../model-demo/model/tokenizer.json');
const gpt2 = load('../../fixtures/gpt2.tokenizer.json');
// The demo's vocabulary has no merge next to a digit; with gpt2's the digit rule changes ids.
const gpt2Digits: TokenizerJson = { ...gpt2, pre_tokenizer: demo.pre_tokenizer ?? null };
const layouts: { name: string; json: TokenizerJson; kind: string; texts: number }[] = [
  { name: 'demo', json: demo, kind: 'gpt2-digits', texts: 45_000 },
  { name: 'gpt2', json: gpt2, kind: 'gpt2', texts: 15_000 },
  { name: 'gpt2-digits', json: gpt2Digits, kind: 'gpt2-digits', texts: 15_000 },
  { name: 'llama3', json: load('../../fixtures/llama3.tokenizer.json'), kind: 'cl100k', texts: 15_000 },
  { name: 'qwen2', json: load('../../fixtures/qwen2.tokenizer.json'), kind: 'qwen2', texts: 15_000 },
  { name: 'llama2', json: load('../../fixtures/llama2.tokenizer.json'), kind: 'metaspace', texts: 15_000 },
];

function encode(encoder: BpeEncoder, text: string): number[] {
  const buffer = new TokenBuffer(4);
  encoder.encodeInto(text, buffer);
  return [...buffer.copy()];
}

for (const { name, json, kind, texts } of layouts) {
  test(`ids equal the library's over ${texts} random texts: ${name}`, { timeout: 120_000 }, () => {
    const seed = 20261123;
    console.log(`bpe-encoder.test ${name} seed ${seed}`);
    const random = new TestRandom(seed);
    // A small cache, so that generations turn over and both are hit.
    const encoder = BpeEncoder.create(json, { cacheWords: 2048 }) as BpeEncoder;
    expect(encoder.layout.kind).toBe(kind);
    const library = new Library(json, {});
    const special = json.added_tokens.map((token) => token.content);
    let compared = 0;
    let tokens = 0;
    for (let i = 0; i < texts; i++) {
      const text = randomText(random, special);
      const ids = encode(encoder, text);
      if (oracleDiffers(text, kind === 'gpt2-digits')) continue;
      const expected = library.encode(wellFormed(text), { add_special_tokens: false }).ids;
      compared++;
      tokens += ids.length;
      if (ids.length !== expected.length || ids.some((id, k) => id !== expected[k])) {
        expect.fail(`${name}, seed ${seed}, text ${i} ${JSON.stringify(text)}: own ${ids.join(' ')}, library ${expected.join(' ')}`);
      }
    }
    console.log(`${name}: ${compared} of ${texts} texts compared, ${tokens} tokens, ${encoder.misses} of ${encoder.words} words missed`);
    expect(compared).toBeGreaterThan(texts * 0.6);
    expect(encoder.misses).toBeLessThan(encoder.words * 0.7); // the cache was in play
    expect(encoder.misses).toBeGreaterThan(4096); // and turned over
  });
}

test('the comparison can fail: the same vocabulary without the digit rule gives other ids', () => {
  const sabotaged = BpeEncoder.create(gpt2) as BpeEncoder;
  const encoder = BpeEncoder.create(gpt2Digits) as BpeEncoder;
  const random = new TestRandom(1);
  let different = 0;
  for (let i = 0; i < 500; i++) {
    const text = randomText(random, ['<|end|>']);
    if (encode(encoder, text).join() !== encode(sabotaged, text).join()) different++;
  }
  expect(different).toBeGreaterThan(10);
});

test('what is not known exactly is refused', () => {
  const variants: Partial<TokenizerJson>[] = [
    { model: { ...demo.model, type: 'Unigram' } },
    { model: { ...demo.model, dropout: 0.1 } },
    { model: { ...demo.model, merges: [['Ġ', 'no such token']] } },
    { normalizer: { type: 'Lowercase' } },
    { pre_tokenizer: { type: 'Whitespace' } },
    { pre_tokenizer: null },
    { pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: false }, { type: 'ByteLevel', add_prefix_space: false }] } },
    { added_tokens: [{ id: 0, content: '<|bos|>', lstrip: true }] },
    { normalizer: { type: 'NFC' }, added_tokens: [{ id: 0, content: '<|bos|>', normalized: true }] },
  ];
  for (const variant of variants) expect(BpeEncoder.create({ ...demo, ...variant }), JSON.stringify(variant).slice(0, 80)).toBeUndefined();
  const llama2 = layouts[5].json;
  expect(BpeEncoder.create({ ...llama2, model: { ...llama2.model, vocab: { ...llama2.model.vocab, 'a▁b': 9999 } } })).toBeUndefined();
});

test('very long words and texts take the heap and stay exact', () => {
  const encoder = BpeEncoder.create(demo) as BpeEncoder;
  const library = new Library(demo, {});
  for (const text of ['a'.repeat(3000), 'thethe'.repeat(700), ' '.repeat(3000), '日本'.repeat(400), `${'x'.repeat(97)} ${'the '.repeat(20_000)}`]) {
    expect(encode(encoder, text)).toEqual(library.encode(text, { add_special_tokens: false }).ids);
  }
  // One word of a million characters: linear-logarithmic, no copy of the list per merge.
  expect(encode(encoder, 'ab'.repeat(500_000)).length).toBeGreaterThan(1000);
});
