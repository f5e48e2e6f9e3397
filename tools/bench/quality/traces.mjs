// Workloads as arrays of {atMs, promptTokens, outputTokens, blocks}: `blocks` are ids of prompt blocks (the last one possibly partial),
// equal ids = equal tokens at equal places after equal tokens. Every generator is a function of its seed.
import { readFileSync } from 'node:fs';
import { seeded } from '../lib/measure.mjs';

export const BLOCK_SIZE = 512;
const TRACE = new URL('../data/mooncake_synthetic_trace.jsonl', import.meta.url);

/** Mooncake's synthetic trace (FAST '25): 3,993 requests, 43,924 distinct blocks of 512 tokens. */
export function mooncake(limit = Infinity) {
  const lines = readFileSync(TRACE, 'utf8').trim().split('\n').slice(0, limit);
  return finish(
    lines.map((line) => {
      const row = JSON.parse(line);
      return { atMs: row.timestamp, promptTokens: row.input_length, outputTokens: Math.max(1, row.output_length), blocks: Int32Array.from(row.hash_ids) };
    }),
  );
}

/** Groups that share a prefix, each request with a question of its own; Poisson arrivals (reference: 16 x 2,000 tokens). */
export function sharedPrefixes({ seed, requests = 1600, groups = 16, prefixTokens = 2048, ownTokens = 200, outputTokens = 16, blockSize = 16 }) {
  const random = seeded(seed);
  const ids = counter();
  const prefixes = Array.from({ length: groups }, () => chain(ids, prefixTokens / blockSize));
  return finish(
    poisson(random, requests, () => {
      const promptTokens = prefixTokens + 1 + random.below(ownTokens * 2);
      return { promptTokens, outputTokens, blocks: extend(prefixes[random.below(groups)], ids, Math.ceil(promptTokens / blockSize)) };
    }),
    blockSize,
  );
}

/** Conversations whose context grows turn by turn; users think between turns. Popularity is even, lengths vary. */
export function chats({ seed, conversations = 400, turns = 8, systemTokens = 1024, turnTokens = 700, outputTokens = 150, blockSize = 64 }) {
  const random = seeded(seed);
  const ids = counter();
  const system = chain(ids, systemTokens / blockSize);
  const rows = [];
  for (let c = 0; c < conversations; c++) {
    let atMs = random.next() * 1_000_000;
    let tokens = systemTokens;
    let blocks = system;
    for (let turn = 0; turn < 1 + random.below(turns * 2 - 1); turn++) {
      tokens += 1 + random.below(turnTokens * 2);
      const answer = 1 + random.below(outputTokens * 2);
      // The last block is partial: the next turn replaces it, as its tokens differ.
      blocks = extend(blocks.subarray(0, Math.min(blocks.length, Math.floor((tokens - 1) / blockSize))), ids, Math.ceil(tokens / blockSize));
      rows.push({ atMs, promptTokens: tokens, outputTokens: answer, blocks });
      blocks = blocks.subarray(0, Math.floor(tokens / blockSize));
      tokens += answer;
      atMs += 5_000 + exponential(random) * 60_000;
    }
  }
  rows.sort((a, b) => a.atMs - b.atMs);
  return finish(rows, blockSize);
}

/** Documents of very uneven popularity (Zipf, exponent 1), long prompts, few answers. */
export function zipfDocuments({ seed, requests = 2000, documents = 200, meanBlocks = 24, outputTokens = 40, blockSize = BLOCK_SIZE }) {
  const random = seeded(seed);
  const ids = counter();
  const texts = Array.from({ length: documents }, () => chain(ids, 4 + random.below(meanBlocks * 2 - 8)));
  const cumulative = [];
  texts.reduce((sum, _text, rank) => (cumulative[rank] = sum + 1 / (rank + 1)), 0);
  return finish(
    poisson(random, requests, () => {
      const at = random.next() * cumulative[documents - 1];
      const text = texts[cumulative.findIndex((edge) => edge > at)];
      const own = 1 + random.below(blockSize);
      return { promptTokens: text.length * blockSize + own, outputTokens: 1 + random.below(outputTokens * 2), blocks: extend(text, ids, text.length + 1) };
    }),
    blockSize,
  );
}

/** Bursts of siblings: several samples of one new prompt within milliseconds (n > 1, tree search, evaluation). */
export function siblings({ seed, bursts = 120, width = 8, promptTokens = 4096, outputTokens = 32, blockSize = 64 }) {
  const random = seeded(seed);
  const ids = counter();
  const rows = [];
  let atMs = 0;
  for (let b = 0; b < bursts; b++) {
    atMs += exponential(random) * 1000 * width;
    const blocks = chain(ids, promptTokens / blockSize);
    for (let i = 0; i < width; i++) rows.push({ atMs: atMs + i * 2, promptTokens: promptTokens + 8, outputTokens: 1 + random.below(outputTokens * 2), blocks: extend(blocks, ids, blocks.length + 1) });
  }
  return finish(rows, blockSize);
}

/** Cold prompts one after the other, each sent when the one before has long ended. */
export function sequentialCold({ seed, requests = 100, promptTokens = 2048, outputTokens = 8, gapMs = 60_000, blockSize = 64 }) {
  const ids = counter();
  const random = seeded(seed);
  return finish(
    Array.from({ length: requests }, (_, i) => ({ atMs: i * gapMs + random.below(1000), promptTokens, outputTokens, blocks: chain(ids, promptTokens / blockSize) })),
    blockSize,
  );
}

/** The same requests in the same order with Poisson arrivals of the same mean rate. Seed 0 keeps the times. */
export function rearranged(trace, seed) {
  if (seed === 0) return trace;
  const random = seeded(seed * 7919);
  const gapMs = trace.rows[trace.rows.length - 1].atMs / trace.rows.length;
  let atMs = 0;
  return { ...trace, rows: trace.rows.map((row) => ({ ...row, atMs: (atMs += exponential(random) * gapMs) })) };
}

function finish(rows, blockSize = BLOCK_SIZE) {
  const distinct = new Set();
  let blocks = 0;
  let tokens = 0;
  for (const row of rows) {
    tokens += row.promptTokens;
    blocks += Math.floor(row.promptTokens / blockSize);
    for (let i = 0; i < row.blocks.length; i++) distinct.add(row.blocks[i]);
  }
  return { rows, blockSize, distinctBlocks: distinct.size, completeBlocks: blocks, promptTokens: tokens };
}

function poisson(random, requests, make) {
  let atMs = 0;
  return Array.from({ length: requests }, () => ({ atMs: (atMs += exponential(random) * 250), ...make() }));
}

const exponential = (random) => -Math.log(1 - random.next());

function counter() {
  let next = 0;
  return () => next++;
}

const chain = (ids, blocks) => Int32Array.from({ length: Math.ceil(blocks) }, ids);

function extend(prefix, ids, blocks) {
  const grown = new Int32Array(Math.max(blocks, prefix.length));
  grown.set(prefix);
  for (let i = prefix.length; i < grown.length; i++) grown[i] = ids();
  return grown;
}

/** By the name that jobs carry. */
export const generators = { mooncake, sharedPrefixes, chats, zipfDocuments, siblings, sequentialCold };
