// Through the official client: streaming, logprobs, stop, choices, usage as vLLM itself counts it; a client that leaves frees vLLM's blocks.
import OpenAI from 'openai';
import { sumOf, until } from '../check.mjs';
import { chats } from '../prompts.mjs';
import { BLOCK_SIZE } from '../server.mjs';

const TRIES = 10;

export async function run({ pair, bench, checks }) {
  const [server] = await pair();
  const yaml = `models: [{ name: demo, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, workers: [{ name: v, engine: { use: vllm, config: { baseUrl: ${JSON.stringify(server.url)} } } }] }]\n`;
  await bench.withArmature(yaml, {}, async (armature) => {
    const direct = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0, timeout: 120_000 });
    const before = await server.metrics();
    await answers({ ours: armature.client, direct, checks });
    const after = await server.metrics();
    const ran = sumOf(after, 'vllm:request_success_total') - sumOf(before, 'vllm:request_success_total');
    checks.check('vLLM counts the requests', ran >= 10, ran);
    await cancel({ armature, server, checks });
  });
}

async function answers({ ours, direct, checks }) {
  const [messages] = chats(1, { seed: 5, salt: 'streaming' });
  const body = { model: 'demo', messages, temperature: 0, max_tokens: 24 };
  const whole = await ours.chat.completions.create(body);
  const text = whole.choices[0].message.content;

  let [streamed, chunks, usage] = ['', 0, undefined];
  for await (const chunk of await ours.chat.completions.create({ ...body, stream: true, stream_options: { include_usage: true } })) {
    const words = chunk.choices[0]?.delta.content ?? '';
    if (words !== '') chunks++;
    streamed += words;
    usage = chunk.usage ?? usage;
  }
  checks.check('a stream has the text of the whole answer', streamed === text && text.length > 0, `${chunks} pieces of ${JSON.stringify(text)}`);
  // vLLM's own server on two busy cores sends a whole answer of 256 tokens in one burst now and then, its direct clients see the same; a hop that withholds would do so each time.
  const tries = [];
  while (tries.length < TRIES && !(tries.at(-1) > 3)) {
    let pieces = 0;
    for await (const chunk of await ours.chat.completions.create({ ...body, max_tokens: 256, ignore_eos: true, stream: true })) if ((chunk.choices[0]?.delta.content ?? '') !== '') pieces++;
    tries.push(pieces);
  }
  checks.check('a long answer comes in pieces', tries.at(-1) > 3, tries);
  checks.check('usage of the stream', usage?.completion_tokens === whole.usage.completion_tokens && usage.prompt_tokens === whole.usage.prompt_tokens, usage);

  // Twice, so that both sides are asked with the prompt in vLLM's cache.
  const theirs = await direct.chat.completions.create(body);
  const again = await ours.chat.completions.create(body);
  const counts = ({ usage: u, choices }) => [u.prompt_tokens, u.completion_tokens, u.prompt_tokens_details?.cached_tokens ?? 0, choices[0].finish_reason];
  checks.check("text and usage are vLLM's own, cached tokens too", again.choices[0].message.content === theirs.choices[0].message.content && String(counts(again)) === String(counts(theirs)) && counts(again)[2] >= BLOCK_SIZE, { ours: counts(again), vllm: counts(theirs) });

  const scored = { ...body, logprobs: true, top_logprobs: 3 };
  const [a, b] = [await ours.chat.completions.create(scored), await direct.chat.completions.create(scored)].map((answer) => answer.choices[0].logprobs.content);
  const difference = Math.max(...a.map((entry, i) => Math.abs(entry.logprob - (b[i]?.logprob ?? Number.POSITIVE_INFINITY))));
  // vLLM's chat route lists the end-of-sequence token as well; ours, like OpenAI's, does not.
  checks.check("logprobs are vLLM's own, with their alternatives", b.length - a.length <= 1 && a.length > 1 && difference < 1e-4 && a.every((entry) => entry.top_logprobs.length === 3), `${a.length} tokens (vLLM ${b.length}), largest difference ${difference.toExponential(1)}`);

  const word = text.trim().split(/\s+/).at(-1);
  const stopped = await ours.chat.completions.create({ ...body, stop: [word] });
  checks.check('a stop string ends the answer before it', stopped.choices[0].finish_reason === 'stop' && !stopped.choices[0].message.content.includes(word) && text.startsWith(stopped.choices[0].message.content), JSON.stringify([stopped.choices[0].message.content, word]));
  const short = await ours.chat.completions.create({ ...body, max_tokens: 2 });
  checks.check('max_tokens ends the answer', short.choices[0].finish_reason === 'length' && short.usage.completion_tokens === 2);

  const sampled = { ...body, n: 2, temperature: 1.5, seed: 7 };
  const two = await ours.chat.completions.create(sampled);
  const repeated = await ours.chat.completions.create(sampled);
  const texts = (answer) => answer.choices.map((choice) => choice.message.content);
  checks.check('n=2 gives two answers, again the same with the same seed', texts(two).length === 2 && texts(two)[0] !== texts(two)[1] && String(texts(two)) === String(texts(repeated)), texts(two));
}

async function cancel({ armature, server, checks }) {
  const running = async () => sumOf(await server.metrics(), 'vllm:num_requests_running');
  const usage = async () => sumOf(await server.metrics(), 'vllm:kv_cache_usage_perc');
  await until('vLLM is idle', async () => (await running()) === 0);
  const usageBefore = await usage();
  let during;
  for (let attempt = 1; during === undefined && attempt <= TRIES; attempt++) during = await leaveMidway({ client: armature.client, attempt, look: async () => ({ running: await running(), usage: await usage() }) });
  checks.check('vLLM runs it and holds blocks', during?.running === 1 && during.usage > usageBefore, during);
  const startedMs = performance.now();
  await until('vLLM has dropped it', async () => (await running()) === 0 && (await usage()) <= usageBefore, 20_000);
  checks.check('a client that leaves frees its blocks in vLLM', true, `within ${(performance.now() - startedMs).toFixed(0)} ms`);
  await until('Armature holds nothing of it', async () => (await armature.get('/workers')).every(({ load }) => load.requests === 0), 10_000);
  const record = (await armature.get('/requests?limit=1'))[0];
  checks.check('the record says cancelled', JSON.stringify(record).includes('cancelled'), record.outcome);
}

/** What `look` sees at the eighth piece of a long answer, after which the client leaves. Undefined: it had ended by then (see TRIES). */
async function leaveMidway({ client, attempt, look }) {
  const leave = new AbortController();
  const [messages] = chats(1, { seed: 6, turns: 8, salt: `cancel ${attempt}` });
  // ignore_eos: runs to 1,500 tokens, many seconds, unless it is ended.
  const stream = await client.chat.completions.create({ model: 'demo', messages, stream: true, max_tokens: 1500, temperature: 0, ignore_eos: true }, { signal: leave.signal });
  let seen = 0;
  let during;
  try {
    for await (const chunk of stream) {
      if ((chunk.choices[0]?.delta.content ?? '') === '' || ++seen !== 8) continue;
      const looked = await look();
      if (looked.running > 0) during = looked;
      leave.abort();
    }
  } catch (error) {
    if (!leave.signal.aborted) throw error;
  }
  return during;
}
