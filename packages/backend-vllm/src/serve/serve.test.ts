import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { KvEvents, serveParts, VllmBackend } from '../index.ts';
import type { RankPlace, ServeConfig, VllmConfig } from '../index.ts';
import { offsetEndpoint } from '../ranks.ts';
import { clock, log, logged, noEvents, noServe } from '../testing.test.support.ts';
import { freePorts } from './ports.ts';
import { serveCommand } from './serve-config.ts';
import { reasonIn } from './vllm-process.ts';

const program = fileURLToPath(new URL('./fake-vllm-program.test.support.mjs', import.meta.url));
let folder: string;
let state: string;
const backends: VllmBackend[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'armature-vllm-serve-'));
  state = join(folder, 'pids');
});
afterEach(async () => {
  await Promise.all(backends.splice(0).map((backend) => backend.close()));
  rmSync(folder, { recursive: true, force: true });
});

const pids = (): number[] => readFileSync(state, 'utf8').trim().split('\n').map(Number);
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    // A zombie of another parent is as good as gone.
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return false;
  }
}

interface Seen {
  readonly flags: readonly string[];
  readonly key: string;
  readonly sidePort: string;
}
/** What each server that was started had been given. */
const seen = (): Seen[] => readFileSync(`${state}.seen`, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as Seen);

async function make(mode: string, serve: Partial<ServeConfig> = {}, config: Partial<VllmConfig> = {}, place: RankPlace = { rank: 0, ranks: 1, group: 0 }): Promise<VllmBackend> {
  const wanted: VllmConfig = {
    baseUrl: '', connector: '', model: 'demo', apiKey: '', totalBlocks: 0, sendPriority: false, startTimeoutMs: 20_000, probeIntervalMs: 20, probeTimeoutMs: 2000, idleTimeoutMs: 30_000, canaryIntervalMs: 0, canaryTimeoutMs: 500, kvEvents: noEvents,
    serve: { ...noServe, model: './models/demo', command: [process.execPath, program], env: { MODE: mode, STATE: state }, ...serve },
    ...config,
  };
  const parts = await serveParts(wanted, { blockSize: 32, clock, log, transferConfig: undefined, baseDir: '/etc/armature', place });
  const { kvEvents } = parts.config;
  const events = new KvEvents({ config: { ...kvEvents, endpoint: offsetEndpoint(kvEvents.endpoint, place.rank) }, blockSize: 32, clock, log });
  const backend = new VllmBackend({ config: parts.config, blockSize: 32, clock, log, place, events, ...(parts.process === undefined ? {} : { process: parts.process }) });
  backends.push(backend);
  return backend;
}

describe('the command line', () => {
  const facts = { ranks: 1, blockSize: 32, servedName: 'demo', port: 8100, events: { endpoint: 'tcp://127.0.0.1:5557', replayEndpoint: 'tcp://127.0.0.1:5558' }, transferConfig: '{"kv_connector":"NixlConnector"}' };

  test('comes from the configuration', () => {
    const config = { ...noServe, model: '/models/demo', command: ['nice', 'vllm'], tensorParallelSize: 2, extraArgs: ['--enforce-eager'] };
    expect(serveCommand(config, facts)).toEqual([
      'nice', 'vllm', 'serve', '/models/demo', '--host', '127.0.0.1', '--port', '8100', '--block-size', '32', '--enable-prompt-tokens-details', '--served-model-name', 'demo', '--tensor-parallel-size', '2',
      '--enable-prefix-caching', '--kv-events-config', '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://127.0.0.1:5557","replay_endpoint":"tcp://127.0.0.1:5558","topic":""}',
      '--kv-transfer-config', '{"kv_connector":"NixlConnector"}', '--enforce-eager',
    ]);
    const bare = serveCommand({ ...config, tensorParallelSize: 1, extraArgs: [] }, { ...facts, servedName: '', events: undefined, transferConfig: '' });
    expect(bare.slice(4)).toEqual(['--host', '127.0.0.1', '--port', '8100', '--block-size', '32', '--enable-prompt-tokens-details']);
  });

  test.each([['--port'], ['--block-size=16'], ['-tp']])('a flag that is ours is refused: %s', (arg) => {
    expect(() => serveCommand({ ...noServe, extraArgs: [arg] }, facts)).toThrow(expect.objectContaining({ code: 'VLLM_SERVE_FLAG', message: expect.stringContaining(arg) as string }) as Error);
  });

  test('one of baseUrl and serve.model is needed, not both', async () => {
    await expect(make('', { model: '' })).rejects.toMatchObject({ code: 'VLLM_CONFIG_ADDRESS' });
    await expect(make('', {}, { baseUrl: 'http://127.0.0.1:1' })).rejects.toMatchObject({ code: 'VLLM_CONFIG_ADDRESS' });
  });
});

describe('the server', () => {
  test('starts with our flags on a free port, its words are in the log, and it ends with the backend', async () => {
    const backend = await make('');
    await backend.start();
    expect(backend.info).toMatchObject({ blockSize: 32, totalBlocks: 64, modelFingerprint: 'vllm//etc/armature/models/demo' });
    expect(logged).toMatch(/vllm: INFO starting serve \/etc\/armature\/models\/demo .*--block-size 32/);
    expect(backend.failure()).toBeUndefined();
    const [pid] = pids();
    expect(isAlive(pid!)).toBe(true);
    await backend.close();
    expect(isAlive(pid!)).toBe(false);
  });

  test('one that refuses to start says its own reason, once', async () => {
    const backend = await make('refuse');
    await expect(backend.start()).rejects.toMatchObject({ code: 'VLLM_START_FAILED', message: 'vLLM ended with code 1 before it served: ValueError: No common block size for 16 (CPU_ATTN: [MultipleOf(32)])' });
    expect(pids()).toHaveLength(1);
    await expect((await make('', { command: ['/nowhere/vllm'] })).start()).rejects.toMatchObject({ code: 'VLLM_START_FAILED', message: expect.stringMatching(/code 12[67].*\/nowhere\/vllm/) as string });
  });

  test('one that ends later leaves, with its reason, and is started again', async () => {
    const backend = await make('dies-once', { restartDelayMs: 200 });
    await backend.start();
    expect(backend.failure()).toBeUndefined();
    writeFileSync(`${state}.die`, '');
    await expect.poll(() => backend.failure()?.code, { timeout: 15_000, interval: 5 }).toBe('VLLM_EXITED');
    await expect.poll(() => backend.failure(), { timeout: 15_000 }).toBeUndefined();
    expect(new Set(pids()).size).toBe(2);
    expect(logged).toContain('torch.OutOfMemoryError: CUDA out of memory');
  });

  test('a port in use is said before anything is started', async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const { port } = taken.address() as AddressInfo;
    await expect((await make('', { port })).start()).rejects.toMatchObject({ code: 'VLLM_PORT_TAKEN', message: expect.stringContaining(`127.0.0.1:${port}: EADDRINUSE`) as string });
    expect(() => pids()).toThrow();
    await new Promise((resolve) => taken.close(resolve));
  });

  test('the key of the configuration is asked for by the server and sent by us; no command line or log tells it', async () => {
    const backend = await make('', {}, { apiKey: 'sesame' });
    await backend.start();
    expect(backend.failure()).toBeUndefined();
    expect(seen()).toMatchObject([{ key: 'sesame' }]);
    expect(JSON.stringify(seen()[0]!.flags) + logged).not.toContain('sesame');
    // One that is in its environment anyway is ours too.
    await (await make('', { env: { STATE: state, VLLM_API_KEY: 'other' } })).start();
    expect(seen()[1]).toMatchObject({ key: 'other' });
  });

  test('each server has a side channel of its own; one that is taken is told before anything is started', async () => {
    const replicas = await Promise.all([0, 1].map((group) => make('', {}, {}, { rank: 0, ranks: 1, group })));
    await Promise.all(replicas.map((backend) => backend.start()));
    const ports = seen().map(({ sidePort }) => Number(sidePort));
    expect(new Set(ports).size).toBe(2);
    expect(ports.every((port) => port > 0)).toBe(true);
    rmSync(`${state}.seen`);
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const { port } = taken.address() as AddressInfo;
    await expect((await make('', { env: { VLLM_NIXL_SIDE_CHANNEL_PORT: String(port) } })).start()).rejects.toMatchObject({ code: 'VLLM_PORT_TAKEN', hint: expect.stringContaining('VLLM_NIXL_SIDE_CHANNEL_PORT') as string });
    await expect((await make('', {}, { kvEvents: { ...noEvents, replayEndpoint: `tcp://127.0.0.1:${port}` } })).start()).rejects.toMatchObject({ code: 'VLLM_PORT_TAKEN', hint: expect.stringContaining('replayEndpoint') as string });
    expect(() => seen()).toThrow();
    await new Promise((resolve) => taken.close(resolve));
  });

  test('data-parallel ranks share one server: rank 0 starts it, the others attach, each with its own blocks', async () => {
    const port = await freePorts('127.0.0.1', 10);
    const places = [0, 1].flatMap((group) => [1, 0].map((rank) => ({ rank, ranks: 2, group })));
    const workers = await Promise.all(places.map((place) => make('', { port }, {}, place)));
    await Promise.all(workers.map((backend) => backend.start()));
    expect(workers.map(({ info }) => info.totalBlocks)).toEqual([65, 64, 65, 64]);
    const servers = seen().map(({ flags }) => ({ port: flags[flags.indexOf('--port') + 1], ranks: flags[flags.indexOf('--data-parallel-size') + 1], events: flags[flags.indexOf('--kv-events-config') + 1] }));
    const server = (at: number): object => ({
      port: String(at),
      ranks: '2',
      events: JSON.stringify({ enable_kv_cache_events: true, publisher: 'zmq', endpoint: `tcp://127.0.0.1:${at + 1}`, replay_endpoint: `tcp://127.0.0.1:${at + 3}`, topic: '' }),
    });
    expect(servers.sort((a, b) => Number(a.port) - Number(b.port))).toEqual([server(port), server(port + 5)]);
  });

  test('ranks without a port that all of them know are refused', async () => {
    await expect(make('', { port: 0 }, {}, { rank: 1, ranks: 2, group: 0 })).rejects.toMatchObject({ code: 'VLLM_CONFIG_ADDRESS', hint: expect.stringContaining('serve.port, with 5 free ports') as string });
  });

  test.each(['stubborn', 'child'])('the whole process group is gone after close, by force if need be: %s', async (mode) => {
    const backend = await make(mode, { stopTimeoutMs: 200 });
    await backend.start();
    const started = pids();
    expect(started).toHaveLength(mode === 'child' ? 2 : 1);
    expect(started.every(isAlive)).toBe(true);
    await backend.close();
    await expect.poll(() => started.some(isAlive), { timeout: 10_000 }).toBe(false);
  });
});

test('the reason is the root cause, without the prefix of the log', () => {
  expect(reasonIn(['usage: vllm serve', 'vllm serve: error: unrecognized arguments: --nope'])).toBe('vllm serve: error: unrecognized arguments: --nope');
  expect(reasonIn(['OSError: [Errno 98] error while attempting to bind on address: address already in use'])).toContain('address already in use');
  expect(reasonIn(['RuntimeError: Engine core initialization failed. See root cause above.'])).toContain('initialization failed');
  expect(reasonIn(['(APIServer pid=7) WARNING 11-23 14:50:37 [utils.py:255] can cause errors like `OSError: [Errno 24] Too many open files`.', 'ValueError: the cause'])).toBe('ValueError: the cause');
  expect(reasonIn(['Killed'])).toBe('Killed');
  expect(reasonIn([])).toBe('it said nothing');
});
