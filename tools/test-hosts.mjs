// `npm run test:hosts [-- --conversations N]`: frontend, prefill and decode on three hosts (network namespaces on a switch in user space), real etcd, one
// YAML. Answers are compared with those of one process; then delay and loss, cuts between hosts, and etcd gone for a while.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { hostsMissing, Network } from './hosts/hosts.mjs';
import { installEtcd } from './test-etcd.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = join(root, 'packages/cli/bin/armature.js');
const { values } = parseArgs({ options: { conversations: { type: 'string', default: '200' } } });
const CONVERSATIONS = Number(values.conversations);
const DEADLINE_MS = 15 * 60_000;

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

async function run(network, folder) {
  const [front, prefill, decode] = ['front', 'prefill', 'decode'].map((name) => network.host(name));
  writeFileSync(join(folder, 'cluster.yaml'), cluster);
  writeFileSync(join(folder, 'alone.yaml'), alone);
  const serve = (host, words) => host.spawn(process.execPath, [bin, 'serve', ...words], { env: { ...process.env, HOST_ADDRESS: host.address } });

  const single = serve(front, ['-f', join(folder, 'alone.yaml')]);
  await until('one process serves', () => single.output.includes('Ctrl-C stops'));
  const expected = await ask(front, CONVERSATIONS, 8, 7);
  const gone = new Promise((resolve) => single.once('exit', resolve));
  single.kill('SIGTERM');
  await gone;
  const right = (answers) => answers.every(({ prompt, text, logprobs, code }) => code !== undefined || (text === expected[prompt].text && JSON.stringify(logprobs) === JSON.stringify(expected[prompt].logprobs)));
  const answered = (answers) => answers.every(({ code }) => code === undefined);

  const startEtcd = () => front.spawn('etcd', ['--data-dir', join(folder, 'etcd'), '--listen-client-urls', 'http://10.77.0.1:2379', '--advertise-client-urls', 'http://10.77.0.1:2379', '--listen-peer-urls', 'http://127.0.0.1:2380']);
  let etcd = startEtcd();
  const only = (host, part) => serve(host, ['-f', join(folder, 'cluster.yaml'), '--only', part]);
  const parts = [only(prefill, 'workers.prefill'), only(decode, 'workers.decode'), only(front, 'frontend')];
  for (const part of parts) await until('a part is ready', () => part.output.includes('Ctrl-C stops') || part.exitCode !== null);
  const workers = () => {
    try {
      return JSON.parse(get(front, 'http://127.0.0.1:8001/workers')).length;
    } catch {
      return 0;
    }
  };
  await until('four workers joined', () => workers() === 4);

  const before = (await network.order({ stats: true })).forwarded;
  const plain = await ask(front, CONVERSATIONS, 8, 7);
  const frames = (await network.order({ stats: true })).forwarded - before;
  check(`${CONVERSATIONS} conversations over three hosts, tokens and logprobs as from one process`, answered(plain) && right(plain), latency(plain));
  check('every prompt was computed on the prefill host', metric(front, 'armature_remote_prefills_total') === CONVERSATIONS, metric(front, 'armature_remote_prefills_total'));
  check('KV blocks crossed the network', metric(decode, 'armature_kv_transfer_blocks_total') > CONVERSATIONS, `${metric(decode, 'armature_kv_transfer_blocks_total')} blocks, ${frames} frames on the switch`);

  await network.order({ delayMs: 5, loss: 0.01 });
  const lossy = await ask(front, Math.min(100, CONVERSATIONS), 8, 7);
  check('5 ms delay and 1 % loss: every answer right', answered(lossy) && right(lossy), latency(lossy));
  await network.order({ delayMs: 0, loss: 0 });

  for (const pair of [['front', 'decode'], ['prefill', 'decode'], ['front', 'prefill']]) {
    const load = ask(front, CONVERSATIONS, 6, 7, 9);
    await pause(2000);
    await network.order({ cut: pair });
    await pause(4000);
    await network.order({ heal: true });
    const answers = await load;
    check(`cut ${pair.join(' – ')} for 4 s under load: none hangs, none is wrong`, right(answers) && answers.every(({ code }) => code !== 'HUNG'), `${outcomes(answers)}; ${latency(answers)}`);
    await until('four workers again', () => workers() === 4);
    await pause(6000); // probes come at most every five seconds
    const after = await ask(front, 40, 8, 7);
    check(`… and after it every answer comes`, answered(after) && right(after), latency(after));
  }

  etcd.kill('SIGKILL');
  const without = await ask(front, CONVERSATIONS, 6, 7, 12);
  check('etcd killed for 12 s: serving goes on', answered(without) && right(without), outcomes(without));
  etcd = startEtcd();
  await pause(4000);
  const restored = await ask(front, 40, 8, 7);
  check('etcd back: four workers, every answer right', workers() === 4 && answered(restored) && right(restored), `${workers()} workers`);
  for (const part of parts) check('a part still runs', part.exitCode === null && part.signalCode === null);
}

process.exit(await main());
