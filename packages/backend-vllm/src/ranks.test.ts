import { Publisher, Router } from 'zeromq';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { noSalt, sequenceHashes } from '@armature/tokens';
import { choice, chunk, done, usageChunk } from './fake-vllm.test.support.ts';
import { KvEvents, vllm, VllmBackend } from './index.ts';
import type { RankPlace, VllmConfig } from './index.ts';
import { batch, stored } from './kv-events/encode.test.support.ts';
import { checkRanks, offsetEndpoint, ONLY_RANK, placeOf } from './ranks.ts';
import { parseMetrics } from './metrics.ts';
import { freePorts } from './serve/ports.ts';
import { base, clock, configWith, log, logged, Recorder, server, streaming } from './testing.test.support.ts';

const TWO_RANKS = ['0', '1'].flatMap((engine) => [
  `vllm:num_requests_running{engine="${engine}",model_name="demo"} ${engine === '0' ? 3 : 7}.0`,
  `vllm:num_requests_waiting{engine="${engine}",model_name="demo"} ${engine}.0`,
  `vllm:kv_cache_usage_perc{engine="${engine}",model_name="demo"} ${engine === '0' ? 0.25 : 0.5}`,
  `vllm:cache_config_info{block_size="32",engine="${engine}",num_gpu_blocks="${engine === '0' ? 200 : 100}"} 1.0`,
]).join('\n');

const closers: (() => void | Promise<void>)[] = [];
beforeEach(() => {
  server.metrics = TWO_RANKS;
});
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

function worker(place: RankPlace, config: Partial<VllmConfig> = {}): VllmBackend {
  const whole = configWith(config);
  const { kvEvents } = whole;
  const followed = { ...kvEvents, endpoint: offsetEndpoint(kvEvents.endpoint, place.rank), replayEndpoint: offsetEndpoint(kvEvents.replayEndpoint, place.rank) };
  const events = kvEvents.endpoint === '' ? {} : { events: new KvEvents({ config: followed, blockSize: 32, clock, log }) };
  const backend = new VllmBackend({ config: whole, blockSize: 32, clock, log, place, ...events });
  closers.push(() => backend.close());
  return backend;
}

const places: RankPlace[] = [0, 1].map((rank) => ({ rank, ranks: 2, group: 0 }));

describe('each data-parallel rank is a worker of its own', () => {
  test('with its own load and blocks', async () => {
    const [first, second] = places.map((place) => worker(place)) as [VllmBackend, VllmBackend];
    await Promise.all([first.start(), second.start()]);
    expect([first.info.totalBlocks, second.info.totalBlocks]).toEqual([200, 100]);
    expect(first.load()).toMatchObject({ running: 3, waiting: 0, usedBlocks: 50, freeBlocks: 150 });
    expect(second.load()).toMatchObject({ running: 7, waiting: 1, usedBlocks: 50, freeBlocks: 50 });
    server.metrics = TWO_RANKS.replace('} 7.0', '} 9.0');
    await expect.poll(() => second.load().running, { timeout: 10_000 }).toBe(9);
    expect(first.load().running).toBe(3);
  });

  test('its requests and its canary name it; without ranks none is named', async () => {
    server.answer = streaming(chunk([choice([10], { finish_reason: 'stop' })]), usageChunk, done);
    const asked = (): (string | string[] | undefined)[] => server.requests.splice(0).map(({ headers }) => headers['x-data-parallel-rank']);
    for (const place of places) {
      const backend = worker(place);
      await backend.start();
      const sink = new Recorder();
      backend.submit(base, sink);
      expect(await sink.ended).toMatchObject({ type: 'finished' });
      expect(asked()).toEqual([String(place.rank)]);
    }
    server.metrics = TWO_RANKS.split('\n').slice(0, 4).join('\n');
    const alone = worker(ONLY_RANK);
    await alone.start();
    const sink = new Recorder();
    alone.submit(base, sink);
    await sink.ended;
    expect(asked()).toEqual([undefined]);
    await alone.close();
    server.metrics = TWO_RANKS;
    const canary = worker(places[1]!, { canaryIntervalMs: 10 });
    await canary.start();
    await expect.poll(() => server.requests.length, { timeout: 10_000 }).toBeGreaterThan(0);
    expect(new Set(asked())).toEqual(new Set(['1']));
  });

  test('and hears its own KV events only, at its own port', async () => {
    const first = await freePorts('127.0.0.1', 2);
    const replays = await freePorts('127.0.0.1', 2);
    const publishers = await Promise.all(places.map(({ rank }) => publisherAt(first + rank, replays + rank)));
    const backends = places.map((place) => worker(place, { kvEvents: { endpoint: `tcp://127.0.0.1:${first}`, replayEndpoint: `tcp://127.0.0.1:${replays}`, listen: true, topic: '', replayTimeoutMs: 500 } }));
    await Promise.all(backends.map((backend) => backend.start()));
    const blockOf = (rank: number): number[] => Array.from({ length: 32 }, (_, i) => 1000 * (rank + 1) + i);
    let sent = 0;
    await expect.poll(async () => {
      for (const [rank, pub] of publishers.entries()) await pub.send(['kv', number(sent), batch(sent, stored([BigInt(rank + 1)], null, blockOf(rank)))]);
      sent++;
      return backends.map((backend) => backend.snapshot().length);
    }, { timeout: 10_000 }).toEqual([1, 1]);
    const told = backends.map((backend) => backend.snapshot().flatMap((event) => (event.type === 'stored' ? [...event.sequenceHashes] : [])));
    expect(told).toEqual(places.map(({ rank }) => [...sequenceHashes(Int32Array.from(blockOf(rank)), 32, 32, noSalt)]));
  });
});

/** vLLM's publisher of one rank: connects to us, has nothing to tell again. */
async function publisherAt(port: number, replayPort: number): Promise<Publisher> {
  const pub = new Publisher({ linger: 0 });
  pub.connect(`tcp://127.0.0.1:${port}`);
  const replay = new Router({ linger: 0 });
  await replay.bind(`tcp://127.0.0.1:${replayPort}`);
  void (async () => {
    for await (const [id] of replay) await replay.send([id!, '', '', Buffer.alloc(8, 0xff), '']);
  })().catch(() => undefined);
  closers.push(() => {
    pub.close();
    replay.close();
  });
  return pub;
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

describe('how many ranks there are', () => {
  const four = { ranks: 4, rank: 0, group: 0 };
  test('more or fewer than the configuration says is refused at start, with what to set', async () => {
    await expect(worker(four).start()).rejects.toMatchObject({ code: 'VLLM_RANKS_MISMATCH', message: 'vLLM has 2 data-parallel ranks, the configuration says 4', hint: expect.stringContaining('dpRanks: 2 and replicas: 2') as string });
    // One worker for two ranks could follow the cache of one only.
    const kvEvents = { endpoint: 'tcp://127.0.0.1:*', listen: true, replayEndpoint: '', topic: '', replayTimeoutMs: 500 };
    await expect(worker(ONLY_RANK, { kvEvents }).start()).rejects.toMatchObject({ code: 'VLLM_RANKS_MISMATCH' });
  });

  test('a release that cannot be told a rank is refused, with what to do', async () => {
    server.version = '0.11.0';
    await expect(worker(places[0]!).start()).rejects.toMatchObject({ code: 'VLLM_RANKS_MISMATCH', hint: expect.stringContaining('0.12 or newer') as string });
  });

  test('a rank that publishes nothing is told of; servers with one rank of any number are not', async () => {
    server.eventSources = { 0: { endpoint: 'tcp://127.0.0.1:1' } };
    const kvEvents = { endpoint: 'tcp://127.0.0.1:1', listen: false, replayEndpoint: '', topic: '', replayTimeoutMs: 500 };
    await worker(places[0]!, { kvEvents }).start();
    expect(logged).not.toContain('VLLM_EVENTS_SILENT');
    await worker(places[1]!, { kvEvents }).start();
    expect(logged).toContain('VLLM_EVENTS_SILENT');
  });

  test('without events one worker may stand for all of them: it says so, and sums', async () => {
    const backend = worker(ONLY_RANK);
    await backend.start();
    expect(backend.load()).toMatchObject({ running: 10, totalBlocks: 300 });
    expect(logged).toContain('VLLM_RANKS_MISMATCH');
  });

  test('a server that does not tell is believed', () => {
    expect(() => checkRanks(four, { metrics: parseMetrics('vllm:num_requests_running 1'), version: undefined, followsEvents: true, log })).not.toThrow();
  });
});

test('the connector knows no ranks: refused before anything is opened', async () => {
  const scopes = [{ kind: 'worker', name: 'w/1', facts: { pool: 'w', index: 1, dpRanks: 2 } }, { kind: 'model', name: 'demo', facts: { blockSize: 32 } }];
  const config = configWith({ connector: '/nowhere/at/all.sock' });
  const create = async (): Promise<unknown> => vllm.create(config, { clock, log, baseDir: '/', scopes, path: 'test' } as never);
  await expect(create()).rejects.toMatchObject({ code: 'VLLM_RANKS_MISMATCH', hint: expect.stringContaining('connector') as string });
});

test('the place of a worker comes from its deployment', () => {
  const scopes = (facts: object): Parameters<typeof placeOf>[0] => [{ kind: 'worker', name: 'w/5', facts: facts as Record<string, never> }, { kind: 'model', name: 'demo', facts: {} }];
  expect(placeOf(scopes({ pool: 'w', index: 5, dpRanks: 2 }))).toEqual({ rank: 1, ranks: 2, group: 2 });
  expect(placeOf(scopes({ pool: 'w', index: 5, dpRanks: 1 }))).toEqual({ rank: 0, ranks: 1, group: 5 });
  expect(placeOf(scopes({}))).toEqual(ONLY_RANK);
});

test.each([
  ['tcp://127.0.0.1:5557', 3, 'tcp://127.0.0.1:5560'],
  ['tcp://[::1]:5557', 1, 'tcp://[::1]:5558'],
  ['', 1, ''],
  ['ipc:///run/events', 0, 'ipc:///run/events'],
])('rank offsets, as vLLM has them: %s and %i', (endpoint, offset, moved) => {
  expect(offsetEndpoint(endpoint, offset)).toBe(moved);
});

test.each(['ipc:///run/events', 'tcp://127.0.0.1:0', 'tcp://127.0.0.1:*', 'tcp://127.0.0.1:65535'])('%s has no place for a second rank', (endpoint) => {
  expect(() => offsetEndpoint(endpoint, 1)).toThrow(expect.objectContaining({ code: 'VLLM_EVENTS_ENDPOINT' }));
});
