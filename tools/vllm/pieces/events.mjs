// KV-aware routing on the events of two real vLLM servers: the second turn of a chat goes where the first was computed, and vLLM's own count of hits is what the router
// expected. Without events, or with a port where none come, nothing is expected. After kill -9 and a start nothing of the engine's old life is left in the index.
import { Cable } from '../cable.mjs';
import { pause, sumOf, until } from '../check.mjs';
import { freePort } from '../processes.mjs';
import { chats, inGroups } from '../prompts.mjs';
import { BLOCK_SIZE } from '../server.mjs';

const CHATS = 16;
const MAX_TOKENS = 24;
const AT_ONCE = 4;
const HITS = 'vllm:prefix_cache_hits_total';
const QUESTIONS = ['What is my number?', 'What is my cat called?', 'What do I like to eat?', 'What is my cat called, again?'];
/** Only what events say: no predictions. */
const ROUTER = 'router: { use: kv, config: { predictSeconds: 0, eventlessSeconds: 0 } }';
/** After so long, and a few requests, an engine that tells nothing has its events off (kv-events.ts). */
const SILENT_MS = 10_000;

const eventsOf = ({ eventsPort, replayPort }) => ({ endpoint: `tcp://127.0.0.1:${eventsPort}`, listen: true, replayEndpoint: `tcp://127.0.0.1:${replayPort}`, topic: 'kv-events' });
const poolOf = (worker) => worker.split('/', 1)[0];
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const indexed = (armature) => armature.counter('armature_router_index_blocks');
const hitsOf = async (servers) => Promise.all(servers.map(async (server) => sumOf(await server.metrics(), HITS)));

export async function run({ pair, bench, checks }) {
  const servers = await pair();
  for (const server of servers) await server.resetCache();
  const talks = chats(CHATS, { seed: 71, turns: 6, salt: 'events' }).map((messages) => ({ messages, turns: [] }));
  const followed = yamlOf(bench, servers, servers.map(eventsOf));
  await bench.withArmature(followed, { workers: 2 }, (armature) => secondTurns({ armature, servers, talks, checks }));
  const deaf = yamlOf(bench, servers, [undefined, { ...eventsOf(servers[1]), endpoint: `tcp://127.0.0.1:${await freePort()}`, replayEndpoint: '' }]);
  await bench.withArmature(deaf, { workers: 2 }, (armature) => withoutEvents({ armature, servers, talks, checks }));
  // vLLM connects to one end of the cable, Armature listens at the other.
  const far = await freePort();
  const cable = bench.own(await Cable.lay(servers[1].eventsPort, far));
  const cabled = yamlOf(bench, servers, [eventsOf(servers[0]), { ...eventsOf(servers[1]), endpoint: `tcp://127.0.0.1:${far}` }]);
  await bench.withArmature(cabled, { workers: 2 }, async (armature) => {
    await afterRestartOfOurs({ armature, servers, talks, checks });
    await cut({ armature, servers, talks, cable, checks });
    await afterRestartOfTheirs({ armature, servers, talks, checks });
  });
  await bench.end(cable);
}

/** `events`: kvEvents of each server's worker; undefined: none. */
function yamlOf(bench, servers, events) {
  const worker = (server, i) => `{ name: ${server.name}, engine: { use: vllm, config: { baseUrl: ${JSON.stringify(server.url)}${events[i] === undefined ? '' : `, kvEvents: ${JSON.stringify(events[i])}`} } } }`;
  return `models: [{ name: demo, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, ${ROUTER}, workers: [${servers.map(worker).join(', ')}] }]\n`;
}

/** One more turn of each chat. What the router expected (`overlaps`, in blocks by pool) and what vLLM found (`cachedTokens`) is kept in `turns`. */
async function takeTurn(armature, talks, label, atOnce = AT_ONCE) {
  return inGroups(talks, atOnce, async (talk, i) => {
    const id = `events-${label}-${i}`;
    const answer = await armature.client.chat.completions.create({ model: 'demo', messages: talk.messages, temperature: 0, max_tokens: MAX_TOKENS }, { headers: { 'x-request-id': id } });
    const { content } = answer.choices[0].message;
    const { decisions } = await armature.get(`/requests/${id}`);
    const [{ chosen, candidates }] = decisions;
    const overlaps = Object.fromEntries(candidates.map(({ worker, overlapBlocks }) => [poolOf(worker), overlapBlocks]));
    const { prompt_tokens: promptTokens, completion_tokens: outputTokens, prompt_tokens_details: details } = answer.usage;
    const turn = { pool: poolOf(chosen), overlaps, expected: overlaps[poolOf(chosen)], cachedTokens: details?.cached_tokens ?? 0, promptTokens, outputTokens };
    talk.turns.push(turn);
    talk.messages = [...talk.messages, { role: 'assistant', content }, { role: 'user', content: QUESTIONS[talk.turns.length % QUESTIONS.length] }];
    return turn;
  });
}

const lastOf = ({ turns }) => turns.at(-1);

/** Complete blocks that an engine has computed for a turn; the last token of an answer is never computed. */
const blocksOf = ({ promptTokens, outputTokens }) => Math.floor((promptTokens + outputTokens - 1) / BLOCK_SIZE);

async function secondTurns({ armature, servers, talks, checks }) {
  await until('the index is empty, as the caches are', async () => (await indexed(armature)) === 0, 10_000);
  const first = await takeTurn(armature, talks, 'first');
  const blocks = sum(first.map(blocksOf));
  const found = await until('the index has the blocks of the first turns', async () => ((await indexed(armature)) >= blocks ? indexed(armature) : 0), 10_000);
  checks.check('the index holds every block that vLLM computed, by its events', found === blocks, `${found} of ${blocks}`);
  const perPool = servers.map(({ name }) => first.filter(({ pool }) => pool === name).length);
  checks.check('first turns went to both', Math.min(...perPool) >= CHATS / 4 && first.every(({ expected }) => expected === 0), perPool);

  const before = await hitsOf(servers);
  const second = await takeTurn(armature, talks, 'second');
  const after = await hitsOf(servers);
  const stayed = second.filter(({ pool }, i) => pool === first[i].pool).length;
  checks.check('the second turn goes to the worker that has the first', stayed === CHATS, `${stayed} of ${CHATS}`);
  checks.check('the router expects the blocks there and nowhere else', second.every(({ pool, overlaps }, i) => overlaps[pool] === blocksOf(first[i]) && sum(Object.values(overlaps)) === overlaps[pool]), second.map(({ expected }) => expected).join(' '));
  const expected = servers.map(({ name }) => sum(second.filter(({ pool }) => pool === name).map((turn) => turn.expected)) * BLOCK_SIZE);
  const hits = after.map((count, i) => count - before[i]);
  checks.check("vLLM's own prefix cache hits are what the router expected, server by server", String(hits) === String(expected) && Math.min(...hits) > 0, { hits, expected, promptTokens: sum(second.map(({ promptTokens }) => promptTokens)) });
  checks.check('the client is told so', second.every(({ cachedTokens, expected: claimed }) => cachedTokens === claimed * BLOCK_SIZE), `${sum(second.map(({ cachedTokens }) => cachedTokens))} cached tokens`);
  checks.check('nothing was lost or misunderstood', (await faults(armature)) === '', await counts(armature));
}

const PER_EVENT = 'armature_vllm_kv_events_total';

async function counts(armature) {
  const names = ['messages', 'replayed_messages', 'stored_blocks', 'removed_blocks', 'resyncs'];
  const text = await armature.get('/metrics');
  return Object.fromEntries(names.map((name) => [name, sumOf(text, PER_EVENT, [`what="${name}"`])]));
}

/** What must not happen with an engine that works. */
async function faults(armature) {
  const text = await armature.get('/metrics');
  const names = ['gaps', 'missed_messages', 'invalid_messages', 'orphan_blocks', 'foreign_blocks', 'misshapen_blocks'];
  return names.flatMap((name) => (sumOf(text, PER_EVENT, [`what="${name}"`]) > 0 ? [name] : [])).join(' ');
}

/** Sabotage: one worker without events, one that listens where nobody publishes. */
async function withoutEvents({ armature, servers, talks, checks }) {
  const startedMs = performance.now();
  const before = await hitsOf(servers);
  // One at a time, those of one worker after those of the other: whoever takes turns between idle workers, or draws, loses some.
  const sorted = [...talks].sort((a, b) => lastOf(a).pool.localeCompare(lastOf(b).pool));
  const turns = await takeTurn(armature, sorted, 'deaf', 1);
  const hits = (await hitsOf(servers)).map((count, i) => count - before[i]);
  const lost = turns.filter(({ pool }, i) => pool !== sorted[i].turns.at(-2).pool).length;
  checks.check('without events the router expects nothing, and chats lose their worker', turns.every(({ overlaps }) => sum(Object.values(overlaps)) === 0) && lost > 0 && (await indexed(armature)) === 0, `${lost} of ${CHATS} moved, ${sum(hits)} tokens found by chance`);
  const notice = lineWith(armature, 'KV events are not followed');
  checks.check('events off: it is said how to turn them on', notice.includes('enable_kv_cache_events') && notice.includes('engine.config.kvEvents.endpoint'), notice);
  for (let i = 0; i < 8 || performance.now() - startedMs < SILENT_MS + 2_000; i++) {
    // To both: the one that has no events and the one that has them elsewhere.
    await inGroups(chats(2, { seed: 500 + i, turns: 6, salt: `silent ${i}` }), 2, (messages) => armature.client.chat.completions.create({ model: 'demo', messages, max_tokens: 1 }));
  }
  const warning = lineWith(armature, 'VLLM_EVENTS_SILENT');
  checks.check('events that never come: said, with the address and what to do', warning.includes('enable_kv_cache_events') && warning.includes('sends no KV events'), warning);
}

const lineWith = (armature, words) => armature.child.output.split('\n').find((line) => line.includes(words)) ?? '';

/** A new process of ours, engines with warm caches: what they hold is replayed. */
async function afterRestartOfOurs({ armature, servers, talks, checks }) {
  await until('the replay has filled the index', async () => (await indexed(armature)) > 0, 10_000);
  const before = await hitsOf(servers);
  const turns = await takeTurn(armature, talks, 'replayed');
  const hits = (await hitsOf(servers)).map((count, i) => count - before[i]);
  const right = turns.filter(({ overlaps, expected }) => expected > 0 && expected === Math.max(...Object.values(overlaps))).length;
  checks.check('a new Armature learns by replay what the engines hold', right === CHATS && sum(hits) === sum(turns.map(({ expected }) => expected)) * BLOCK_SIZE, { right, hits, ...(await counts(armature)) });
}

/** The engine serves on, its events do not come: what it holds is not known. */
async function cut({ armature, servers, talks, cable, checks }) {
  const [, two] = servers;
  const there = talks.filter((talk) => lastOf(talk).pool === two.name);
  cable.cut();
  const said = () => lineWith(armature, 'the connection to the KV events of vLLM is lost');
  await until('the loss is noticed', () => said() !== '', 20_000);
  await eventsHaveCome(armature);
  const [turn] = await takeTurn(armature, there.slice(0, 1), 'cut');
  checks.check('the connection of the events is cut: nothing is expected there, and it is said', there.length > 0 && turn.overlaps[two.name] === 0 && Object.keys(turn.overlaps).length === 2, turn.overlaps);
  cable.mend();
  const before = await indexed(armature);
  await until('what it holds is learned again', async () => (await indexed(armature)) > before, 20_000);
  await eventsHaveCome(armature);
  const mended = await takeTurn(armature, there.slice(1, 2), 'mended');
  checks.check('mended: what it holds is known again', mended.every(({ pool, expected, cachedTokens }) => pool === two.name && expected > 0 && cachedTokens === expected * BLOCK_SIZE), mended.map(({ overlaps }) => overlaps));
}

async function afterRestartOfTheirs({ armature, servers, talks, checks }) {
  const [one, two] = servers;
  const there = talks.filter((talk) => lastOf(talk).pool === two.name);
  const half = Math.ceil(there.length / 2);
  checks.check('the server to be killed holds some chats', half > 1, there.length);
  const startedMs = performance.now();
  await two.kill();
  await until('the dead worker leaves the pool', async () => (await armature.get('/workers')).length === 1, 20_000);
  checks.say(`kill -9: out of the pool after ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
  const down = await takeTurn(armature, there.slice(0, half), 'down');
  checks.check('its chats go on with the other one, whose cache is all that counts', down.every(({ pool, overlaps }) => pool === one.name && Object.keys(overlaps).length === 1), down.map(({ expected }) => expected));

  await two.start();
  const backMs = performance.now();
  await until('the worker is back', async () => (await armature.get('/workers')).length === 2, 60_000);
  checks.say(`back in the pool ${((performance.now() - backMs) / 1000).toFixed(1)} s after vLLM was healthy again`);
  const before = await hitsOf([two]);
  const up = await takeTurn(armature, there.slice(half), 'up');
  const [hits] = (await hitsOf([two])).map((count, i) => count - before[i]);
  checks.check('nothing of its old life is in the index', up.every(({ overlaps }) => overlaps[two.name] === 0), { expected: up.map(({ overlaps }) => overlaps), hits });

  const fresh = chats(CHATS / 2, { seed: 73, turns: 6, salt: 'second life' }).map((messages) => ({ messages, turns: [] }));
  const first = await takeTurn(armature, fresh, 'fresh');
  const onTwo = first.filter(({ pool }) => pool === two.name).length;
  await eventsHaveCome(armature);
  const beforeSecond = await hitsOf([two]);
  const second = await takeTurn(armature, fresh, 'fresh-second');
  const [again] = (await hitsOf([two])).map((count, i) => count - beforeSecond[i]);
  const expected = sum(second.filter(({ pool }) => pool === two.name).map((turn) => turn.expected)) * BLOCK_SIZE;
  checks.check('what it computes in its new life is: second turns hit there', onTwo > 0 && second.every(({ pool }, i) => pool === first[i].pool) && again === expected && again > 0, { onTwo, hits: again, expected, ...(await counts(armature)) });
}

/** Until the index has stood still for a moment. */
async function eventsHaveCome(armature) {
  let last = -1;
  const isStill = async () => {
    const now = await indexed(armature);
    if (now === last) return true;
    last = now;
    await pause(300);
    return false;
  };
  await until('the index stands still', isStill, 10_000);
}
