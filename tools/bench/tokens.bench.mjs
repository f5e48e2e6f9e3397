import { benchModel } from './lib/model-folder.mjs';
import { measureAll, seeded } from './lib/measure.mjs';

export const description = 'block and sequence hashes, tokenizer and detokenizer against @huggingface/tokenizers in the same run';
export const packages = ['tokens', 'preprocessor'];

const TOKENS = 8192;
const INPUT_TOKENS = 512;
const PROMPTS = 400;

export async function run({ log }) {
  return [...(await hashing()), ...(await tokenizing(log))];
}

async function hashing() {
  const { SequenceHasher, hashBlocks, noSalt, sequenceHashesInto } = await import('@armature/tokens');
  const random = seeded(1);
  const tokens = Int32Array.from({ length: TOKENS }, () => random.below(128_000));
  const out = { blockHashes: new Int32Array(TOKENS), sequenceHashes: new Int32Array(TOKENS) };
  const hashing = { blockSize: 16, salt: noSalt };
  const wide = { blockSize: 64, salt: noSalt };
  const hasher = new SequenceHasher(hashing);
  const cost = measureAll({
    both: () => hashBlocks(tokens, TOKENS, hashing, out),
    sequence: () => sequenceHashesInto(tokens, TOKENS, hashing, out.sequenceHashes),
    wide: () => sequenceHashesInto(tokens, TOKENS, wide, out.sequenceHashes),
    short: () => sequenceHashesInto(tokens, INPUT_TOKENS, hashing, out.sequenceHashes),
    append: () => {
      hasher.reset();
      for (let i = 0; i < TOKENS; i++) hasher.append(tokens[i]);
    },
    // The least it can cost here: one pass over the tokens.
    pass: () => {
      let sum = 0;
      for (let i = 0; i < TOKENS; i++) sum = (sum + tokens[i]) | 0;
      return sum;
    },
  });
  return [
    { name: 'block + sequence hashes, 8,192 tokens, blocks of 16', value: cost.both, unit: 'us', limit: cost.pass, target: 6.5 },
    { name: 'sequence hashes only', value: cost.sequence, unit: 'us', limit: cost.pass },
    { name: 'sequence hashes, blocks of 64', value: cost.wide, unit: 'us', limit: cost.pass },
    { name: 'sequence hashes, 512 tokens', value: cost.short, unit: 'us' },
    { name: 'appended token by token, 8,192 tokens', value: cost.append, unit: 'us' },
  ];
}

async function tokenizing(log) {
  const { createTokenizer } = await import('../../packages/preprocessor/dist/tokenizer/tokenizer.js');
  const { words, tokenizer: json } = benchModel(log);
  const own = createTokenizer(json);
  const library = createTokenizer(json, { forceLibrary: true });
  const random = seeded(11);
  const prompts = Array.from({ length: PROMPTS }, () => Array.from({ length: INPUT_TOKENS }, () => ` ${words[random.below(words.length)]}`).join(''));
  for (const prompt of prompts.slice(0, 20)) {
    const ids = own.encode(prompt);
    if (ids.length !== INPUT_TOKENS || Buffer.compare(Buffer.from(ids.buffer), Buffer.from(library.encode(prompt).buffer)) !== 0) {
      throw new Error('the own tokenizer and the library disagree: there is nothing to compare');
    }
  }
  const cost = measureAll(
    { own: (i) => own.encode(prompts[i % PROMPTS]), library: (i) => library.encode(prompts[i % PROMPTS]) },
    { rounds: 7, roundMs: 120 },
  );
  // Text not seen before: every word is new to the word cache of a fresh tokenizer.
  const fresh = createTokenizer(json);
  const before = process.cpuUsage();
  for (const prompt of prompts.slice(0, 30)) fresh.encode(prompt);
  const { user, system } = process.cpuUsage(before);
  const ids = own.encode(prompts[0]);
  const detokenize = (tokenizer) => () => {
    const detokenizer = tokenizer.openDetokenizer(false);
    let length = 0;
    for (let i = 0; i < ids.length; i++) length += detokenizer.push(ids[i]).length;
    return length;
  };
  const rows = [
    { name: `tokenize ${INPUT_TOKENS} tokens, words seen before (${own.encoderName})`, value: cost.own, unit: 'us', peer: cost.library, target: 19 },
    { name: `tokenize ${INPUT_TOKENS} tokens, first 30 prompts of a process`, value: (user + system) / 30, unit: 'us' },
  ];
  if (typeof own.openDetokenizer(false).push === 'function') {
    const text = measureAll({ own: detokenize(own), library: detokenize(library) });
    rows.push({ name: 'detokenize one token, incremental', value: text.own / ids.length, unit: 'us', peer: text.library / ids.length });
  }
  return rows;
}
