import { expect, test } from 'vitest';
import { exitCodeOf } from '../exit-codes.ts';
import { hashTokens, parseBlockSize } from './hash.ts';

const failure = (body: () => unknown): { code: string; exit: number } => {
  try {
    body();
  } catch (error) {
    return { code: (error as { code: string }).code, exit: exitCodeOf(error) };
  }
  throw new Error('did not fail');
};

test('hashes of complete blocks only; nothing for nothing', () => {
  const tokens = Array.from({ length: 40 }, (_, i) => i);
  const report = hashTokens(JSON.stringify(tokens), 16);
  expect(report.sequenceHashes).toEqual(['d47a8f41c833328a', 'bf15dffb16447f38']); // as in packages/tokens, checked against Dynamo
  expect(report.blockHashes[0]).toBe(report.sequenceHashes[0]);
  expect(report.blockHashes).toHaveLength(2);
  for (const text of ['[]', ' [1, 2]\n']) expect(hashTokens(text, 16)).toEqual({ blockHashes: [], sequenceHashes: [] });
});

test('salt and LoRA change the hashes and the empty string is absent; the largest id is an id', () => {
  const text = JSON.stringify([4294967295, 0]);
  const plain = hashTokens(text, 1).blockHashes;
  expect(hashTokens(text, 1, { salt: '', lora: '' }).blockHashes).toEqual(plain);
  const all = [plain[0], ...[{ salt: 'ä' }, { lora: 'ä' }, { salt: 'ä', lora: 'ä' }].map((salts) => hashTokens(text, 1, salts).blockHashes[0])];
  expect(new Set(all).size).toBe(4);
});

test('bad input is a coded usage error', () => {
  for (const text of ['', '{', '{}', 'null', '"1"', '[-1]', '[1.5]', '[4294967296]', '["1"]', '[null]', '[[1]]', '[1e400]']) {
    expect(failure(() => hashTokens(text, 16)), text).toEqual({ code: 'USAGE_TOKENS_INVALID', exit: 2 });
  }
  for (const size of ['0', '-1', '1.5', 'x', '', '1e3', '99999999999999999999']) expect(failure(() => parseBlockSize(size)), size).toEqual({ code: 'USAGE_BLOCK_SIZE_INVALID', exit: 2 });
  expect(parseBlockSize('128')).toBe(128);
});
