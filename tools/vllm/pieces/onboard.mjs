// Our connector under a real vLLM: what it computed is kept in our host and disk tiers, and comes back after vLLM's own cache was emptied. vLLM counts the hits itself.
import { sumOf, quantile, until } from '../check.mjs';
import { inGroups, seeded } from '../prompts.mjs';
import { BLOCK_SIZE } from '../server.mjs';
import { TieredVllm } from '../tiers.mjs';

const HITS = 'vllm:external_prefix_cache_hits_total';
const PROMPTS = 8;
const OUTPUT = 16;
const BENCH_TOKENS = 150;
const BENCH_ROUNDS = 15;
/** 48 blocks of 64 KiB: what eight prompts of up to 300 tokens do not fill, and thirty more do. */
const HOST = '3MiB';
/** vLLM's own cache: too small for eight long answers at once, so that requests are preempted. */
const FLAGS = ['--num-gpu-blocks-override', '24', '--max-model-len', '640'];
const PREEMPTED = 'vllm:num_preemptions_total';

/** The demo model's vocabulary is 1,024 tokens. */
export function randomPrompt(random, length) {
  return Array.from({ length }, () => 10 + random.below(1_000));
}

const words = ({ tokens }) => tokens.join(' ');
const blocksOf = ({ length }) => Math.floor(length / BLOCK_SIZE);
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

export async function run({ bench, checks }) {
  await bench.endPair();
  const vllm = await TieredVllm.start({ name: 'onboard', install: bench.install, folder: bench.folder, hostCapacity: HOST, diskCapacity: '64MiB', offload: { host: 'stored' }, flags: FLAGS });
  bench.own({ stop: () => vllm.close() });
  const random = seeded(31);
  const prompts = Array.from({ length: PROMPTS }, () => randomPrompt(random, 64 + random.below(120)));
  const first = await fromHost({ vllm, checks, prompts });
  await afterDamage({ vllm, checks, prompt: prompts[1], before: first[1] });
  await fromDisk({ vllm, checks, prompts, first, random });
  await whenExpired({ vllm, checks, prompt: prompts[0], before: first[0] });
  await measure({ vllm, checks, random, tokens: BENCH_TOKENS, isJudged: true });
  await measure({ vllm, checks, random, tokens: 500, isJudged: false });
  await underPressure({ vllm, checks, random });
  await withoutWorker({ vllm, checks, prompt: prompts[0], before: first[0] });
  await killed({ vllm, checks, random });
}

async function askAll(vllm, prompts) {
  const answers = [];
  for (const prompt of prompts) answers.push(await vllm.generate(prompt, OUTPUT));
  return answers;
}

const hitsOf = async ({ server }) => sumOf(await server.metrics(), HITS);
const held = (vllm) => Object.values(vllm.manager.host.counts()).every((count) => count === 0);
const quiet = (vllm) => until('nothing is pinned or reserved', () => held(vllm), 10_000);

async function fromHost({ vllm, checks, prompts }) {
  const first = await askAll(vllm, prompts);
  const blocks = sum(prompts.map(blocksOf));
  // The last token of an answer is never computed.
  const filled = sum(prompts.map(({ length }) => Math.floor((length + OUTPUT - 1) / BLOCK_SIZE)));
  await until('every complete block is in the host tier', () => vllm.connector.counts.keptBlocks >= filled, 10_000);
  checks.check('every block that vLLM filled was kept, those of its answers too', vllm.connector.counts.keptBlocks === filled && filled > blocks, `${filled}, ${blocks} of them of prompts`);
  await vllm.server.resetCache();
  const before = await hitsOf(vllm);
  const again = await askAll(vllm, prompts);
  const hits = (await hitsOf(vllm)) - before;
  checks.check("after vLLM's cache was emptied, its own count of external hits is every complete block", hits === blocks * BLOCK_SIZE, `${hits} of ${sum(prompts.map(({ length }) => length))} prompt tokens`);
  checks.check('they came from our host tier', vllm.connector.counts.pulled.host === blocks, vllm.connector.counts.pulled);
  checks.check('the same tokens as computed', again.every((answer, i) => words(answer) === words(first[i])));
  const other = await vllm.generate(prompts[0], OUTPUT, { salt: 'another tenant' });
  checks.check('another tenant finds nothing, and gets the same tokens', (await hitsOf(vllm)) - before === hits && words(other) === words(first[0]));
  await quiet(vllm);
  return first;
}

/** A flipped bit in host memory is found before vLLM copies the block. */
async function afterDamage({ vllm, checks, prompt, before }) {
  await vllm.server.resetCache();
  const { memory } = vllm.manager.host;
  for (let block = 0; block < memory.blocks; block++) memory.bytes[block * memory.blockStrideBytes + 777] ^= 16;
  const hits = await hitsOf(vllm);
  const answer = await vllm.generate(prompt, OUTPUT);
  const corrupt = vllm.manager.stats().corruptBlocks;
  checks.check('spoilt blocks of the host tier are found and recomputed', corrupt > 0 && (await hitsOf(vllm)) === hits && words(answer) === words(before), `${corrupt} found`);
  for (let block = 0; block < memory.blocks; block++) memory.bytes[block * memory.blockStrideBytes + 777] ^= 16;
  await quiet(vllm);
}

async function fromDisk({ vllm, checks, prompts, first, random }) {
  await until('the disk has what the host has', () => vllm.tier('disk').heldBlocks >= sum(prompts.map(blocksOf)), 20_000);
  for (let i = 0; i < 30; i++) await vllm.generate(randomPrompt(random, 130), 1); // push them out of the host tier
  await vllm.server.resetCache();
  const [before, pulled] = [await hitsOf(vllm), vllm.connector.counts.pulled.disk];
  const again = await askAll(vllm, prompts);
  const hits = (await hitsOf(vllm)) - before;
  const disk = vllm.connector.counts.pulled.disk - pulled;
  checks.check('blocks that left host memory come from our disk tier', disk > 0 && hits >= disk * BLOCK_SIZE, `${disk} blocks from disk, ${hits} tokens counted by vLLM`);
  checks.check('the same tokens as computed', again.every((answer, i) => words(answer) === words(first[i])));
  await quiet(vllm);
}

/** Every lease is over when vLLM gives it back: what it copied must not be used. */
async function whenExpired({ vllm, checks, prompt, before }) {
  await vllm.server.resetCache();
  const { host } = vllm.manager;
  const release = host.release;
  host.release = (lease) => {
    release.call(host, lease);
    return 'expired';
  };
  const failed = vllm.connector.counts.failedBlocks;
  try {
    const answer = await vllm.generate(prompt, OUTPUT);
    checks.check('a lease that expired under the copy: vLLM recomputes, the same tokens', words(answer) === words(before), `${vllm.connector.counts.failedBlocks - failed} blocks failed`);
    checks.check('vLLM reported the blocks as failed', vllm.connector.counts.failedBlocks - failed >= blocksOf(prompt));
  } finally {
    delete host.release;
  }
}

/** In turns, so that a busy machine slows both. Every recomputed prompt is one that nobody has seen. */
async function measure({ vllm, checks, random, tokens, isJudged }) {
  const known = randomPrompt(random, tokens);
  await vllm.generate(known, 1);
  const [onboard, recompute, local] = [[], [], []];
  for (let i = 0; i < BENCH_ROUNDS; i++) {
    await vllm.server.resetCache();
    onboard.push((await vllm.generate(known, 1)).tookMs);
    local.push((await vllm.generate(known, 1)).tookMs);
    recompute.push((await vllm.generate(randomPrompt(random, tokens), 1)).tookMs);
  }
  const median = (numbers) => quantile(numbers, 0.5);
  checks.say(`a prompt of ${tokens} tokens, one token out, median of ${BENCH_ROUNDS}: onboard ${median(onboard).toFixed(1)} ms, recompute ${median(recompute).toFixed(1)} ms, vLLM's own cache ${median(local).toFixed(1)} ms`);
  if (isJudged) checks.check('onboarding is faster than recomputing', median(onboard) < median(recompute), `${(median(recompute) / median(onboard)).toFixed(2)} times`);
}

/** More at once than vLLM has blocks for: requests lose theirs in the middle, come back, find them here. */
async function underPressure({ vllm, checks, random }) {
  const prompts = Array.from({ length: 8 }, () => randomPrompt(random, 100 + random.below(60)));
  const before = sumOf(await vllm.server.metrics(), PREEMPTED);
  const together = await inGroups(prompts, 8, (prompt) => vllm.generate(prompt, 150));
  const preemptions = sumOf(await vllm.server.metrics(), PREEMPTED) - before;
  const alone = await inGroups(prompts, 1, (prompt) => vllm.generate(prompt, 150, { salt: 'alone' }));
  const different = prompts.flatMap((_, i) => (words(together[i]) === words(alone[i]) ? [] : [i]));
  checks.check('preempted requests give the tokens of undisturbed ones', preemptions > 0 && different.length === 0, different.length === 0 ? `${preemptions} preemptions` : different);
  await quiet(vllm);
}

async function withoutWorker({ vllm, checks, prompt, before }) {
  await vllm.connector.close();
  await vllm.server.resetCache();
  const hits = await hitsOf(vllm);
  const answer = await vllm.generate(prompt, OUTPUT);
  checks.check('with our worker gone vLLM computes by itself', words(answer) === words(before) && (await hitsOf(vllm)) === hits);
  await vllm.reconnect();
  await vllm.server.resetCache();
  const again = await vllm.generate(prompt, OUTPUT);
  checks.check('when it is back vLLM onboards again', words(again) === words(before) && (await hitsOf(vllm)) > hits);
}

async function killed({ vllm, checks, random }) {
  const running = vllm.generate(randomPrompt(random, 300), 200).then(() => 'ended', () => 'broke off');
  await until('the request is known', () => vllm.connector.prompts > 0, 20_000);
  await vllm.server.kill();
  checks.check('kill -9 of vLLM: nothing stays pinned, reserved or remembered', await until('it is noticed', () => !vllm.connector.isConnected && vllm.connector.prompts === 0 && held(vllm), 10_000), await running);
}
