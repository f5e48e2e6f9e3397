// Runs on the frontend's host for `npm run test:chaos`: an open loop of requests whose answers it knows, and a pair of eyes on admin listeners.
// Usage: agent.mjs PROMPTS.json (an array of { body, expected }, expected being texts per choice). Orders and answers are JSON lines:
// {"id", "get": url} · {"id", "load": {url, ratePerSecond}} · {"id", "stop": true}: with what came · {"id", "learn": url}: answers, asked one by one.
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { createInterface } from 'node:readline';

const REQUEST_TIMEOUT_MS = 20_000;
/** The service must have said something by then. */
const HUNG_MS = REQUEST_TIMEOUT_MS + 5_000;

const prompts = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const agent = new Agent({ keepAlive: true, maxSockets: Infinity });
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** One exchange, whatever becomes of it: { status, text, firstByteMs } or { failure }. */
function exchange(url, { body, id, timeoutMs }) {
  return new Promise((resolve) => {
    const startedMs = performance.now();
    const headers = body === undefined ? {} : { 'content-type': 'application/json', 'x-request-timeout-ms': String(REQUEST_TIMEOUT_MS), 'x-request-id': id };
    const outgoing = request(url, { agent, method: body === undefined ? 'GET' : 'POST', headers }, (incoming) => {
      const chunks = [];
      let firstByteMs;
      incoming.on('data', (chunk) => {
        firstByteMs ??= performance.now() - startedMs;
        chunks.push(chunk);
      });
      incoming.once('end', () => settle({ status: incoming.statusCode, text: Buffer.concat(chunks).toString(), firstByteMs }));
      incoming.once('error', (error) => settle({ failure: `client: ${error.message}` }));
    });
    const timer = setTimeout(() => {
      settle({ failure: 'HUNG' });
      outgoing.destroy();
    }, timeoutMs);
    const settle = (outcome) => {
      clearTimeout(timer);
      resolve({ ms: performance.now() - startedMs, ...outcome });
    };
    outgoing.once('error', (error) => settle({ failure: `client: ${error.message}` }));
    outgoing.end(body);
  });
}

/** Texts per choice, or the code that came instead: in the body, or as the last event of a stream. */
function read({ status, text }) {
  try {
    const isStream = text.startsWith('data: ');
    if (!isStream) {
      const { choices, error } = JSON.parse(text);
      return choices === undefined ? { code: error?.code ?? `http ${status}` } : { texts: choices.map(({ message }) => message.content) };
    }
    const events = text.split('\n\n').filter((event) => event.startsWith('data: ')).map((event) => event.slice(6));
    if (events.at(-1) !== '[DONE]') return { code: 'client: a stream without its end' };
    const texts = [];
    for (const event of events.slice(0, -1)) {
      const { choices, error } = JSON.parse(event);
      if (error !== undefined) return { code: error.code };
      for (const { index, delta } of choices) texts[index] = (texts[index] ?? '') + (delta.content ?? '');
    }
    return { texts };
  } catch (error) {
    return { code: `client: unreadable answer (${error.message}): ${text.slice(0, 200)}` };
  }
}

async function ask(url, at, id) {
  const { body, expected } = prompts[at];
  const outcome = await exchange(`${url}/chat/completions`, { body, id, timeoutMs: HUNG_MS });
  const { texts, code } = outcome.failure === undefined ? read(outcome) : { code: outcome.failure };
  const isWrong = texts !== undefined && expected !== undefined && JSON.stringify(texts) !== JSON.stringify(expected);
  return { id, prompt: at, ms: outcome.ms, firstByteMs: outcome.firstByteMs, texts, code: isWrong ? 'WRONG' : code };
}

/** Requests leave on their beat, however long answers take. */
class Load {
  #results = { sent: 0, answered: 0, codes: {}, ms: [], streamMs: [] };
  #open = new Set();
  #next = 0;
  #timer;

  constructor({ url, ratePerSecond }, number) {
    const startedMs = performance.now();
    this.#timer = setInterval(() => {
      const due = Math.floor(((performance.now() - startedMs) * ratePerSecond) / 1000);
      while (this.#results.sent < due) this.#send(url, `load${number}-${this.#results.sent++}`);
    }, 5);
  }

  #send(url, id) {
    const at = this.#next++ % prompts.length;
    const done = ask(url, at, id).then((answer) => {
      this.#open.delete(done);
      this.#take(answer);
    });
    this.#open.add(done);
  }

  #take({ id, prompt, ms, firstByteMs, texts, code }) {
    this.#results.ms.push(ms);
    if (code === undefined) {
      this.#results.answered++;
      if (prompts[prompt].isStream) this.#results.streamMs.push(firstByteMs);
      return;
    }
    this.#results.codes[code] = (this.#results.codes[code] ?? 0) + 1;
    say({ bad: { id, prompt, code, ms: Math.round(ms), ...(code === 'WRONG' ? { texts, expected: prompts[prompt].expected } : {}) } });
  }

  async stop() {
    clearInterval(this.#timer);
    await Promise.all(this.#open);
    agent.destroy(); // idle connections are handles of the frontend
    return this.#results;
  }
}

let load;
let loads = 0;
async function follow(order) {
  if (order.get !== undefined) {
    const { status, text, failure } = await exchange(order.get, { timeoutMs: 10_000 });
    return { status, text, failure };
  }
  if (order.learn !== undefined) {
    const answers = [];
    for (let at = 0; at < prompts.length; at++) answers.push(await ask(order.learn, at, `learn-${at}`));
    return { answers };
  }
  if (order.load !== undefined) {
    load = new Load(order.load, ++loads);
    return {};
  }
  return load.stop();
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const order = JSON.parse(line);
    void follow(order).then((answer) => say({ id: order.id, ...answer }));
  })
  .on('close', () => process.exit(0));
