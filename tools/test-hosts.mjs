// `npm run test:hosts [-- --conversations N | --full]`: frontend, prefill and decode on three hosts (network namespaces on a switch in user space), real etcd, one
// YAML. Answers are compared with those of one process; then delay and loss, cuts between hosts, and etcd gone for a while.
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { hostsMissing, Network } from './hosts/hosts.mjs';
import { installEtcd } from './test-etcd.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = join(root, 'packages/cli/bin/armature.js');
const { values } = parseArgs({ options: { conversations: { type: 'string', default: '200' }, full: { type: 'boolean', default: false } } });
const CONVERSATIONS = values.full ? 1000 : Number(values.conversations);
const DEADLINE_MS = 15 * 60_000;
/** How long lines are cut, etcd is gone, and a host is cut off from etcd: longer than its lease (10 s) and discovery's grace together. */
const [CUT_MS, ETCD_GONE_MS, HOST_GONE_MS] = [4_000, 20_000, 20_000];
const WORKERS = 4;

const cluster = `apiVersion: armature/v1
admin: { host: 127.0.0.1, port: 8001 }
frontend: { use: openai, config: { host: 127.0.0.1, port: 8000 } }
discovery:
  use: etcd
  config: { cluster: hosts, endpoints: ["http://10.77.0.1:2379"] }
events:
  use: zmq
  config:
    host: \${HOST_ADDRESS}
requests:
  use: tcp
  config:
    host: \${HOST_ADDRESS}
    token: hosts-secret
    pingIntervalMs: 300
    pingDeadlineMs: 1200
transports:
  - use: tcp
    config:
      host: \${HOST_ADDRESS}
      token: hosts-secret
models:
  - name: demo
    source: ${JSON.stringify(join(root, 'packages/model-demo/model'))}
    transferTimeoutMs: 2000
    disaggregation: { use: always, config: { whenNoPrefillWorker: local } }
    workers:
      - { name: prefill, role: prefill, replicas: 2, engine: { use: reference } }
      - { name: decode, role: decode, replicas: 2, engine: { use: reference } }
`;
const alone = `apiVersion: armature/v1
frontend: { use: openai, config: { host: 127.0.0.1, port: 8000 } }
models: [{ name: demo, source: ${JSON.stringify(join(root, 'packages/model-demo/model'))}, workers: [{ name: all, engine: { use: reference } }] }]
`;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const failures = [];
function check(what, isRight, found) {
  console.log(`${isRight ? 'ok    ' : 'FAILED'} ${what}${found === undefined ? '' : `: ${found}`}`);
  if (!isRight) failures.push(what);
}

async function until(what, isSo, timeoutMs = 60_000) {
  const deadline = performance.now() + timeoutMs;
  while (!(await isSo())) {
    if (performance.now() > deadline) throw new Error(`never: ${what}`);
    await pause(100);
  }
}

/** GET on a host's loopback. */
function get(host, url) {
  try {
    return host.run(process.execPath, ['-e', `fetch(${JSON.stringify(url)}).then((r) => r.text()).then((t) => process.stdout.write(t), () => process.exit(1))`], { timeout: 10_000, stdio: ['ignore', 'pipe', 'ignore'] });
  } catch {
    return '';
  }
}

const metric = (host, name) => get(host, 'http://127.0.0.1:8001/metrics').split('\n').filter((line) => line.startsWith(name) && line[name.length] !== '_').reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);

function ask(host, count, inFlight, seed, seconds = 0) {
  return new Promise((resolve, reject) => {
    const child = host.spawn(process.execPath, [join(root, 'tools/hosts/client.mjs'), 'http://127.0.0.1:8000/v1', String(count), String(inFlight), String(seed), String(seconds)]);
    let out = '';
    child.stdout.on('data', (chunk) => (out += chunk));
    child.once('exit', (code) => (code === 0 ? resolve(JSON.parse(out)) : reject(new Error(`client ended with ${code}: ${child.output.slice(-500)}`))));
  });
}

const quantile = (answers, q) => {
  const sorted = answers.map(({ ms }) => ms).sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? NaN;
};
const latency = (answers) => `p50 ${quantile(answers, 0.5).toFixed(0)} ms, p99 ${quantile(answers, 0.99).toFixed(0)} ms`;
const outcomes = (answers) => {
  const counts = new Map();
  for (const { code } of answers) counts.set(code ?? 'answered', (counts.get(code ?? 'answered') ?? 0) + 1);
  return [...counts].map(([code, count]) => `${count} ${code}`).join(', ');
};

async function main() {
  const missing = hostsMissing() ?? installEtcd();
  if (missing !== undefined) {
    console.log(`skipped hosts: ${missing}`);
    return 0;
  }
  if (spawnSync(process.execPath, [join(root, 'tools/bootstrap.mjs')], { cwd: root, stdio: 'inherit' }).status !== 0) return 1;
  const folder = mkdtempSync(join(tmpdir(), 'armature-hosts-'));
  const network = await Network.open(['front', 'prefill', 'decode']);
  const late = setTimeout(() => {
    console.error('test:hosts: took longer than 15 minutes');
    void network.close().finally(() => process.exit(1));
  }, DEADLINE_MS);
  try {
    await run(network, folder);
  } catch (error) {
    failures.push(String(error));
    console.error(error);
    for (const host of network.hosts.values()) for (const child of host.processes) console.error(`--- ${host.name}\n${child.output.slice(-3000)}`);
  } finally {
    clearTimeout(late);
    await network.close();
    rmSync(folder, { recursive: true, force: true });
  }
  console.log(failures.length === 0 ? 'test:hosts: all right' : `test:hosts: ${failures.length} failed`);
  return failures.length === 0 ? 0 : 1;
}

/** The three hosts, what runs on them, and what one process answered. */
class Cluster {
  parts = [];
  #etcdLives = 0;

  constructor(network, folder) {
    Object.assign(this, { network, folder });
    for (const name of ['front', 'prefill', 'decode']) this[name] = network.host(name);
    writeFileSync(join(folder, 'cluster.yaml'), cluster);
    writeFileSync(join(folder, 'alone.yaml'), alone);
  }

  serve(host, words) {
    return host.spawn(process.execPath, [bin, 'serve', ...words], { env: { ...process.env, HOST_ADDRESS: host.address } });
  }

  async learn() {
    const single = this.serve(this.front, ['-f', join(this.folder, 'alone.yaml')]);
    await until('one process serves', () => single.output.includes('Ctrl-C stops'));
    this.expected = await ask(this.front, CONVERSATIONS, 8, 7);
    const gone = once(single, 'exit');
    single.kill('SIGTERM');
    await gone;
    check('one process answers everything', this.areAnswered(this.expected), latency(this.expected));
  }

  /** With what it knew, or with an empty store. */
  startEtcd(isEmpty = false) {
    if (isEmpty) this.#etcdLives++;
    const client = 'http://10.77.0.1:2379';
    this.etcd = this.front.spawn('etcd', ['--data-dir', join(this.folder, `etcd-${this.#etcdLives}`), '--listen-client-urls', client, '--advertise-client-urls', client, '--listen-peer-urls', 'http://127.0.0.1:2380']);
  }

  async start() {
    this.startEtcd();
    const only = (host, part) => this.serve(host, ['-f', join(this.folder, 'cluster.yaml'), '--only', part]);
    this.parts = [only(this.prefill, 'workers.prefill'), only(this.decode, 'workers.decode'), only(this.front, 'frontend')];
    for (const part of this.parts) await until('a part is ready', () => part.output.includes('Ctrl-C stops') || part.exitCode !== null);
    await this.whole();
  }

  /** What the router knows of its workers. */
  workers() {
    try {
      return JSON.parse(get(this.front, 'http://127.0.0.1:8001/workers'));
    } catch {
      return [];
    }
  }

  /** Workers that etcd itself has. */
  registered() {
    try {
      return this.front.run('etcdctl', ['--endpoints', 'http://10.77.0.1:2379', 'get', '--prefix', '/armature/hosts/', '--keys-only'], { env: { ...process.env, ETCDCTL_API: '3' }, timeout: 10_000, stdio: ['ignore', 'pipe', 'ignore'] }).split('\n').filter((key) => key.includes('/workers/')).length;
    } catch {
      return 0;
    }
  }

  /** Everybody is in, nobody is out, and what each of them caches is followed. */
  async whole() {
    let workers = [];
    try {
      await until('four workers, none out, KV events followed', () => {
        workers = this.workers();
        return workers.length === WORKERS && workers.every(({ isInhibited, kvStream }) => !isInhibited && kvStream.state === 'live');
      });
    } catch (error) {
      console.error(`the router's workers: ${JSON.stringify(workers)}; in etcd: ${this.registered()}`);
      throw error;
    }
  }

  areAnswered(answers) {
    return answers.every(({ code }) => code === undefined);
  }

  areRight(answers) {
    return answers.every(({ prompt, text, logprobs, code }) => code !== undefined || (text === this.expected[prompt].text && JSON.stringify(logprobs) === JSON.stringify(this.expected[prompt].logprobs)));
  }

  /** Some failed: with a code of the service, before their deadline. */
  hasCodes(answers) {
    return answers.every(({ code }) => code === undefined || (code !== 'HUNG' && !/^(client:|http )/.test(code)));
  }

  async afterwards(what) {
    const before = metric(this.front, 'armature_remote_prefills_total');
    const answers = await ask(this.front, 40, 8, 7);
    check(`… ${what}: every answer comes, by prefill workers`, this.areAnswered(answers) && this.areRight(answers) && metric(this.front, 'armature_remote_prefills_total') > before, latency(answers));
  }
}

async function compared(on) {
  const crossed = async () => (await on.network.order({ stats: true })).bytes['decode prefill'] ?? 0;
  const before = await crossed();
  const answers = await ask(on.front, CONVERSATIONS, 8, 7);
  const [bytes, kvBytes] = [(await crossed()) - before, metric(on.decode, 'armature_kv_transfer_bytes_total')];
  check(`${CONVERSATIONS} conversations over three hosts, tokens and logprobs as from one process`, on.areAnswered(answers) && on.areRight(answers), latency(answers));
  check('every prompt was computed on the prefill host', metric(on.front, 'armature_remote_prefills_total') === CONVERSATIONS, metric(on.front, 'armature_remote_prefills_total'));
  check('its KV crossed the network between the two', kvBytes > 0 && bytes >= kvBytes, `${metric(on.decode, 'armature_kv_transfer_blocks_total')} blocks, ${kvBytes} bytes of KV, ${bytes} bytes on the switch`);
}

async function slowAndLossy(on) {
  await on.network.order({ delayMs: 5, loss: 0.01 });
  const answers = await ask(on.front, Math.min(100, CONVERSATIONS), 8, 7);
  const { lost } = await on.network.order({ delayMs: 0, loss: 0 });
  check('5 ms delay and 1 % loss: every answer right', on.areAnswered(answers) && on.areRight(answers) && lost > 0, `${latency(answers)}; ${lost} frames lost`);
}

async function cutLines(on) {
  for (const pair of [['front', 'decode'], ['prefill', 'decode'], ['front', 'prefill']]) {
    const failed = metric(on.decode, 'armature_kv_transfer_failures_total');
    const load = ask(on.front, CONVERSATIONS, 6, 7, 9);
    await pause(2000);
    await on.network.order({ cut: pair });
    await pause(CUT_MS);
    await on.network.order({ heal: true });
    const answers = await load;
    check(`cut ${pair.join(' – ')} for ${CUT_MS / 1000} s under load: none hangs, none is wrong, what fails has a code`, on.areRight(answers) && on.hasCodes(answers), `${outcomes(answers)}; ${latency(answers)}`);
    if (!pair.includes('front')) {
      const pulls = metric(on.decode, 'armature_kv_transfer_failures_total') - failed;
      check('… KV that could not be pulled was computed again, all answered', pulls > 0 && on.areAnswered(answers), `${pulls} pulls failed`);
    }
    await on.whole();
    await on.afterwards('healed');
  }
}

async function hostCutOff(on) {
  await on.network.order({ cut: ['front', 'prefill'] });
  await until('its lease runs out', () => on.registered() === WORKERS / 2, HOST_GONE_MS);
  const locally = metric(on.front, 'armature_prefill_fallbacks_total');
  const answers = await ask(on.front, 40, 8, 7);
  check('prefill host cut off for longer than its lease: decode workers go on alone, and it is counted', on.areAnswered(answers) && on.areRight(answers) && metric(on.front, 'armature_prefill_fallbacks_total') > locally, outcomes(answers));
  await on.network.order({ heal: true });
  await until('it has registered again', () => on.registered() === WORKERS);
  await on.whole();
  await on.afterwards('it is back');
}

async function withoutEtcd(on, isEmpty) {
  on.etcd.kill('SIGKILL');
  const answers = await ask(on.front, CONVERSATIONS, 6, 7, ETCD_GONE_MS / 1000);
  check(`etcd killed for ${ETCD_GONE_MS / 1000} s: serving goes on`, on.areAnswered(answers) && on.areRight(answers), `${outcomes(answers)}; ${latency(answers)}`);
  on.startEtcd(isEmpty);
  await until(`four workers in etcd, started again ${isEmpty ? 'empty' : 'with its data'}`, () => on.registered() === WORKERS);
  await pause(12_000); // longer than a lease: they are kept alive
  check(`… back ${isEmpty ? 'with an empty store' : 'with its data'}: four workers, in etcd and in the router`, on.registered() === WORKERS && on.workers().length === WORKERS, `${on.registered()}, ${on.workers().length}`);
  await on.whole();
  await on.afterwards('etcd is back');
}

async function run(network, folder) {
  const on = new Cluster(network, folder);
  await on.learn();
  await on.start();
  await compared(on);
  await slowAndLossy(on);
  await cutLines(on);
  await hostCutOff(on);
  await withoutEtcd(on, false);
  await withoutEtcd(on, true);
  check('every process still runs', on.parts.every(({ exitCode, signalCode }) => exitCode === null && signalCode === null));
}

process.exit(await main());
