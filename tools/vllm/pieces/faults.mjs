// kill -9 of a prefill and of a decode engine in the middle of requests, clients that leave, and servers that do not start: nothing hangs, what can go on does so with the
// right tokens, what cannot says why.
import { Armature } from '../armature.mjs';
import { sumOf, until } from '../check.mjs';
import { freePort } from '../processes.mjs';
import { chats } from '../prompts.mjs';
import { BLOCK_SIZE, MODEL_FOLDER, VLLM_ENV, VLLM_FLAGS } from '../server.mjs';

const REQUESTS = 8;
const ROUNDS = 30;
const PREFILL_OUTPUT = 12;
const DECODE_OUTPUT = 120;
/** No request may take longer: with it a busy machine is no failure, and a request that hangs is. */
const HANG_MS = 90_000;
/** A prompt that was computed and never fetched is held by vLLM's NixlConnector for 30 s, and let go in the next step. */
const QUIET_MS = 75_000;
/** Far above what vLLM needs to refuse: the machine may be busy. */
const START_TIMEOUT_MS = 280_000;
const CODE = /^[A-Z]+(_[A-Z]+)+$/;

export async function run({ pair, bench, checks }) {
  const servers = await pair();
  const [one, two] = servers;
  // An engine that stands still for some seconds (below) is not to be taken for dead.
  const engine = ({ url }) => `engine: { use: vllm, config: { baseUrl: ${JSON.stringify(url)}, probeTimeoutMs: 60000 } }`;
  const yaml = `models:
  - name: split
    source: ${bench.model}
    blockSize: ${BLOCK_SIZE}
    disaggregation: { use: always, config: { whenNoPrefillWorker: local } }
    workers: [{ name: p, role: prefill, ${engine(one)} }, { name: d, role: decode, ${engine(two)} }]
  - { name: pool, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, workers: [{ name: a, ${engine(one)} }, { name: b, ${engine(two)} }] }
`;
  await bench.withArmature(yaml, { workers: 4 }, async (armature) => {
    const plant = { armature, one, two, checks };
    await leaving(plant);
    await prefillKilled(plant);
    await decodeKilled(plant);
    await quiet(plant, 'after all of it');
  });
  await eventsOff({ bench, checks, server: two });
  await notThere({ bench, checks, server: one });
  await refusing({ bench, checks });
  await bench.endPair();
}

/** Prompts of about 1,400 tokens, so that computing them takes a while. */
function longChats(count, salt) {
  const rounds = (n) => chats(ROUNDS, { seed: 89 + n, turns: 1 }).flatMap((messages) => messages.slice(1, 3));
  return chats(count, { seed: 83, turns: 1, salt }).map(([system, , , question], n) => [[system], rounds(n), [question]].flat());
}

/** One stream to its end. `on` hears of every piece. Never rejects, never waits for ever. */
async function stream(armature, { model, messages, maxTokens, id, on, signal }) {
  const body = { model, messages, temperature: 0, max_tokens: maxTokens, ignore_eos: true, stream: true };
  const result = { id, text: '', finish: undefined, error: undefined };
  const deadline = AbortSignal.timeout(HANG_MS);
  try {
    const chunks = await armature.client.chat.completions.create(body, { headers: { 'x-request-id': id }, signal: signal === undefined ? deadline : AbortSignal.any([deadline, signal]) });
    for await (const { choices } of chunks) {
      const { delta, finish_reason: finish } = choices[0] ?? {};
      if (delta?.content) result.text += delta.content;
      result.finish = finish ?? result.finish;
      on?.(result);
    }
    if (signal?.aborted !== true && deadline.aborted) result.error = 'HANGS';
  } catch (error) {
    result.error = deadline.aborted ? 'HANGS' : (error.code ?? error.message);
  }
  return result;
}

const askAll = (armature, prompts, { model, maxTokens, label, ...rest }) => Promise.all(prompts.map((messages, i) => stream(armature, { model, messages, maxTokens, id: `faults-${label}-${i}`, ...rest })));

const recordsOf = (armature, results) => Promise.all(results.map(({ id }) => armature.get(`/requests/${id}`)));
const sameTexts = (results, expected) => results.flatMap(({ text, finish }, i) => (text === expected[i].text && finish === 'length' ? [] : [i]));

/** Both servers without a request, their KV blocks free, and Armature without anything of a request. */
async function quiet({ armature, one, two, checks }, what) {
  const startedMs = performance.now();
  const state = async () => {
    const [a, b] = await Promise.all([one, two].map((server) => server.metrics()));
    const read = (name) => [sumOf(a, name), sumOf(b, name)];
    return { running: read('vllm:num_requests_running'), waiting: read('vllm:num_requests_waiting'), usage: read('vllm:kv_cache_usage_perc'), ours: (await armature.get('/workers')).map(({ load }) => load.requests) };
  };
  let last;
  const isQuiet = await until('all is quiet', async () => Object.values((last = await state())).every((counts) => counts.every((count) => count === 0)), QUIET_MS).catch(() => false);
  checks.check(`${what}: vLLM runs nothing and its KV blocks are free, Armature holds nothing`, isQuiet, isQuiet ? `within ${(performance.now() - startedMs).toFixed(0)} ms` : last);
}

/** Clients leave in the middle of their answers. */
async function leaving(plant) {
  const { armature, one, two, checks } = plant;
  const leave = new AbortController();
  const streams = askAll(armature, chats(4, { seed: 97, turns: 8, salt: 'leaving' }), { model: 'split', maxTokens: 1_500, label: 'leave', signal: leave.signal });
  await until('vLLM decodes all of them', async () => sumOf(await two.metrics(), 'vllm:num_requests_running') === 4, 60_000);
  const usage = sumOf(await two.metrics(), 'vllm:kv_cache_usage_perc');
  leave.abort();
  await streams;
  await quiet(plant, `disaggregated, four clients that leave (${(usage * 100).toFixed(1)} % of the blocks in use)`);
  const records = await recordsOf(armature, [0, 1, 2, 3].map((i) => ({ id: `faults-leave-${i}` })));
  checks.check('the records say cancelled', records.every(({ outcome }) => outcome === 'cancelled'), records.map(({ outcome }) => outcome));

  const early = new AbortController();
  const prompts = longChats(REQUESTS, 'leaving early');
  const waiting = askAll(armature, prompts, { model: 'split', maxTokens: 8, label: 'early', signal: early.signal });
  await until('vLLM computes prompts', async () => sumOf(await one.metrics(), 'vllm:num_requests_running') > 0, 60_000);
  early.abort();
  await waiting;
  await quiet(plant, 'clients that leave while their prompts are computed');
}

/** kill -9 while it computes prompts, when it has computed some that the decode engine, which stands still, has not fetched. */
async function prefillKilled(plant) {
  const { armature, one, two, checks } = plant;
  const prompts = longChats(REQUESTS, 'prefill killed');
  const expected = await askAll(armature, prompts, { model: 'pool', maxTokens: PREFILL_OUTPUT, label: 'expected-p' });
  for (const server of [one, two]) await server.resetCache();
  const remote = await armature.counter('armature_remote_prefills_total');
  const done = async () => sumOf(await one.metrics(), 'vllm:request_success_total');
  const doneBefore = await done();
  two.child.signal('SIGSTOP');
  const running = askAll(armature, prompts, { model: 'split', maxTokens: PREFILL_OUTPUT, label: 'prefill' });
  await until('the prefill engine has computed a prompt', async () => (await done()) > doneBefore, 60_000);
  const startedMs = performance.now();
  await one.kill();
  two.child.signal('SIGCONT');
  const results = await running;
  const records = await recordsOf(armature, results);
  const caught = records.filter(({ migrations, moves }) => migrations > 0 || moves.length > 0).length;
  const different = sameTexts(results, expected);
  checks.check('kill -9 of the prefill engine: every request is answered with the right tokens', different.length === 0, different.length === 0 ? `${REQUESTS} answers` : different.map((i) => [results[i].error ?? 'other text', records[i].outcome, expected[i].error]));
  checks.check('it was in the middle of them', caught > 0, `${caught} of ${REQUESTS} moved on: ${[...new Set(records.flatMap(({ moves }) => moves.map(({ code }) => code)))].join(', ')}`);
  const recomputed = armature.child.output.split('\n').filter((line) => line.includes('computes the prompt itself')).length;
  checks.check('where the prompt was computed and the KV died with the engine, the decode engine computes it', recomputed > 0, recomputed);
  await left(plant, ['p', 'a'], startedMs);
  const use = async () => {
    const again = await askAll(armature, prompts.slice(0, 4), { model: 'split', maxTokens: PREFILL_OUTPUT, label: 'prefill-back' });
    const now = await armature.counter('armature_remote_prefills_total');
    checks.check('and computes prompts for the decode worker, which gives the same tokens', sameTexts(again, expected).length === 0 && now >= remote + 4, again.map(({ error }) => error ?? 'ok'));
  };
  await backAgain(plant, { server: one, use });
}

async function left({ armature, checks }, pools, startedMs) {
  await until('the dead workers leave the pool', async () => (await armature.get('/workers')).every(({ pool }) => !pools.includes(pool)), 20_000);
  checks.check(`the workers of the dead engine (${pools.join(', ')}) leave the pool`, true, `within ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
}

async function backAgain({ armature, checks }, { server, use, ...options }) {
  await server.start(options);
  const startedMs = performance.now();
  await until('its workers are back', async () => (await armature.get('/workers')).length === 4, 90_000);
  checks.check('started again, its workers are back', true, `${((performance.now() - startedMs) / 1000).toFixed(1)} s after it was healthy`);
  await use();
}

/** kill -9 while it decodes: for one model there is another engine, for the other there is none. */
async function decodeKilled(plant) {
  const { armature, one, two, checks } = plant;
  const prompts = chats(6, { seed: 101, turns: 6, salt: 'decode killed' });
  const alone = prompts.slice(0, 2);
  const expected = await askAll(armature, prompts, { model: 'pool', maxTokens: DECODE_OUTPUT, label: 'expected-d' });
  for (const server of [one, two]) await server.resetCache();
  const begun = new Set();
  const on = ({ id, text }) => text.length > 8 && begun.add(id);
  const pooled = askAll(armature, prompts, { model: 'pool', maxTokens: DECODE_OUTPUT, label: 'decode', on });
  const split = askAll(armature, alone, { model: 'split', maxTokens: 1_200, label: 'split', on });
  await until('all have tokens', () => begun.size === prompts.length + alone.length, 60_000);
  const startedMs = performance.now();
  await two.kill();
  const [moved, failed] = await Promise.all([pooled, split]);
  const records = await recordsOf(armature, moved);
  const moves = records.flatMap((record) => record.moves);
  const different = sameTexts(moved, expected);
  checks.check('kill -9 of an engine that decodes: its requests go on elsewhere, with the right tokens', different.length === 0, different.length === 0 ? `${prompts.length} answers` : different.map((i) => [moved[i].error ?? 'other text', records[i].moves, moved[i].text, expected[i].text]));
  checks.check('in the middle of an answer', moves.length > 0 && moves.every(({ atToken, to }) => atToken > 0 && to !== undefined), moves.map(({ from, to, atToken, addedMs }) => `${from.split('@')[0]} to ${to?.split('@')[0]} at token ${atToken}, +${addedMs?.toFixed(0)} ms`));
  checks.check('where there is no other decode worker: an error with a code, and soon', failed.every(({ error }) => CODE.test(error ?? '')), failed.map(({ error }) => error));
  await left(plant, ['d', 'b'], startedMs);
  const use = async () => {
    const again = await askAll(armature, alone, { model: 'split', maxTokens: DECODE_OUTPUT, label: 'decode-back' });
    checks.check('and decodes again, the same tokens', sameTexts(again, expected).length === 0, again.map(({ error }) => error ?? 'ok'));
  };
  await backAgain(plant, { server: two, use, tellsEvents: false });
}

/** Events are to be followed and vLLM was started without: served all the same, and said. */
async function eventsOff({ bench, checks, server }) {
  const kvEvents = { endpoint: `tcp://127.0.0.1:${server.eventsPort}`, listen: true };
  const yaml = `models: [{ name: demo, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, workers: [{ name: v, engine: { use: vllm, config: ${JSON.stringify({ baseUrl: server.url, kvEvents })} } }] }]\n`;
  await bench.withArmature(yaml, {}, async (armature) => {
    const [messages] = chats(1, { seed: 103, salt: 'events off' });
    const answer = await stream(armature, { model: 'demo', messages, maxTokens: 4, id: 'faults-events-off' });
    const said = armature.child.output.split('\n').find((line) => line.includes('vLLM has its KV events off')) ?? '';
    checks.check('vLLM started without KV events: it serves, and is told how to turn them on', answer.finish === 'length' && said.includes('enable_kv_cache_events'), said);
  });
}

/** `armature serve` that must not start. */
async function refused(bench, { blockSize = BLOCK_SIZE, config }) {
  const yaml = `models: [{ name: demo, source: ${bench.model}, blockSize: ${blockSize}, workers: [{ name: v, engine: { use: vllm, config: ${JSON.stringify(config)} } }] }]\n`;
  const armature = bench.own(new Armature({ folder: bench.folder, yaml }));
  const hasStarted = await armature.start({ timeoutMs: START_TIMEOUT_MS + 30_000 }).then(() => true, () => false);
  const { exitCode, output } = armature.child;
  await bench.end(armature);
  // What a person sees, behind the log lines.
  return { hasStarted, exitCode, said: output.split('\n').filter((line) => line !== '' && !line.startsWith('{')).join('\n') };
}

function checkRefusal(checks, what, { hasStarted, exitCode, said }, exit, words) {
  const missing = words.filter((word) => !(word instanceof RegExp ? word.test(said) : said.includes(word)));
  const isRight = !hasStarted && exitCode === exit && missing.length === 0;
  checks.check(`${what}: refused, with the reason`, isRight, isRight ? said.split('\n')[0].slice(0, 240) : { exitCode, missing, said });
}

/** A server that runs, and is not what the configuration says. */
async function notThere({ bench, checks, server }) {
  const baseUrl = server.url;
  const nobody = `http://127.0.0.1:${await freePort()}`;
  checkRefusal(checks, 'another model name', await refused(bench, { config: { baseUrl, model: 'llama' } }), 5, ['VLLM_MODEL_UNKNOWN', '"llama"', 'demo']);
  checkRefusal(checks, 'another block size', await refused(bench, { blockSize: 16, config: { baseUrl } }), 3, ['VLLM_BLOCK_SIZE_MISMATCH', '32', 'blockSize: 32']);
  checkRefusal(checks, 'nobody there', await refused(bench, { config: { baseUrl: nobody, startTimeoutMs: 500 } }), 7, ['VLLM_UNREACHABLE', nobody, 'vllm serve']);
}

/** Servers that we start and that refuse: vLLM's own words. */
async function refusing({ bench, checks }) {
  const serve = (more) => ({ model: 'demo', startTimeoutMs: START_TIMEOUT_MS, serve: { model: MODEL_FOLDER, command: [bench.install.vllm], env: VLLM_ENV, ...more } });
  const extraArgs = VLLM_FLAGS.filter((flag) => !['--enable-prefix-caching', '--enable-prompt-tokens-details'].includes(flag));
  const [flag, size, folder] = await Promise.all([
    refused(bench, { config: serve({ extraArgs: ['--no-such-flag', '1'] }) }),
    refused(bench, { blockSize: 48, config: serve({ extraArgs }) }),
    refused(bench, { config: serve({ model: '/nowhere/model', extraArgs }) }),
  ]);
  checkRefusal(checks, 'a flag that vLLM does not know', flag, 5, ['VLLM_START_FAILED', /unrecognized arguments: --no-such-flag/]);
  checkRefusal(checks, 'a block size that it cannot do on a CPU', size, 5, ['VLLM_START_FAILED', 'No common block size for 48', 'MultipleOf(32)']);
  checkRefusal(checks, 'a model that is not there', folder, 5, ['VLLM_START_FAILED', '/nowhere/model']);
}
