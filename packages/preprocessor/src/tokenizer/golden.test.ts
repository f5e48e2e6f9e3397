import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { BpeEncoder } from './bpe-encoder.ts';
import { TokenBuffer } from './token-buffer.ts';
import type { TokenizerJson } from './tokenizer-json.ts';

// Ids from PyPI tokenizers (Rust), the reference; made by tools/tokenizer-fixtures/generate.py.
interface Golden {
  readonly texts: string[];
  readonly layouts: Record<string, { readonly ids: number[][] }>;
}
const isolateDigits = (json: TokenizerJson): TokenizerJson => ({
  ...json,
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Digits', individual_digits: true },
      { type: 'ByteLevel', add_prefix_space: false },
    ],
  },
});
const read = (path: string): unknown => JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8'));
const golden = read('../../fixtures/golden.json') as Golden;

for (const [name, { ids }] of Object.entries(golden.layouts)) {
  test(`ids equal the Rust reference's: ${name}`, () => {
    const path = name === 'demo' ? '../../../model-demo/model/tokenizer.json' : `../../fixtures/${name.replace('-digits', '')}.tokenizer.json`;
    const json = read(path) as TokenizerJson;
    const encoder = BpeEncoder.create(name === 'gpt2-digits' ? isolateDigits(json) : json) as BpeEncoder;
    for (let pass = 0; pass < 2; pass++) { // cold and warm cache
      golden.texts.forEach((text, i) => {
        const buffer = new TokenBuffer();
        encoder.encodeInto(text, buffer);
        expect([...buffer.copy()], JSON.stringify(text)).toEqual(ids[i]);
      });
    }
  });
}
