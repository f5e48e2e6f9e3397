// The cluster of `npm run test:chaos`: its file, its prompts, its processes.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Part } from './parts.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const bin = join(root, 'packages/cli/bin/armature.js');
const model = JSON.stringify(join(root, 'packages/model-demo/model'));

export const PING = { intervalMs: 300, deadlineMs: 1200 };
/** A stopped process or a cut line is noticed within this. */
export const DETECTION_MS = PING.intervalMs + PING.deadlineMs;
const REPLICAS = 3;
const POOLS = ['prefill', 'decode'];
const FIRST_ADMIN_PORT = 9100;

// Passes take the time of vLLM's (backend-mock's defaults); answers follow from prompt, seed and KV bytes.
const engine = (speedup) => `{ use: mock, config: { vocabSize: 1024, maxModelTokens: 2048, totalBlocks: 4096, speedup: ${speedup} } }`;
const clusterFile = (folder) => `apiVersion: armature/v1
admin: { host: "\${HOST_ADDRESS}", port: 8001 }
frontend: { use: openai, config: { host: "\${HOST_ADDRESS}", port: 8000 } }
discovery: { use: file, config: { path: ${JSON.stringify(join(folder, 'who'))} } }
events: { use: zmq, config: { host: "\${HOST_ADDRESS}" } }
requests: { use: tcp, config: { host: "\${HOST_ADDRESS}", token: chaos-secret, pingIntervalMs: ${PING.intervalMs}, pingDeadlineMs: ${PING.deadlineMs} } }
transports: [{ use: tcp, config: { host: "\${HOST_ADDRESS}", token: chaos-secret } }]
records: 4000
models:
  - name: demo
    source: ${model}
    transferTimeoutMs: 1500
    leaseTtlMs: 5000
    disaggregation: { use: always, config: { whenNoPrefillWorker: local } }
    workers:
${POOLS.map((pool) => `      - { name: ${pool}, role: ${pool}, replicas: ${REPLICAS}, engine: ${engine(1)} }`).join('\n')}
`;
const aloneFile = `apiVersion: armature/v1
frontend: { use: openai, config: { host: "\${HOST_ADDRESS}", port: 8000 } }
models: [{ name: demo, source: ${model}, workers: [{ name: all, engine: ${engine(0)} }] }]
`;

/** First words of chats that go on for several turns; some ask for several choices, some for a stream. */
export function firstTurns(count, random) {
  return Array.from({ length: count }, (_, i) => {
    const facts = [`My cat is called ${random.pick(['Biscuit', 'Rufus', 'Pepper', 'Maple'])}.`, `My sister lives in ${random.pick(['Oslo', 'Cairo', 'Paris', 'Rome'])}.`, `My number is ${i}.`];
    return { system: 'You are a helpful assistant. '.repeat(1 + random.below(6)), facts: facts.join(' '), seed: i, choices: i % 10 === 0 ? 2 : 1, isStream: i % 3 === 0, maxTokens: 16 + random.below(24) };
  });
}

export function promptOf({ system, facts, seed, choices, isStream, maxTokens }, earlier) {
  const turns = [facts, 'What is my cat called?', 'What is my number? Where does my sister live?', 'What do you think of all that?'];
  const messages = [{ role: 'system', content: system }];
  earlier.forEach((answer, turn) => messages.push({ role: 'user', content: turns[turn] }, { role: 'assistant', content: answer }));
  messages.push({ role: 'user', content: turns[earlier.length] });
  return { body: JSON.stringify({ model: 'demo', messages, n: choices, stream: isStream, max_tokens: maxTokens, temperature: 0.8, seed }), isStream };
}

export class Cluster {
  /** Requests that changed workers, as the frontend's log names them. */
  moved = new Set();

  constructor({ hosts, folder }) {
    this.hosts = hosts;
    this.folder = folder;
    this.front = hosts[0];
    writeFileSync(join(folder, 'cluster.yaml'), clusterFile(folder));
    writeFileSync(join(folder, 'alone.yaml'), aloneFile);
    const part = (name, host, words, more = {}) => new Part({ name, host, command: [bin, 'serve', ...words], env: { ...process.env, HOST_ADDRESS: host.address }, ...more });
    const file = join(folder, 'cluster.yaml');
    this.alone = part('alone', this.front, ['-f', join(folder, 'alone.yaml')]);
    this.frontend = part('frontend', this.front, ['-f', file, '--only', 'frontend'], { onLine: (line) => this.#hear(line) });
    this.workers = POOLS.flatMap((pool, p) =>
      Array.from({ length: REPLICAS }, (_, i) => {
        const host = hosts[hosts.length === 1 ? 0 : 1 + i];
        const adminPort = FIRST_ADMIN_PORT + p * REPLICAS + i;
        const worker = part(`${pool}/${i}`, host, ['-f', file, '--only', `workers.${pool}/${i}`, '--admin-port', String(adminPort)]);
        // The first of each pool is stopped and cut off, but not ended: it must not grow.
        return Object.assign(worker, { pool, isSurvivor: i === 0, adminUrl: `http://${host.address}:${adminPort}` });
      }),
    );
  }

  get url() {
    return `http://${this.front.address}:8000/v1`;
  }

  get adminUrl() {
    return `http://${this.front.address}:8001`;
  }

  get parts() {
    return [this.frontend, ...this.workers];
  }

  #hear(line) {
    if (!line.includes('request moves to another worker')) return;
    this.moved.add(JSON.parse(line).request);
  }
}

/** The load and the admin look-ups, on the frontend's host. */
export class RemoteAgent {
  #child;
  #waiting = new Map();
  #next = 0;

  constructor(host, promptFile, onBad) {
    this.#child = host.spawn(process.execPath, [fileURLToPath(new URL('agent.mjs', import.meta.url)), promptFile], { stdio: ['pipe', 'pipe', 'inherit'] });
    createInterface({ input: this.#child.stdout }).on('line', (line) => {
      const { id, bad, ...answer } = JSON.parse(line);
      if (bad !== undefined) return onBad(bad);
      this.#waiting.get(id)?.(answer);
      this.#waiting.delete(id);
    });
    this.#child.once('exit', () => {
      for (const resolve of this.#waiting.values()) resolve({ failure: 'the agent has gone' });
    });
  }

  order(order) {
    const id = this.#next++;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.#child.stdin.write(`${JSON.stringify({ id, ...order })}\n`);
    });
  }

  /** JSON or text of an admin listener; undefined when it does not answer. */
  async get(url) {
    const { status, text } = await this.order({ get: url });
    if (status !== 200) return undefined;
    return url.endsWith('/metrics') ? text : JSON.parse(text);
  }

  close() {
    this.#child.stdin.end();
  }
}
