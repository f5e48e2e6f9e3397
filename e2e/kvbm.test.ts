import { closeSync, mkdtempSync, openSync, readdirSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { definePlugin } from '@armature/contracts';
import type { KvMemory, KvTierBackend, PluginContext, PluginDescriptor } from '@armature/contracts';
import { hostTier } from '@armature/kvbm';
import type { BlockManagerStats } from '@armature/kvbm';
import type { RequestRecord } from '@armature/serving';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { conversations } from './support/conversations.ts';
import { greedy, metric, modelOf, request, run, start, stopAfter } from './support/in-process.ts';
import type { App, Output } from './support/in-process.ts';
import { ArmatureProcess, armature, freePort, root } from './support/process.ts';

// The device holds two conversations at a time (56 blocks of 32 KiB), the tiers below hold them all: second turns find what first turns computed.
const CONVERSATIONS = 16;
const folders: string[] = [];

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'armature-kvbm-'));
  folders.push(path);
  return path;
}

interface Tiers {
  readonly host: string;
  /** Name of the host tier's plug-in. */
  readonly use?: string;
  readonly disk?: Readonly<Record<string, unknown>>;
  readonly maxSlowdown?: number;
  readonly verify?: boolean;
}

/** Blocks go down to the disk at once, so that what it holds does not depend on how busy the machine is; a fetch may take as long as computing again. */
function deployment(tiers: Tiers | undefined, more = ''): string {
  const disk = tiers?.disk === undefined ? [] : [{ use: 'disk', config: tiers.disk }];
  const kvbm = tiers === undefined ? undefined : { tiers: [{ use: tiers.use ?? 'host', config: { capacity: tiers.host } }, ...disk], policy: { use: 'lineage', config: { offload: { host: 'stored' } } }, maxSlowdown: tiers.maxSlowdown ?? 1, fetchDeadlineMs: 20_000, verify: tiers.verify ?? true };
  return `
apiVersion: armature/v1
models:
  - name: demo
    source: "@armature/model-demo"
    workers:
      - { name: w, engine: { use: reference, config: { totalBlocks: 56, maxModelTokens: 880 } }${more}${kvbm === undefined ? '' : `, kvbm: ${JSON.stringify(kvbm)}`} }
`;
}

/** A system message of its own per conversation, long enough to be worth keeping. */
function rules(conversation: number): string {
  const lines = Array.from({ length: 10 }, (_, i) => `Rule ${i} of ${conversation}: answer with what the user has told you before.`);
  return ['You are a helpful assistant.', ...lines].join(' ');
}

/** First and second turns as tokens: the second ones begin with the first ones and their answers. */
function turns(app: App): { readonly first: Int32Array[]; readonly second: Int32Array[] } {
  const encode = (messages: ReturnType<typeof conversations>[0]): Int32Array => modelOf(app).preprocessor.encodeChat({ messages, addGenerationPrompt: true, continueFinalMessage: false }).tokenIds;
  const chats = conversations(CONVERSATIONS, 21).map((messages, i) => [{ role: 'system' as const, content: rules(i) }, ...messages.filter(({ role }) => role !== 'system')]);
  return { first: chats.map((messages) => encode(messages.slice(0, 2))), second: chats.map(encode) };
}

async function answers(app: App, prompts: readonly Int32Array[]): Promise<Output[]> {
  const outputs: Output[] = [];
  for (const tokens of prompts) outputs.push(await run(modelOf(app), request(tokens, { sampling: { ...greedy, topLogprobs: 0 }, stop: stopAfter(12) })));
  return outputs;
}

const seen = (outputs: readonly Output[]): unknown => outputs.map(({ tokens, logprobs, end }) => [tokens, logprobs, end?.type]);
const cached = (outputs: readonly Output[]): number => outputs.reduce((sum, { end }) => sum + (end?.type === 'finished' ? end.usage.cachedTokens : 0), 0);

async function admin<T>(app: App, path: string, query = ''): Promise<T> {
  return JSON.parse((await app.admin.handle(path, new URLSearchParams(query))).body) as T;
}

async function stats(app: App): Promise<BlockManagerStats> {
  const [manager] = await admin<BlockManagerStats[]>(app, '/kv');
  if (manager === undefined) throw new Error('no block manager');
  return manager;
}

/** Nothing waits to be copied down any more. */
async function settled(app: App): Promise<BlockManagerStats> {
  for (let i = 0; i < 1_000; i++) {
    const now = await stats(app);
    if (now.queuedOffloads === 0 && now.pinnedDeviceBlocks === 0) return now;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`offloads never ended: ${JSON.stringify(await stats(app))}`);
}

/** Value of a metric of one tier. */
async function ofTier(app: App, name: string, tier: string): Promise<number> {
  const line = (await app.metrics.text()).split('\n').find((text) => text.startsWith(`armature_kvbm_${name}{`) && text.includes(`tier="${tier}"`));
  return line === undefined ? 0 : Number(line.slice(line.lastIndexOf(' ') + 1));
}

const apps: App[] = [];
async function started(text: string, plugins: readonly PluginDescriptor[] = []): Promise<App> {
  const app = await start(text, { plugins });
  apps.push(app);
  return app;
}

/** The host tier, with its memory for the test to reach into. */
function spiedHost(memories: KvMemory[]): PluginDescriptor {
  return definePlugin<'kv-tier', Parameters<typeof hostTier.create>[0]>({
    kind: 'kv-tier',
    contract: 'v1',
    name: 'spied-host',
    description: 'The host tier, spied on.',
    configSchema: hostTier.configSchema,
    create: async (config, context: PluginContext) => {
      const tier: KvTierBackend = await hostTier.create(config, context);
      return {
        tier: tier.tier,
        capacityBytes: () => tier.capacityBytes(),
        open: async (host) => {
          const store = await tier.open(host);
          if ('memory' in store) memories.push(store.memory as KvMemory);
          return store;
        },
        close: () => tier.close?.() ?? Promise.resolve(),
      };
    },
  }) as unknown as PluginDescriptor;
}

/** What there is to compare with: the same requests on an engine of its own. */
let first: Int32Array[];
let second: Int32Array[];
let expected: { readonly first: unknown; readonly second: unknown; readonly cached: number };
beforeAll(async () => {
  const app = await start(deployment(undefined));
  ({ first, second } = turns(app));
  const firsts = seen(await answers(app, first));
  const seconds = await answers(app, [...second].reverse());
  expected = { first: firsts, second: seen(seconds), cached: cached(seconds) };
  await app.close(1_000);
}, 120_000);
afterEach(async () => {
  for (const app of apps.splice(0)) await app.close(1_000);
});
afterAll(() => folders.forEach((path) => rmSync(path, { recursive: true, force: true })));

describe('multi-turn conversations that thrash the device', () => {
  it('find their first turns in host memory and on disk, and answer the same to the last bit', async () => {
    const app = await started(deployment({ host: '4MiB', disk: { path: folder(), capacity: '64MiB' } }));
    expect(seen(await answers(app, first))).toEqual(expected.first);
    await settled(app);
    const seconds = await answers(app, [...second].reverse()); // the latest ones are still in host memory
    expect(seen(seconds)).toEqual(expected.second);
    const hits = { host: await ofTier(app, 'hit_blocks_total', 'host'), disk: await ofTier(app, 'hit_blocks_total', 'disk') };
    process.stdout.write(`kvbm e2e: ${JSON.stringify({ hits, cached: cached(seconds), without: expected.cached, stats: await settled(app) })}\n`);
    const runs = (await admin<RequestRecord[]>(app, '/requests', 'limit=1000')).flatMap(({ kv }) => kv?.runs ?? []);
    expect(Math.min(hits.host, hits.disk), JSON.stringify(runs.filter(({ source }) => source === 'disk'))).toBeGreaterThan(0);
    expect(cached(seconds)).toBeGreaterThan(expected.cached);
    expect(await metric(app, 'armature_kvbm_verification_failures_total')).toBe(0);
    const fetched = runs.filter(({ outcome }) => outcome === 'done');
    expect(fetched.some(({ source }) => source === 'host') && fetched.some(({ source }) => source === 'disk')).toBe(true);
  }, 120_000);
});

describe('ahead of requests', () => {
  it('while requests wait, in the frontend and in the engine, their blocks come from disk to host memory', async () => {
    const text = deployment({ host: '4MiB', disk: { path: folder(), capacity: '64MiB' } })
      .replace('"offload":', '"prefetch":"queue","offload":')
      .replace('    workers:', '    queue: { prefillTokens: 256 }\n    workers:');
    const app = await started(text);
    await answers(app, first);
    await settled(app);
    const all = await Promise.all(second.map((tokens) => run(modelOf(app), request(tokens, { sampling: { ...greedy, topLogprobs: 0 }, stop: stopAfter(12) }))));
    expect(all.map(({ tokens }) => tokens)).toEqual([...(expected.second as unknown[][])].reverse().map(([tokens]) => tokens));
    const counts = { told: await metric(app, 'armature_queue_prefetches_total'), prefetched: await ofTier(app, 'prefetched_blocks_total', 'disk'), host: await ofTier(app, 'hit_blocks_total', 'host') };
    const sources = (await admin<RequestRecord[]>(app, '/requests', `limit=${CONVERSATIONS}`)).flatMap(({ kv }) => kv?.runs ?? []).map((run) => `${run.source} ${run.outcome} ${run.blocks}`);
    process.stdout.write(`kvbm e2e: prefetch ${JSON.stringify({ ...counts, sources })}\n`);
    expect(Math.min(counts.told, counts.prefetched, counts.host), JSON.stringify(counts)).toBeGreaterThan(0);
  }, 120_000);

  it('an engine of two ranks keeps its blocks like one of one', async () => {
    const text = deployment({ host: '16MiB' }).replace('maxModelTokens: 880 }', 'maxModelTokens: 880, tensorParallel: 2 }');
    const app = await started(text);
    await answers(app, first);
    await settled(app);
    const seconds = await answers(app, [...second].reverse());
    expect(await ofTier(app, 'hit_blocks_total', 'host')).toBeGreaterThan(0);
    expect(await metric(app, 'armature_kvbm_verification_failures_total')).toBe(0);
    expect(seconds.map(({ tokens }) => tokens)).toEqual((expected.second as unknown[][]).map(([tokens]) => tokens));
  }, 120_000);
});

describe('what goes wrong below the device', () => {
  /** First turns, then a flipped bit in every block of host memory, then second turns. */
  async function flipped(verify: boolean): Promise<{ app: App; outputs: unknown }> {
    const memories: KvMemory[] = [];
    const app = await started(deployment({ host: '16MiB', use: 'spied-host', verify }), [spiedHost(memories)]);
    await answers(app, first);
    await settled(app);
    const { bytes, blocks, blockStrideBytes, pieces, pieceBytes } = memories[0]!;
    // The highest bits of the exponent of a float somewhere in the block: a large error, to be seen in the answers if it is used.
    for (let block = 0; block < blocks; block++) bytes![block * blockStrideBytes + 4 * ((block * 997) % ((pieces * pieceBytes) / 4)) + 3]! ^= 0x42;
    return { app, outputs: seen(await answers(app, [...second].reverse())) };
  }

  it('flipped bytes in host memory: found, dropped, counted, computed again', async () => {
    const { app, outputs } = await flipped(true);
    expect(outputs).toEqual(expected.second);
    expect(await ofTier(app, 'verification_failures_total', 'host')).toBeGreaterThan(0);
    expect((await stats(app)).corruptBlocks).toBeGreaterThan(0);
  }, 120_000);

  it('without verification they would be in the answers', async () => {
    const { app, outputs } = await flipped(false);
    expect(await ofTier(app, 'hit_blocks_total', 'host')).toBeGreaterThan(0);
    expect(outputs).not.toEqual(expected.second);
  }, 120_000);

  it('a slow disk: the same answers', async () => {
    const app = await started(deployment({ host: '2MiB', disk: { path: folder(), capacity: '64MiB', readBytesPerSecond: '256KiB', writeBytesPerSecond: '1MiB' }, maxSlowdown: 0.05 }));
    expect(seen(await answers(app, first))).toEqual(expected.first);
    expect(seen(await answers(app, [...second].reverse()))).toEqual(expected.second);
  }, 120_000);

  it('a disk that goes away under way: requests are answered, and the tier says so', async () => {
    const path = folder();
    const app = await started(deployment({ host: '2MiB', disk: { path, capacity: '64MiB', probeMs: 20 } }));
    await answers(app, first.slice(0, 16));
    rmSync(path, { recursive: true, force: true });
    writeFileSync(path, ''); // a store cannot be made there again
    expect(seen(await answers(app, first))).toEqual(expected.first);
    expect(seen(await answers(app, [...second].reverse()))).toEqual(expected.second);
    await expect.poll(async () => (await stats(app)).tiers.find(({ tier }) => tier === 'disk')?.problem?.code ?? 'none', { timeout: 10_000 }).toMatch(/^KVBM_/);
  }, 120_000);
});

describe('a configuration that cannot work', () => {
  it.each([
    ['a disk smaller than host memory', '[{ use: host, config: { capacity: 64MiB } }, { use: disk, config: { capacity: 32MiB } }]', 'CONFIG_TIER_SMALLER'],
    ['a disk without host memory', '[{ use: disk }]', 'CONFIG_TIER_ORDER'],
    ['host memory twice', '[{ use: host }, { use: host }]', 'CONFIG_TIER_ORDER'],
    ['no tier at all', '[]', 'CONFIG_'],
    ['a size that is none', '[{ use: host, config: { capacity: much } }]', 'CONFIG_'],
  ])('is refused with its place: %s', async (_name, tiers, code) => {
    const path = join(folder(), 'bad.yaml');
    writeFileSync(path, `apiVersion: armature/v1\nmodels:\n  - name: demo\n    source: "@armature/model-demo"\n    workers:\n      - name: w\n        engine: { use: reference }\n        kvbm: { tiers: ${tiers} }\n`);
    const { code: exit, stdout, stderr } = await armature(['config', 'check', path]);
    expect([exit, stdout + stderr]).toEqual([3, expect.stringMatching(new RegExp(`bad\\.yaml:8:\\d+ [^]*${code}`))]);
  });
});

describe('what outlives a process', () => {
  it('the disk of a worker that was killed: its blocks are matched by the next one', async () => {
    const path = folder();
    const disk = { path, capacity: '64MiB' };
    const [port, adminPort] = [await freePort(), await freePort()];
    const file = join(folder(), 'killed.yaml');
    const listeners = `admin: { port: ${adminPort} }\nfrontend: { use: openai, config: { port: ${port} } }\nmodels:`;
    writeFileSync(file, deployment({ host: '2MiB', disk }).replace('models:', listeners).replace('"@armature/model-demo"', JSON.stringify(`${root}packages/model-demo/model`)));
    const child = new ArmatureProcess(['serve', '-f', file]);
    try {
      await child.until('Ctrl-C stops');
      for (const tokens of first) {
        const body = JSON.stringify({ model: 'demo', prompt: [...tokens], max_tokens: 12, temperature: 0 });
        const answer = await fetch(`http://127.0.0.1:${port}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
        expect(answer.status).toBe(200);
      }
      await expect.poll(async () => ((await (await fetch(`http://127.0.0.1:${adminPort}/kv`)).json()) as BlockManagerStats[])[0]?.queuedOffloads, { timeout: 10_000 }).toBe(0);
    } finally {
      await child.stop('SIGKILL');
    }
    const kv = async (...args: string[]): Promise<Record<string, unknown>[]> => JSON.parse((await armature(['kv', ...args, '--path', path, '--json'])).stdout) as Record<string, unknown>[];
    expect(await kv('stats')).toEqual([expect.objectContaining({ state: 'current', running: false })]);
    expect(await kv('ls', '--limit', '3')).toHaveLength(3);
    const [verified] = await kv('verify');
    expect([verified?.['corrupt'], Number(verified?.['checked']) > 50]).toEqual([0, true]);
    // A byte of the first held blocks changes while nobody looks: told as often as asked, struck out once.
    const slab = readdirSync(path, { recursive: true, encoding: 'utf8' }).find((name) => name.endsWith('slab-00000'))!;
    const slabFile = openSync(join(path, slab), 'r+');
    const byte = Buffer.alloc(1);
    readSync(slabFile, byte, 0, 1, 100);
    byte[0]! ^= 1;
    writeSync(slabFile, byte, 0, 1, 100);
    closeSync(slabFile);
    expect([(await kv('verify'))[0], (await kv('verify', '--repair'))[0], (await kv('verify'))[0]].map((row) => row?.['corrupt'])).toEqual([1, 1, 0]);
    expect(await kv('gc')).toEqual([expect.objectContaining({ freedBytes: 0 })]);
    const app = await started(deployment({ host: '2MiB', disk }));
    expect((await armature(['kv', 'verify', '--path', path])).stderr).toContain('KVBM_STORE_LOCKED');
    const held = (await stats(app)).tiers.find(({ tier }) => tier === 'disk')?.heldBlocks ?? 0;
    expect(held).toBeGreaterThan(50);
    expect(seen(await answers(app, [...second].reverse()))).toEqual(expected.second);
    expect(await ofTier(app, 'hit_blocks_total', 'disk')).toBeGreaterThan(0);
    expect(await metric(app, 'armature_kvbm_verification_failures_total')).toBe(0);
  }, 120_000);
});

describe('two workers', () => {
  it('a worker borrows from the host tier of the other one what it has not itself', async () => {
    // No credit for what a worker holds: requests alternate, and in reverse order the second turns come to the worker that did not have the first.
    const text = deployment({ host: '16MiB' }, ', replicas: 2').replace('    workers:', '    router: { use: kv, config: { overlapCredit: 0, hostCredit: 0, diskCredit: 0 } }\n    workers:');
    const app = await started(text);
    await answers(app, first);
    expect(seen(await answers(app, [...second].reverse()))).toEqual(expected.second);
    const records = await admin<RequestRecord[]>(app, '/requests', 'limit=1000');
    const borrowed = records.flatMap(({ kv }) => kv?.runs ?? []).filter(({ source, outcome }) => source === 'peer' && outcome === 'done');
    process.stdout.write(`kvbm e2e: ${borrowed.length} runs borrowed, ${await ofTier(app, 'hit_blocks_total', 'peer')} blocks\n`);
    expect(await ofTier(app, 'hit_blocks_total', 'peer')).toBeGreaterThan(0);
    expect(borrowed.every(({ peer }) => peer !== undefined && /^w\/[01]@/.test(peer))).toBe(true);
    for (const { loans } of await admin<BlockManagerStats[]>(app, '/kv')) expect(loans).toBe(0);
  }, 120_000);

  it('prefill and decode apart: prefill takes up what was brought, and borrows the answers of earlier turns from decode', async () => {
    const pool = (role: string): string => deployment({ host: '16MiB', disk: { path: folder(), capacity: '64MiB' } }, `, role: ${role}`).split('\n').find((line) => line.includes('name: w'))!.replace('name: w', `name: ${role}`);
    const app = await started(`apiVersion: armature/v1\nmodels:\n  - name: demo\n    source: "@armature/model-demo"\n    workers:\n${pool('prefill')}\n${pool('decode')}\n`);
    expect(seen(await answers(app, first))).toEqual(expected.first);
    const seconds = await answers(app, [...second].reverse());
    expect(seen(seconds)).toEqual(expected.second);
    expect(cached(seconds)).toBeGreaterThan(expected.cached);
    expect(await metric(app, 'armature_remote_prefills_total')).toBe(2 * CONVERSATIONS);
    const records = await admin<RequestRecord[]>(app, '/requests', `limit=${CONVERSATIONS}`);
    expect(records.every(({ transfer }) => transfer?.outcome === 'valid')).toBe(true);
    const sources = new Set(records.flatMap(({ kv }) => kv?.runs ?? []).filter(({ outcome }) => outcome === 'done').map(({ source }) => source));
    process.stdout.write(`kvbm e2e: prefill's blocks came from ${[...sources].join(', ')}\n`);
    expect(sources).toContain('host');
    type Engine = { load: { usedBlocks: number }; kv: { leases: number; reservations: number } };
    await expect.poll(async () => (await admin<Engine[]>(app, '/engines')).reduce((sum, { load, kv }) => sum + load.usedBlocks + kv.leases + kv.reservations, 0), { timeout: 10_000 }).toBe(0);
  }, 120_000);
});
