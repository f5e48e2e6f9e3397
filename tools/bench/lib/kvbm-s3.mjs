import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { realClock } from '@armature/contracts/testing/real-clock';
import { s3Tier } from '@armature/kvbm-s3';
import { SigV4Signer, UNSIGNED_PAYLOAD } from '../../../packages/kvbm-s3/dist/sigv4.js';
import { installServer } from '../../test-s3.mjs';
import { median, seeded } from './measure.mjs';
import { promptHashes, silent } from './kvbm-worker.mjs';

const BLOCKS_PER_OBJECT = 16;
const AT_ONCE = 8;
const BUCKET = 'kv-blocks';
const KEYS = { accessKeyId: 'armature', secretAccessKey: 'armature-tests-only' };
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** PUT and GET of the tier beside a raw client (SigV4 and undici) on the same versitygw, eight objects at a time, taking turns. No server: no rows, and why. */
export async function s3Rows({ root, rounds, log }) {
  const { kind, program, reason } = installServer();
  if (kind !== 'versitygw') {
    log(`S3 left out: versitygw cannot be had (${reason ?? 'only moto is here, which is no measure'})`);
    return [];
  }
  mkdirSync(join(root, '.cache'), { recursive: true });
  const folder = mkdtempSync(join(root, '.cache', 's3-bench-'));
  mkdirSync(join(folder, BUCKET));
  const port = await freePort();
  const server = spawn(program, ['--port', `127.0.0.1:${port}`, 'posix', folder], { stdio: 'ignore', env: { ...process.env, ROOT_ACCESS_KEY: KEYS.accessKeyId, ROOT_SECRET_KEY: KEYS.secretAccessKey } });
  const gone = new Promise((resolve) => server.once('exit', resolve));
  try {
    await untilUp(port);
    const rows = [];
    for (const [mib, objects] of [[1, 96], [16, 12]]) rows.push(...(await objectRows({ port, mib, objects, rounds, log })));
    return rows;
  } finally {
    server.kill('SIGKILL');
    await gone;
    rmSync(folder, { recursive: true, force: true });
  }
}

async function objectRows({ port, mib, objects, rounds, log }) {
  const raw = await rawClient(port);
  const bytes = objects * mib * 2 ** 20;
  const blockBytes = (mib * 2 ** 20) / BLOCKS_PER_OBJECT;
  const blocks = AT_ONCE * BLOCKS_PER_OBJECT;
  const memory = { segment: 0, blocks, blockStrideBytes: blockBytes, pieces: 1, pieceBytes: blockBytes, pieceStrideBytes: blockBytes, bytes: new Uint8Array(new SharedArrayBuffer(blocks * blockBytes)).fill(7) };
  const bodies = Array.from({ length: AT_ONCE }, () => new Uint8Array(mib * 2 ** 20).fill(7));
  const random = seeded(mib);
  const times = {};
  for (let round = 0; round <= rounds; round++) {
    const store = await openTier(port, `m${mib}-r${round}`, blockBytes, random);
    const parts = Array.from({ length: objects }, (_, i) => batch(promptHashes(random, BLOCKS_PER_OBJECT), memory, i % AT_ONCE));
    const done = async (kind, i) => {
      await new Promise((resolve) => void (kind === 'store' ? store.store(parts[i], resolve) : store.load(parts[i], 60_000, resolve)));
      if (parts[i].statuses.some((status) => status !== 0)) throw new Error(`${kind} ended with ${parts[i].statuses.join(' ')}`);
    };
    const turns = {
      'raw PUT': () => each(objects, (i) => raw.put(`raw-${mib}-${round}-${i}`, bodies[i % AT_ONCE])),
      'PUT': () => each(objects, (i) => done('store', i)),
      'raw GET': () => each(objects, (i) => raw.get(`raw-${mib}-${round}-${i}`, bodies[i % AT_ONCE])),
      'GET': () => each(objects, (i) => done('load', i)),
    };
    // Who comes second meets another machine (write-back): they swap in each round. The first round warms up.
    for (const name of round % 2 === 0 ? ['raw PUT', 'PUT', 'raw GET', 'GET'] : ['PUT', 'raw PUT', 'GET', 'raw GET']) {
      const startMs = performance.now();
      await turns[name]();
      if (round > 0) (times[name] ??= []).push(performance.now() - startMs);
    }
    await store.close();
  }
  await raw.close();
  const speed = (name) => bytes / 1e6 / median(times[name]);
  return ['PUT', 'GET'].map((kind) => {
    const [value, limit] = [speed(kind), speed(`raw ${kind}`)];
    log(`S3 ${kind} ${mib} MiB: ${value.toFixed(3)} GB/s = ${(value / limit).toFixed(2)} of the raw client (${limit.toFixed(3)})`);
    return { name: `S3 ${kind}, objects of ${mib} MiB`, value, unit: 'GB/s', limit, target: 0.8 * limit };
  });
}

function openTier(port, prefix, blockBytes, random) {
  const defaults = Object.fromEntries(Object.entries(s3Tier.configSchema.properties).map(([name, field]) => [name, field.default]));
  const config = { ...defaults, endpoint: `http://127.0.0.1:${port}`, bucket: BUCKET, prefix, ...KEYS, connections: 2 * AT_ONCE };
  const nothing = () => undefined;
  const host = { worker: 'bench/worker/0', modelFingerprint: 'bench', layoutFingerprint: 'bench', blockBytes, baseDir: '/', clock: realClock, log: silent, mover: undefined, order: nothing, quota: (_tenant, places) => places, removed: nothing, measured: nothing, degraded: nothing };
  return s3Tier.create(config, { random }).open(host);
}

function batch(hashes, memory, slot) {
  const count = hashes.length / 2;
  const parents = new Int32Array(hashes.length);
  parents.set(hashes.subarray(0, hashes.length - 2), 2);
  return { count, hashes, parents, checksums: hashes.slice(), tenant: 0, memory, blocks: Int32Array.from({ length: count }, (_, i) => slot * count + i), statuses: new Uint8Array(count).fill(255) };
}

async function rawClient(port) {
  const { Pool } = await import('undici');
  const pool = new Pool(`http://127.0.0.1:${port}`, { connections: AT_ONCE, pipelining: 1 });
  const signer = new SigV4Signer('us-east-1');
  const signed = (method, path) => signer.sign({ method, path, query: [], headers: { host: `127.0.0.1:${port}` }, payloadHash: UNSIGNED_PAYLOAD, wallMs: Date.now() }, KEYS);
  return {
    async put(key, body) {
      const path = `/${BUCKET}/${key}`;
      const answer = await pool.request({ method: 'PUT', path, headers: signed('PUT', path), body });
      await answer.body.dump();
      if (answer.statusCode !== 200) throw new Error(`the raw client was answered ${answer.statusCode}`);
    },
    async get(key, into) {
      const path = `/${BUCKET}/${key}`;
      let at = 0;
      const write = (chunk, _encoding, next) => {
        into.set(chunk, at);
        at += chunk.length;
        next();
      };
      await pool.stream({ method: 'GET', path, headers: signed('GET', path) }, () => new Writable({ write }));
      if (at !== into.length) throw new Error(`the raw client got ${at} bytes`);
    },
    close: () => pool.destroy(),
  };
}

async function each(count, work) {
  let next = 0;
  const lane = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
}

async function untilUp(port) {
  for (let tries = 0; tries < 200; tries++) {
    const isUp = await new Promise((resolve) => {
      const socket = connect(port, '127.0.0.1');
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
      socket.once('connect', () => socket.destroy());
    });
    if (isUp) return;
    await wait(50);
  }
  throw new Error('versitygw did not come up within 10 s');
}

function freePort() {
  return new Promise((resolve) => {
    const server = createServer();
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}
