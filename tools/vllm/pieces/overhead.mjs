// What our hop adds to vLLM: CPU per request, and time to first token against asking vLLM directly, in turn, in the same run. A third way, a pipe that passes bytes
// on and looks at none, shows what a Node hop costs on this machine whatever it does.
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import OpenAI from 'openai';
import { quantile } from '../check.mjs';
import { Child, cpuMs } from '../processes.mjs';
import { chats, inGroups } from '../prompts.mjs';
import { BLOCK_SIZE } from '../server.mjs';

const BOUND = { ttftMs: 2, cpuMs: 1 };
const ROUNDS = 100;
/** Together at a time; vLLM takes 8. */
const AT_ONCE = 8;
const WARM_UP = 400;
const COUNTED = 400;
const MAX_TOKENS = 8;

const clientOf = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0, timeout: 120_000 });

export async function run({ pair, bench, checks }) {
  const [server] = await pair();
  const pipe = bench.own(new Child({ name: 'pipe', command: process.execPath, args: [fileURLToPath(new URL('../pipe.mjs', import.meta.url)), server.url], env: process.env, logFile: join(bench.folder, 'pipe.log') }));
  await pipe.ready(() => /^\d+\n/.test(pipe.output), 20_000);
  const yaml = `models: [{ name: demo, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, workers: [{ name: v, engine: { use: vllm, config: { baseUrl: ${JSON.stringify(server.url)} } } }] }]\n`;
  await bench.withArmature(yaml, {}, async (armature) => {
    const ways = [
      { name: 'direct', client: clientOf(server.url) },
      { name: 'pipe', client: clientOf(`http://127.0.0.1:${pipe.output.trim()}`), pid: pipe.pid },
      { name: 'armature', client: armature.client, pid: armature.child.pid },
    ];
    const cpu = await cpuPerRequest(ways, checks);
    const ttft = await firstTokens(ways, checks);
    checks.check('all ways were measured', Object.values(ttft).every((times) => times.length === ROUNDS) && cpu.armature > 0);
    checks.check('our hop is not the larger part', quantile(ttft.armature, 0.5) < 3 * quantile(ttft.direct, 0.5));
  });
  await bench.end(pipe);
}

async function ask(client, messages) {
  const startedMs = performance.now();
  let ttftMs;
  for await (const chunk of await client.chat.completions.create({ model: 'demo', messages, temperature: 0, max_tokens: MAX_TOKENS, stream: true })) {
    if ((chunk.choices[0]?.delta.content ?? '') !== '') ttftMs ??= performance.now() - startedMs;
  }
  return ttftMs ?? performance.now() - startedMs;
}

/** A steady load: a process that gets a request a second pays for cold caches and code that was never optimised, and not for requests. */
async function cpuPerRequest(ways, checks) {
  const cpu = {};
  for (const { name, client, pid } of ways.filter((way) => way.pid !== undefined)) {
    const prompts = chats(WARM_UP + COUNTED, { seed: 37, turns: 3, salt: 'overhead' });
    await inGroups(prompts.slice(0, WARM_UP), AT_ONCE, (messages) => ask(client, messages));
    const [before, startedMs] = [cpuMs(pid), performance.now()];
    await inGroups(prompts.slice(WARM_UP), AT_ONCE, (messages) => ask(client, messages));
    const [total, seconds] = [diff(cpuMs(pid), before), (performance.now() - startedMs) / 1000];
    cpu[name] = total.all / COUNTED;
    checks.say(`CPU of ${name}: ${cpu[name].toFixed(2)} ms a request (${(total.user / COUNTED).toFixed(2)} user, ${(total.system / COUNTED).toFixed(2)} system), ${(COUNTED / seconds).toFixed(0)} requests/s`);
  }
  checks.say(`CPU our hop: ${cpu.armature.toFixed(2)} ms a request, bound ${BOUND.cpuMs}: ${cpu.armature <= BOUND.cpuMs ? 'met' : 'not met'}; ${(cpu.armature / cpu.pipe).toFixed(2)} x the pipe`);
  return cpu;
}

const diff = (after, before) => ({ all: after.all - before.all, user: after.user - before.user, system: after.system - before.system });

/** One request at a time. Whoever asks first fills vLLM's prefix cache for the others: all ask once uncounted. */
async function firstTokens(ways, checks) {
  const times = Object.fromEntries(ways.map(({ name }) => [name, []]));
  const prompts = chats(ROUNDS, { seed: 41, turns: 3, salt: 'first token' });
  for (const [i, messages] of prompts.entries()) {
    await ask(ways[0].client, messages);
    for (let k = 0; k < ways.length; k++) {
      const { name, client } = ways[(i + k) % ways.length];
      times[name].push(await ask(client, messages));
    }
  }
  const p50 = Object.fromEntries(Object.entries(times).map(([name, values]) => [name, quantile(values, 0.5)]));
  const added = p50.armature - p50.direct;
  checks.say(`TTFT p50: direct ${p50.direct.toFixed(2)} ms, pipe +${(p50.pipe - p50.direct).toFixed(2)}, armature +${added.toFixed(2)} ms (x ${(p50.armature / p50.direct).toFixed(3)}), bound ${BOUND.ttftMs}: ${added <= BOUND.ttftMs ? 'met' : 'not met'}`);
  return times;
}
