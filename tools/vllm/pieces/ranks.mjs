// Data-parallel ranks: one real vLLM of two ranks, started and watched by Armature (`serve`, `dpRanks: 2`), each rank a worker of its own. A request goes to the rank that the
// router chose, vLLM counts it there, and the router knows the cache of each by that rank's own events. The key of the configuration protects the server and is known to the client.
import { freePorts } from '../../../packages/backend-vllm/dist/serve/ports.js';
import { sumOf, until } from '../check.mjs';
import { chats, inGroups } from '../prompts.mjs';
import { BLOCK_SIZE, MODEL_FOLDER, VLLM_ENV, VLLM_FLAGS } from '../server.mjs';

const CHATS = 8;
const KEY = 'a key for this run';
const START_MS = 300_000;
const RANKS = [0, 1];

export async function run({ bench, checks }) {
  await bench.endPair(); // three more processes
  const port = await freePorts('127.0.0.1', 1 + 2 * RANKS.length);
  const serve = {
    model: MODEL_FOLDER,
    command: [bench.install.vllm],
    port,
    // A rank is a process of its own.
    env: { ...VLLM_ENV, VLLM_ENABLE_V1_MULTIPROCESSING: '1' },
    extraArgs: VLLM_FLAGS.filter((flag) => flag !== '--enable-prefix-caching' && flag !== '--enable-prompt-tokens-details'),
  };
  const worker = `{ name: w, replicas: 2, dpRanks: 2, engine: { use: vllm, config: ${JSON.stringify({ model: 'demo', apiKey: KEY, startTimeoutMs: START_MS, serve })} } }`;
  const yaml = `models: [{ name: demo, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, router: { use: kv, config: { predictSeconds: 0, eventlessSeconds: 0 } }, workers: [${worker}] }]\n`;
  await bench.withArmature(yaml, { workers: 2, timeoutMs: START_MS }, (armature) => ranks({ armature, url: `http://127.0.0.1:${port}`, checks }));
}

async function ranks({ armature, url, checks }) {
  const workers = await armature.get('/workers');
  checks.check('two workers, one rank each', String(workers.map(({ dpRank }) => dpRank).sort()) === '0,1', workers.map(({ instanceId, dpRank, totalBlocks }) => ({ instanceId, dpRank, totalBlocks })));
  const locked = await fetch(`${url}/v1/models`);
  checks.check('the server asks for the key of the configuration', locked.status === 401, locked.status);

  const promptTokens = async () => countsOf(url, 'vllm:prompt_tokens_total');
  const talks = chats(CHATS, { seed: 91, turns: 4, salt: 'ranks' });
  const before = await promptTokens();
  const asked = [0, 0];
  await inGroups(talks, 2, async (messages, i) => {
    // Three of four to rank 1: what vLLM's own choice would never be.
    const rank = i % 4 === 0 ? 0 : 1;
    const answer = await armature.client.chat.completions.create({ model: 'demo', messages, temperature: 0, max_tokens: 8 }, { headers: { 'x-dynamo-dp-rank': String(rank) } });
    asked[rank] += answer.usage.prompt_tokens;
  });
  // Counters of vLLM are written some time after the answer.
  const counted = await until('vLLM has counted the requests', async () => {
    const now = (await promptTokens()).map((count, rank) => count - before[rank]);
    return now[0] + now[1] >= asked[0] + asked[1] ? now : undefined;
  }, 30_000);
  checks.check('each prompt was computed by the rank that was asked for', String(counted) === String(asked), { counted, asked });

  await until('the events of both ranks have come', async () => (await armature.counter('armature_router_index_blocks')) > 0, 20_000);
  const hits = await countsOf(url, 'vllm:prefix_cache_hits_total');
  const expected = [0, 0];
  let stayed = 0;
  await inGroups(talks, 1, async (messages, i) => {
    const id = `ranks-${i}`;
    await armature.client.chat.completions.create({ model: 'demo', messages, temperature: 0, max_tokens: 8 }, { headers: { 'x-request-id': id } });
    const [{ chosen, candidates }] = (await armature.get(`/requests/${id}`)).decisions;
    const rank = workers.find(({ instanceId }) => instanceId === chosen).dpRank;
    const { overlapBlocks } = candidates.find((candidate) => candidate.worker === chosen);
    expected[rank] += overlapBlocks * BLOCK_SIZE;
    if (rank === (i % 4 === 0 ? 0 : 1)) stayed++;
  });
  checks.check('without a wish each goes to the rank whose events told of it', stayed === CHATS && Math.min(...expected) > 0, `${stayed} of ${CHATS}`);
  const found = await until('vLLM has counted the hits', async () => {
    const now = (await countsOf(url, 'vllm:prefix_cache_hits_total')).map((count, rank) => count - hits[rank]);
    return now[0] + now[1] >= expected[0] + expected[1] ? now : undefined;
  }, 30_000);
  checks.check("vLLM's own hits are what the router expected, rank by rank", String(found) === String(expected), { found, expected });
}

async function countsOf(url, name) {
  const text = await (await fetch(`${url}/metrics`)).text();
  return RANKS.map((rank) => sumOf(text, name, [`engine="${rank}"`]));
}
