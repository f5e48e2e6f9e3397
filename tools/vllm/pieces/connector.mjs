// Disaggregation over our connector: the prefill vLLM's blocks go to its worker's host tier, nixel carries them to the decode worker's, the decode vLLM onboards them.
// Same greedy tokens as aggregated; a lender that is gone, or takes its loan back, costs time and nothing else.
import { sumOf } from '../check.mjs';
import { chats, inGroups, seeded } from '../prompts.mjs';
import { BLOCK_SIZE } from '../server.mjs';
import { PeerCalls, TieredVllm } from '../tiers.mjs';
import { randomPrompt } from './onboard.mjs';

const HITS = 'vllm:external_prefix_cache_hits_total';
const PROMPTS = 60;
const OUTPUT = 24;
const CHATS = 50;
const REMOTE = { do_remote_decode: true, do_remote_prefill: false };

const words = ({ tokens }) => tokens.join(' ');
const hitsOf = async ({ server }) => sumOf(await server.metrics(), HITS);

export async function run({ bench, checks }) {
  await bench.endPair();
  const peers = new PeerCalls();
  const start = async (name) => {
    const vllm = await TieredVllm.start({ name, install: bench.install, folder: bench.folder, peers });
    bench.own({ stop: () => vllm.close() });
    return vllm;
  };
  const [prefill, decode] = await Promise.all([start('prefill'), start('decode')]);
  const random = seeded(47);
  const prompts = Array.from({ length: PROMPTS }, () => randomPrompt(random, 40 + random.below(300)));
  const expected = await sameTokens({ prefill, decode, checks, prompts, peers });
  await lenderGone({ prefill, decode, checks, prompt: randomPrompt(random, 170), peers });
  await loanTakenBack({ prefill, decode, checks, prompt: randomPrompt(random, 170), peers });
  await noBlocksLeft({ prefill, decode, checks, prompts, expected });
  await throughArmature({ prefill, decode, checks, bench });
}

/** The vLLMs stay, our worker is another process: `armature serve` takes the sockets over, and official clients are answered. */
async function throughArmature({ prefill, decode, checks, bench }) {
  await Promise.all([prefill.endTiers(), decode.endTiers()]);
  const kvbm = 'kvbm: { tiers: [{ use: host, config: { capacity: 64MiB } }] }';
  const worker = (name, role, { server, connector }) => `{ name: ${name}, role: ${role}, engine: { use: vllm, config: { baseUrl: ${JSON.stringify(server.url)}, connector: ${JSON.stringify(connector.socketPath)} } }, ${kvbm} }`;
  const yaml = `models:
  - { name: split, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, disaggregation: { use: always }, workers: [${worker('p', 'prefill', prefill)}, ${worker('d', 'decode', decode)}] }
  - { name: alone, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, workers: [{ name: a, engine: { use: vllm, config: { baseUrl: ${JSON.stringify(decode.server.url)} } } }] }
`;
  await bench.withArmature(yaml, { workers: 3 }, async (armature) => {
    const prompts = chats(CHATS, { seed: 61, turns: 8, salt: 'connector' });
    const ask = (model, salt) => inGroups(prompts, 4, (messages) => armature.client.chat.completions.create({ model, messages, temperature: 0, max_tokens: OUTPUT, logprobs: true, ...(salt === undefined ? {} : { cache_salt: salt }) }));
    const before = await hitsOf(decode);
    const split = await ask('split');
    const hits = (await hitsOf(decode)) - before;
    const alone = await ask('alone', 'aggregated');
    const tokens = (answer) => JSON.stringify(answer.choices[0].logprobs.content.map(({ token }) => token));
    const different = split.flatMap((answer, i) => (tokens(answer) === tokens(alone[i]) ? [] : [i]));
    const promptTokens = split.reduce((total, { usage }) => total + usage.prompt_tokens, 0);
    checks.check(`armature serve, ${CHATS} chats: disaggregated gives the tokens of aggregated`, different.length === 0, different.length === 0 ? `${promptTokens} prompt tokens` : different);
    checks.check('every prefill was remote', (await armature.counter('armature_remote_prefills_total')) === CHATS, await armature.counter('armature_remote_prefills_total'));
    const lent = await armature.counter('armature_kvbm_hit_blocks_total', ['tier="peer"']);
    const own = await armature.counter('armature_kvbm_hit_blocks_total', ['pool="d"']);
    checks.check('the decode worker borrowed the blocks; vLLM counts them as external hits', lent > 0 && hits === own * BLOCK_SIZE, `${lent} blocks from the peer, ${own} in all, ${hits} of ${promptTokens} tokens`);
    await decode.server.resetCache();
    const again = await hitsOf(decode);
    await ask('split');
    checks.check("after vLLM's cache was emptied they come from the tiers again", (await hitsOf(decode)) - again >= hits, (await hitsOf(decode)) - again);
  });
}

async function disaggregated(prefill, decode, prompt) {
  const { params } = await prefill.generate(prompt, 1, { params: REMOTE });
  return { params, answer: await decode.generate(prompt, OUTPUT, params === undefined ? {} : { params }) };
}

/** Of another tenant: neither vLLM's cache nor our tiers know its blocks. */
const aggregated = (decode, prompt) => decode.generate(prompt, OUTPUT, { salt: 'aggregated' });

async function sameTokens({ prefill, decode, checks, prompts, peers }) {
  const before = await hitsOf(decode);
  const [split, alone] = [[], []];
  let offered = 0;
  for (const prompt of prompts) {
    const { params, answer } = await disaggregated(prefill, decode, prompt);
    offered += params?.armature?.blocks ?? 0;
    split.push(answer);
  }
  const hits = (await hitsOf(decode)) - before;
  for (const prompt of prompts) alone.push(await aggregated(decode, prompt));
  const blocks = prompts.reduce((total, { length }) => total + Math.floor(length / BLOCK_SIZE), 0);
  const different = prompts.flatMap((_, i) => (words(split[i]) === words(alone[i]) ? [] : [i]));
  checks.check(`${PROMPTS} prompts, disaggregated gives the tokens of aggregated`, different.length === 0, different.length === 0 ? `${blocks} blocks` : different);
  checks.check('prefill offered every complete block', offered === blocks, offered);
  checks.check('all of them went from host tier to host tier', decode.connector.counts.pulled.peer === blocks, { ...decode.connector.counts.pulled, loans: peers.loans });
  checks.check('vLLM counts them as external hits', hits === blocks * BLOCK_SIZE, hits);
  return alone;
}

async function lenderGone({ prefill, decode, checks, prompt, peers }) {
  const { params } = await prefill.generate(prompt, 1, { params: REMOTE });
  peers.managers.delete(prefill.name);
  const answer = await decode.generate(prompt, OUTPUT, { params });
  peers.managers.set(prefill.name, prefill.manager);
  checks.check('prefill died before the pull: decode recomputes, the same tokens', words(answer) === words(await aggregated(decode, prompt)));
}

async function loanTakenBack({ prefill, decode, checks, prompt, peers }) {
  const pulled = decode.connector.counts.pulled.peer;
  const { params } = await prefill.generate(prompt, 1, { params: REMOTE });
  peers.settle = (address, lease, done) => {
    peers.managers.get(address).settleLoan(lease);
    done(false);
  };
  const answer = await decode.generate(prompt, OUTPUT, { params });
  delete peers.settle;
  checks.check('a loan that was no more at its end is not used: recomputed, the same tokens', decode.connector.counts.pulled.peer === pulled && words(answer) === words(await aggregated(decode, prompt)));
}

async function noBlocksLeft({ prefill, decode, checks, prompts, expected }) {
  const again = await decode.generate(prompts[0], OUTPUT);
  checks.check('later requests still get the right tokens', words(again) === words(expected[0]));
  const left = [prefill, decode].map(({ manager, connector }) => Object.assign(manager.host.counts(), { loans: manager.stats().loans, prompts: connector.prompts }));
  checks.check('nothing stays pinned, reserved, lent or remembered', left.every((counts) => Object.values(counts).every((count) => count === 0)), left);
}
