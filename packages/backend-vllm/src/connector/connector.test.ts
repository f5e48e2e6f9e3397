import { spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { realClock } from '@armature/contracts/testing/real-clock';
import { noSalt, saltHash, sequenceHashes } from '@armature/tokens';
import { afterEach, expect, test } from 'vitest';
import { BLOCK_SIZE, ConnectedWorker, contentOf, CountingMetrics, DirectPeers, FakePython, FORMAT, quiet, tokensOf, until } from './fake-python.test.support.ts';
import { encodeFrame, MAX_FRAME_BYTES } from './frames.ts';
import { openConnector } from './vllm-connector.ts';
import type { VllmConnector } from './vllm-connector.ts';

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function opened(options: Parameters<typeof ConnectedWorker.open>[0] = {}): Promise<ConnectedWorker> {
  const worker = await ConnectedWorker.open(options);
  cleanups.push(() => worker.close());
  return worker;
}

async function listening(expectation: Partial<typeof FORMAT> = {}): Promise<VllmConnector> {
  const connector = await openConnector({ blockSize: BLOCK_SIZE, expect: expectation, clock: realClock, log: quiet });
  cleanups.push(() => connector.close());
  return connector;
}

const code = (value: string): Error => expect.objectContaining({ code: value }) as Error;

test('the socket is private; vLLM is told how to reach it', async () => {
  const connector = await listening();
  expect(statSync(dirname(connector.socketPath)).mode & 0o777).toBe(0o700);
  expect(statSync(connector.socketPath).mode & 0o777).toBe(0o600);
  expect(connector.transferConfig()).toMatchObject({ kv_connector: 'ArmatureConnector', kv_connector_module_path: 'armature_vllm.connector', kv_connector_extra_config: { socket: connector.socketPath } });
});

test('at a given path: what a dead process left is removed, a living one is respected', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'armature-connector-'));
  cleanups.push(() => rm(folder, { recursive: true, force: true }));
  const socketPath = join(folder, 'deep', 'vllm.sock');
  const options = { blockSize: BLOCK_SIZE, socketPath, clock: realClock, log: quiet };
  const first = await openConnector(options);
  await expect(openConnector(options)).rejects.toThrow(/another process listens there/);
  await first.close();
  spawnSync(process.execPath, ['-e', `require('net').createServer().listen(${JSON.stringify(socketPath)}, () => process.kill(process.pid, 'SIGKILL'))`], { stdio: 'ignore', timeout: 10_000 });
  expect(statSync(socketPath).isSocket()).toBe(true);
  await (await openConnector(options)).close();
  await writeFile(socketPath, 'precious');
  await expect(openConnector(options)).rejects.toThrow(code('VLLM_CONNECTOR_SOCKET_FAILED'));
  expect(statSync(socketPath).size).toBe(8);
});

test('hello: both halves connect, then get the pool', async () => {
  const connector = await listening();
  expect(() => connector.format()).toThrow(code('VLLM_CONNECTOR_ABSENT'));
  await expect(connector.ready(30)).rejects.toThrow(code('VLLM_CONNECTOR_ABSENT'));
  await FakePython.hello(connector, 'scheduler');
  await FakePython.hello(connector, 'worker');
  await connector.ready(5_000);
  expect(connector.format()).toMatchObject({ pieces: 2, pieceBytes: 96 });
  const { scheduler, worker, manager } = await opened();
  for (const python of [scheduler, worker]) {
    const { head } = await python.until('pool');
    expect(head).toMatchObject({ pid: process.pid, blocks: 64, blockStrideBytes: 4096, lender: { instanceId: 'worker', address: 'worker' } });
    expect(statSync(`/proc/self/fd/${String(head['fd'])}`).size).toBeGreaterThanOrEqual(64 * 4096);
  }
  expect(manager.host.location).toBeDefined();
});

test.each([
  ['version', { version: 7 }, /protocol is 1 here, 7 in vLLM/],
  ['block size', { format: { ...FORMAT, blockSize: 16 } }, /blockSize is 4 here, 16 in vLLM/],
  ['model', { format: { ...FORMAT, model: 'other' } }, /model is "tiny" here, "other" in vLLM/],
])('another %s is refused, naming both sides', async (_what, more, message) => {
  const connector = await listening({ model: 'tiny' });
  const python = await FakePython.connect(connector.socketPath);
  python.send({ op: 'hello', version: 1, role: 'worker', format: FORMAT, ...more });
  const { head } = await python.until('refused');
  expect(head).toMatchObject({ code: 'VLLM_CONNECTOR_MISMATCH', message: expect.stringMatching(message) as string });
  await python.closed();
  await expect(connector.ready(1_000)).rejects.toThrow(message);
  expect(connector.counts).toMatchObject({ links: 0, refusedLinks: 1 });
});

test('an engine that came back with other blocks is refused: the tiers hold those of the first', async () => {
  const { connector } = await opened();
  const python = await FakePython.connect(connector.socketPath);
  python.send({ op: 'hello', version: 1, role: 'worker', format: { ...FORMAT, dtype: 'bfloat16' } });
  expect((await python.until('refused')).head['message']).toBe('dtype is "float32" here, "bfloat16" in vLLM');
});

test('blocks go down and come back: matched, pinned, the bytes that were written', async () => {
  const worker = await opened();
  const tokens = tokensOf(1, 5 * BLOCK_SIZE + 2);
  const hashes = await worker.store(1, tokens);
  expect([...hashes]).toEqual([...sequenceHashes(tokens, tokens.length, BLOCK_SIZE, noSalt)]);
  expect(await worker.match(2, tokens)).toMatchObject({ blocks: 5 });
  const { lease, blocks } = await worker.pull(2, 5);
  expect(blocks.map((block, row) => Buffer.compare(worker.bytes(block), contentOf(hashes, row)))).toEqual([0, 0, 0, 0, 0]);
  expect(worker.manager.host.counts()).toMatchObject({ pins: 1, pinnedBlocks: 5 });
  expect(await worker.release(lease)).toBe(true);
  expect(await worker.release(lease)).toBe(false);
  expect(worker.held()).toBe(0);
  expect(worker.connector.counts).toMatchObject({ reservedBlocks: 5, keptBlocks: 5, pulled: { host: 5 }, expiredLeases: 1 });
  // Held already: nothing to fill.
  expect(await worker.reserve(hashes)).toEqual({ reservation: 0, rows: [], blocks: [] });
});

test('tenants and adapters have blocks of their own', async () => {
  const worker = await opened();
  const tokens = tokensOf(2, 4 * BLOCK_SIZE);
  await worker.store(1, tokens);
  const other = await worker.match(2, tokens, { salt: 'them', lora: 'poet' });
  expect(other.blocks).toBe(0);
  expect([...other.hashes]).toEqual([...sequenceHashes(tokens, tokens.length, BLOCK_SIZE, saltHash({ cacheSalt: 'them', lora: 'poet' }))]);
});

test('the hashes of a growing sequence continue those of its prompt', async () => {
  const { scheduler, connector, ...worker } = await opened();
  void worker;
  const tokens = tokensOf(3, 11 * BLOCK_SIZE);
  const whole = sequenceHashes(tokens, tokens.length, BLOCK_SIZE, noSalt);
  const begin = await scheduler.ask({ op: 'match', prompt: 9, from: 0, salt: '', lora: '' }, tokens.slice(0, 6));
  const got = [...begin.tail];
  for (let at = 6; at < tokens.length; at += 7) got.push(...(await scheduler.ask({ op: 'append', prompt: 9 }, tokens.slice(at, at + 7))).tail);
  expect(got).toEqual([...whole]);
  expect(connector.prompts).toBe(1);
  scheduler.send({ op: 'forget', prompt: 9 });
  expect((await scheduler.ask({ op: 'append', prompt: 9 }, tokens)).tail.length).toBe(0);
  expect(connector.prompts).toBe(0);
});

test('a socket that closes in the middle gives everything back, counted', async () => {
  const worker = await opened({ hostBlocks: 16 });
  const stored = tokensOf(4, 3 * BLOCK_SIZE);
  await worker.store(1, stored);
  await worker.match(2, stored);
  const { lease } = await worker.pull(2, 3);
  expect(lease).not.toBe(0);
  const { hashes } = await worker.match(3, tokensOf(5, 4 * BLOCK_SIZE));
  const { reservation, blocks } = await worker.reserve(hashes);
  expect(blocks.length).toBe(4);
  expect(worker.manager.host.counts()).toEqual({ pins: 1, pinnedBlocks: 3, reservations: 1, reservedBlocks: 4 });
  await worker.worker.close();
  await until('everything is back', () => worker.held() === 0);
  expect(worker.connector.counts).toMatchObject({ abandonedReservations: 1, abandonedLeases: 1 });
  const { pinnedBlocks, heldBlocks } = worker.manager.stats().tiers[0];
  expect([pinnedBlocks, heldBlocks]).toEqual([0, 3]);
  // The engine comes back: its words of before mean nothing, its slots are free for others.
  worker.worker = await FakePython.hello(worker.connector, 'worker');
  expect(await worker.release(lease)).toBe(false);
  expect(await worker.commit(reservation, 4)).toBe(0);
  expect((await worker.reserve(hashes)).blocks.length).toBe(4);
});

test('leases and reservations of another life of our worker mean nothing, though their numbers are in use again', async () => {
  const worker = await opened();
  const stored = tokensOf(11, 2 * BLOCK_SIZE);
  await worker.store(1, stored);
  const { lease } = await worker.pull(1, 2);
  const { hashes } = await worker.match(2, tokensOf(12, 2 * BLOCK_SIZE));
  const { reservation } = await worker.reserve(hashes);
  const stale = { epoch: 'of before' };
  expect((await worker.worker.ask({ op: 'release', lease, ...stale })).head['valid']).toBe(false);
  expect((await worker.worker.ask({ op: 'commit', reservation, rows: 2, ...stale })).head['kept']).toBe(0);
  expect(worker.manager.host.counts()).toMatchObject({ pins: 1, reservations: 1 });
  expect([await worker.release(lease), (await worker.match(3, tokensOf(12, 2 * BLOCK_SIZE))).blocks]).toEqual([true, 0]);
});

test('the end of a former socket takes nothing from the one that took its place', async () => {
  const worker = await opened();
  await worker.store(1, tokensOf(13, 2 * BLOCK_SIZE));
  const former = worker.worker;
  worker.worker = await FakePython.hello(worker.connector, 'worker');
  const { lease } = await worker.pull(1, 2);
  await former.closed();
  await realClock.sleep(20);
  expect(await worker.release(lease)).toBe(true);
});

test('a second hello of the same half takes the place of the first', async () => {
  const worker = await opened();
  const again = await FakePython.hello(worker.connector, 'worker');
  await worker.worker.closed();
  expect((await again.until('pool')).head['blocks']).toBe(64);
  expect(worker.connector.isConnected).toBe(true);
});

test.each([
  ['no frame', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  ['a frame beyond the limit', Buffer.from(new Uint32Array([MAX_FRAME_BYTES + 1, 4]).buffer)],
  ['a head that is no JSON', Buffer.concat([Buffer.from(new Uint32Array([7, 3]).buffer), Buffer.from('{"o')])],
  ['a head longer than its frame', Buffer.from(new Uint32Array([8, 90, 0]).buffer)],
  ['an unknown frame', encodeFrame({ op: 'reboot' })],
  ['a prompt that is no number', encodeFrame({ op: 'match', prompt: 'x', from: 0 })],
  ['a reserve of half a row', encodeFrame({ op: 'reserve', id: 1 }, Int32Array.of(1, 2))],
])('%s closes the socket, and nothing else', async (_what, bytes) => {
  const worker = await opened();
  const python = await FakePython.hello(worker.connector, 'worker');
  python.socket.write(bytes);
  await python.closed();
  expect(worker.connector.counts.refusedLinks).toBe(1);
  expect((await worker.match(1, tokensOf(6, 8))).blocks).toBe(0);
});

test('frames before hello are refused', async () => {
  const connector = await listening();
  const python = await FakePython.connect(connector.socketPath);
  python.send({ op: 'match', prompt: 1, from: 0 });
  expect((await python.until('refused')).head['message']).toMatch(/match before hello/);
});

test('a block that was spoilt in host memory is dropped, and those behind it are not given out', async () => {
  const worker = await opened();
  const tokens = tokensOf(7, 5 * BLOCK_SIZE);
  await worker.store(1, tokens);
  await worker.match(2, tokens);
  const good = await worker.pull(2, 5);
  worker.bytes(good.blocks[2])[50] ^= 1;
  await worker.release(good.lease);
  const { lease, blocks } = await worker.pull(2, 5);
  expect(blocks).toEqual(good.blocks.slice(0, 2));
  await worker.release(lease);
  expect(worker.manager.stats().corruptBlocks).toBe(1);
  expect((await worker.match(3, tokens)).blocks).toBe(2);
});

test('a peer reads by loan, and waits for what is being written', async () => {
  const peers = new DirectPeers();
  const [prefill, decode] = [await opened({ name: 'p', peers }), await opened({ name: 'd', peers })];
  peers.managers.set('p', prefill.manager);
  const tokens = tokensOf(8, 6 * BLOCK_SIZE);
  const { head } = await prefill.scheduler.until('pool');
  const source = { ...(head['lender'] as object), blocks: 6 };
  const { hashes } = await prefill.match(1, tokens);
  const { reservation, rows, blocks } = await prefill.reserve(hashes);
  // Announced and asked for before it is there.
  expect((await decode.match(1, tokens, { source })).blocks).toBe(6);
  const pulling = decode.pull(1, 6, { source });
  await until('the loan is asked for', () => peers.loans > 0);
  rows.forEach((row, i) => prefill.bytes(blocks[i]).set(contentOf(hashes, row)));
  expect(await prefill.commit(reservation, 6)).toBe(6);
  const { lease, blocks: landed } = await pulling;
  expect(landed.map((block, row) => Buffer.compare(decode.bytes(block), contentOf(hashes, row)))).toEqual([0, 0, 0, 0, 0, 0]);
  expect(decode.connector.counts.pulled).toEqual({ host: 0, disk: 0, object: 0, peer: 6 });
  expect(await decode.release(lease)).toBe(true);
  expect([prefill.held(), decode.held()]).toEqual([0, 0]);
});

test('a lender that is gone, foreign or lies is no source', async () => {
  const peers = new DirectPeers();
  const [prefill, decode] = [await opened({ name: 'p', peers }), await opened({ name: 'd', peers })];
  const tokens = tokensOf(9, 4 * BLOCK_SIZE);
  await prefill.store(1, tokens);
  const lender = (await prefill.scheduler.until('pool')).head['lender'] as Record<string, unknown>;
  for (const source of [{ ...lender, blocks: 4 }, { ...lender, blocks: 4, layout: 'other' }, { ...lender, blocks: 4, agent: 'AAAA' }]) {
    await decode.match(1, tokens, { source });
    expect(await decode.pull(1, 4, { source })).toMatchObject({ lease: 0 });
    peers.managers.set('p', prefill.manager); // from now on it can be reached
  }
  expect((await decode.match(2, tokens, { source: { ...lender, blocks: -1 } })).blocks).toBe(0);
  await until('nothing is lent', () => prefill.held() === 0);
});

test('detached: pins go, vLLM is told, and asks in vain', async () => {
  const worker = await opened();
  const tokens = tokensOf(10, 4 * BLOCK_SIZE);
  await worker.store(1, tokens);
  const { lease } = await worker.pull(1, 4);
  expect(lease).not.toBe(0);
  worker.connector.detach();
  await worker.worker.until('detached');
  expect(worker.held()).toBe(0);
  expect((await worker.match(2, tokens)).blocks).toBe(0);
  expect((await worker.pull(2, 4)).lease).toBe(0);
});

test('what happened shows in the metrics; a closed connector counts as not connected', async () => {
  const metrics = new CountingMetrics();
  const connector = await openConnector({ blockSize: BLOCK_SIZE, clock: realClock, log: quiet, metrics: { metrics, labels: ['m', 'p'] } });
  connector.counts.keptBlocks = 5;
  connector.counts.abandonedLeases = 2;
  for (const role of ['scheduler', 'worker'] as const) await FakePython.hello(connector, role);
  metrics.collect();
  connector.counts.keptBlocks = 7;
  metrics.collect();
  expect(metrics.values).toMatchObject({ 'armature_vllm_connector_blocks_total m p saved': 7, 'armature_vllm_connector_faults_total m p abandoned_lease': 2, 'armature_vllm_connector_connected m p': 1 });
  await connector.close();
  expect(metrics.values['armature_vllm_connector_connected m p']).toBe(0);
});
