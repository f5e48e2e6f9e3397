// `npm run test:chaos [-- --seconds 60 --rate 200 --seed N]`: a frontend, three prefill and three decode workers (backend-mock, each a process) under an
// open loop of requests whose answers are known, and every five seconds a kill -9, SIGSTOP, SIGTERM or cut line. Nothing hangs, nothing is wrong, nothing is left.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Cluster, DETECTION_MS, firstTurns, promptOf, RemoteAgent } from './chaos/cluster.mjs';
import { Faults, seeded } from './chaos/faults.mjs';
import { LocalHost } from './chaos/parts.mjs';
import { Moves, Series, SETTLE_MS, sumOf, Tally } from './chaos/watch.mjs';
import { hostsMissing, Network } from './hosts/hosts.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({
  options: { seconds: { type: 'string', default: '60' }, rate: { type: 'string', default: '200' }, seed: { type: 'string', default: String(Date.now() % 1_000_000) }, conversations: { type: 'string', default: '150' }, logs: { type: 'string' } },
});
const [SECONDS, RATE, SEED, CONVERSATIONS] = [values.seconds, values.rate, values.seed, values.conversations].map(Number);
const TURNS = 4;
const FAULT_EVERY_MS = 5_000;
/** Every prompt, and as many records as the frontend keeps. */
const WARM_UP_MS = 20_000;
const CALM_MS = 10_000;
const COMPLETED = 0.999;
/** What a process may have grown by: memory (median) from the second quarter of the time to the last one, handles from before the load to after it. */
const GROWTH = { rssShare: 1.15, rssMb: 32, handles: 8 };

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

const quantile = (times, q) => {
  const sorted = [...times].sort((a, b) => a - b);
  return Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? NaN);
};
const percentiles = (times) => `p50 ${quantile(times, 0.5)} ms, p99 ${quantile(times, 0.99)} ms, max ${quantile(times, 1)} ms`;

/** Prompts with the answers of one process that nothing is done to; each turn goes on from the answer before. */
async function learn(cluster) {
  cluster.alone.start();
  await until('one process serves', () => cluster.alone.isReady);
  const chats = firstTurns(CONVERSATIONS, seeded(SEED));
  const answers = chats.map(() => []);
  const prompts = [];
  for (let turn = 0; turn < TURNS; turn++) {
    const asked = chats.map((chat, i) => promptOf(chat, answers[i]));
    const file = join(cluster.folder, 'turn.json');
    writeFileSync(file, JSON.stringify(asked));
    const agent = new RemoteAgent(cluster.front, file, () => undefined);
    const { answers: learned } = await agent.order({ learn: cluster.url });
    agent.close();
    learned.forEach(({ texts, code }, i) => {
      if (texts === undefined) throw new Error(`the undisturbed process answers ${code}`);
      answers[i].push(texts[0]);
      prompts.push({ ...asked[i], expected: texts });
    });
  }
  cluster.alone.end();
  cluster.alone.signal('SIGKILL');
  const distinct = new Set(prompts.map(({ expected }) => JSON.stringify(expected))).size;
  check('answers differ, so that a wrong one shows', distinct > prompts.length * 0.95, `${distinct} of ${prompts.length}`);
  return prompts;
}

/** Every worker is in, none is out, and nobody holds anything. */
async function isAtRest(cluster, agent) {
  const rows = (await agent.get(`${cluster.adminUrl}/workers`)) ?? [];
  const left = { workers: rows.length, inhibited: rows.filter(({ isInhibited }) => isInhibited).length };
  for (const key of ['requests', 'prefillTokens', 'blocks']) left[`charged ${key}`] = rows.reduce((sum, { load }) => sum + load[key], 0);
  for (const worker of cluster.workers) {
    for (const { load, kv } of (await agent.get(`${worker.adminUrl}/engines`)) ?? [{ load: {}, kv: {} }]) {
      for (const [key, value] of Object.entries({ running: load.running, waiting: load.waiting, leases: kv.leases, reservations: kv.reservations, quarantined: kv.quarantined })) left[key] = (left[key] ?? 0) + value;
    }
  }
  const isSo = left.workers === cluster.workers.length && Object.entries(left).every(([key, value]) => key === 'workers' || value === 0);
  return { isSo, left };
}

async function main() {
  if (spawnSync(process.execPath, [join(root, 'tools/bootstrap.mjs')], { cwd: root, stdio: 'inherit' }).status !== 0) return 1;
  const missing = hostsMissing();
  const folder = mkdtempSync(join(tmpdir(), 'armature-chaos-'));
  const network = missing === undefined ? await Network.open(['front', 'one', 'two', 'three']) : undefined;
  const hosts = network === undefined ? [new LocalHost()] : [...network.hosts.values()];
  console.log(`seed ${SEED}, ${RATE} requests a second, a fault every ${FAULT_EVERY_MS / 1000} s for ${SECONDS} s${missing === undefined ? '' : `; skipped cuts between hosts: ${missing}`}`);
  const cluster = new Cluster({ hosts, folder });
  const late = setTimeout(() => {
    console.error('test:chaos: did not end');
    for (const part of cluster.parts) part.end();
    void end(network, hosts).finally(() => process.exit(1));
  }, SECONDS * 1000 + 5 * 60_000);
  try {
    await run(cluster, network);
  } catch (error) {
    failures.push(String(error));
    console.error(error);
    for (const part of cluster.parts) if (part.child !== undefined) console.error(`--- ${part.name}\n${part.output.slice(-2000)}`);
  } finally {
    clearTimeout(late);
    for (const part of [cluster.alone, ...cluster.parts]) part.end();
    if (values.logs !== undefined) writeFileSync(values.logs, cluster.parts.filter(({ child }) => child !== undefined).map((part) => `=== ${part.name}\n${part.output}`).join('\n'));
    await end(network, hosts);
    rmSync(folder, { recursive: true, force: true });
  }
  console.log(failures.length === 0 ? 'test:chaos: all right' : `test:chaos: ${failures.length} failed; again with --seed ${SEED} --seconds ${SECONDS} --rate ${RATE}`);
  return failures.length === 0 ? 0 : 1;
}

async function end(network, hosts) {
  if (network !== undefined) return network.close();
  for (const child of hosts[0].processes) process.kill(-child.pid, 'SIGKILL');
}

async function run(cluster, network) {
  const prompts = await learn(cluster);
  const promptFile = join(cluster.folder, 'prompts.json');
  writeFileSync(promptFile, JSON.stringify(prompts));
  const bad = [];
  const agent = new RemoteAgent(cluster.front, promptFile, (answer) => bad.push(answer));
  for (const part of cluster.parts) part.start();
  await until('every worker is in', async () => cluster.parts.every(({ isReady }) => isReady) && (await isAtRest(cluster, agent)).isSo);

  const undisturbed = async (ms) => {
    await agent.order({ load: { url: cluster.url, ratePerSecond: RATE } });
    await pause(ms);
    return agent.order({ stop: true });
  };
  const cold = await undisturbed(WARM_UP_MS);
  const calm = await undisturbed(CALM_MS);
  console.log(`       cold: ${cold.sent} requests, ${percentiles(cold.ms)}, ${JSON.stringify(cold.codes)}`);
  console.log(`       undisturbed: ${calm.sent} requests, ${percentiles(calm.ms)}; first byte of streams ${percentiles(calm.streamMs)}`);
  check('undisturbed: every answer right', cold.answered === cold.sent && calm.answered === calm.sent, JSON.stringify(calm.codes));

  const startedMs = performance.now();
  const series = new Series(cluster.parts, startedMs);
  series.sample();
  const [moves, tally] = [new Moves(cluster, agent), new Tally()];
  const faults = new Faults({ workers: cluster.workers, network, random: seeded(SEED + 1), startedMs });
  await agent.order({ load: { url: cluster.url, ratePerSecond: RATE } });
  while (performance.now() - startedMs < SECONDS * 1000) {
    await pause(FAULT_EVERY_MS);
    await Promise.all([tally.look(cluster, agent), moves.collect()]);
    faults.strike();
  }
  await faults.over();
  const came = await agent.order({ stop: true });
  let rest = await isAtRest(cluster, agent);
  const deadline = performance.now() + 30_000;
  while (!rest.isSo && performance.now() < deadline) {
    await pause(250);
    rest = await isAtRest(cluster, agent);
  }
  await Promise.all([tally.look(cluster, agent), pause(SETTLE_MS).then(() => moves.collect())]);
  series.sample();
  series.close();
  report({ cluster, faults, came, bad, calm, rest, tally, moves, series, front: (await agent.get(`${cluster.adminUrl}/metrics`)) ?? '', isCut: network !== undefined });
}

function report({ cluster, faults, came, bad, calm, rest, tally, moves, series, front, isCut }) {
  console.log(`       faults: ${faults.log.join(' · ')}`);
  for (const answer of bad.slice(0, 20)) console.log(`       not answered: ${JSON.stringify(answer).slice(0, 600)}`);
  const codes = Object.entries(came.codes).map(([code, count]) => `${count} ${code}`).join(', ') || 'no failures';
  console.log(`       under fire: ${came.sent} requests, ${percentiles(came.ms)}; first byte of streams ${percentiles(came.streamMs)}`);
  check('every kind of fault happened, and was mended', faults.errors.length === 0 && faults.kinds.every((kind) => faults.counts[kind] > 0), `${JSON.stringify(faults.counts)}, ${faults.skipped} left out${faults.errors.map((error) => `; ${error}`).join('')}`);
  check('none hung', (came.codes.HUNG ?? 0) === 0, codes);
  check('none was wrong', (came.codes.WRONG ?? 0) === 0, `${came.answered} answers compared`);
  check('what failed has a code', Object.keys(came.codes).every((code) => code !== 'null' && !code.startsWith('client:') && !code.startsWith('http ')), codes);
  check('99.9 % completed', came.answered >= came.sent * COMPLETED, `${came.answered} of ${came.sent} (${((100 * came.answered) / came.sent).toFixed(3)} %)`);
  const corrupt = tally.sum('armature_mock_kv_corruptions_total') + cluster.workers.filter(({ output }) => output.includes('ENGINE_KV_CORRUPT')).length;
  check('no KV block was found corrupt', corrupt === 0, `${tally.sum('armature_kv_transfer_blocks_total')} blocks moved`);
  const ran = { migrations: 'armature_migrations_total', remotePrefills: 'armature_remote_prefills_total', inhibited: 'armature_router_inhibited_total' };
  const counts = Object.fromEntries(Object.entries(ran).map(([key, name]) => [key, sumOf(front, name)]));
  check('the paths ran', Object.values(counts).every((count) => count > 0) && tally.sum('armature_kv_transfer_blocks_total') > 0, JSON.stringify({ ...counts, reattached: sumOf(front, 'armature_decode_reattached_total'), transferFailures: tally.sum('armature_kv_transfer_failures_total') }));
  check('nothing is left: charges, running and waiting requests, leases, reservations', rest.isSo, JSON.stringify(rest.left));
  latencyOf(moves, calm, isCut);
  growthOf(cluster, series);
}

/** Migrated requests against what noticing takes. */
function latencyOf({ added }, calm, isCut) {
  const byCode = new Map();
  for (const { code, addedMs } of added) byCode.set(code, [...(byCode.get(code) ?? []), addedMs]);
  for (const [code, times] of byCode) console.log(`       moves by ${code}: ${times.length}, added latency ${percentiles(times)}`);
  const recomputeMs = quantile(calm.streamMs, 0.99);
  const boundMs = DETECTION_MS + 100 + recomputeMs;
  const p99 = quantile(added.map(({ addedMs }) => addedMs), 0.99);
  console.log(`       added latency of moved requests: p99 ${p99} ms; detection ${DETECTION_MS} + 100 + recompute ${recomputeMs} = ${boundMs} ms: ${p99 <= boundMs ? 'within' : 'above'}${isCut ? '' : ' (no cuts)'}`);
  check('moved requests go on in less than twice that', added.length > 0 && p99 <= 2 * boundMs, `${added.length} moves`);
}

function growthOf(cluster, series) {
  for (const part of cluster.parts) series.print(part);
  const rssOf = (rows, from, to) => quantile(rows.slice(Math.floor(rows.length * from), Math.ceil(rows.length * to)).map(({ rssMb }) => rssMb), 0.5);
  for (const part of cluster.parts.filter(({ lives }) => lives === 1)) {
    const rows = series.of(part.name, 1);
    const [before, after, first, last] = [rssOf(rows, 0.25, 0.5), rssOf(rows, 0.75, 1), rows[0].handles, rows.at(-1).handles];
    const isSteady = after <= before * GROWTH.rssShare + GROWTH.rssMb && last <= first + GROWTH.handles;
    check(`${part.name}, which lived through it, has not grown`, isSteady, `${before} → ${after} MB, ${first} → ${last} handles`);
  }
}

process.exit(await main());
