import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { mock } from '@armature/backend-mock';
import { SeededRandom } from '@armature/core';
import type { PluginDescriptor } from '@armature/contracts';
import { diskTier, hostTier, kvPolicyPlugins } from '@armature/kvbm';
import { memoryTransport } from '@armature/nixel';
import { plannerPlugins } from '@armature/planner';
import { routerPlugins } from '@armature/router-kv';
import { servingPlugins } from '@armature/serving';
import { afterAll, describe, expect, it } from 'vitest';
import { htmlReport, loadSettings, readTrace, simulate, syntheticTrace } from './index.ts';
import type { SimulateOptions, SimulationResult, TraceRow } from './index.ts';

const plugins = [...servingPlugins, ...routerPlugins, ...plannerPlugins, mock, memoryTransport, hostTier, diskTier, ...kvPolicyPlugins] as unknown as readonly PluginDescriptor[];
const engine = 'engine: { use: mock, config: { totalBlocks: 4096, maxModelTokens: 65536, vocabSize: 1024, startupMs: 2000 } }';
const disaggregated = `
apiVersion: armature/v1
models:
  - name: demo
    source: "@armature/model-demo"
    blockSize: 16
    router: { use: kv }
    disaggregation: { use: always }
    workers:
      - { name: prefill, role: prefill, replicas: 3, ${engine} }
      - { name: decode, role: decode, replicas: 3, ${engine} }
`;

function steady(seconds: number, requestsPerSecond = 8, seed = 5): TraceRow[] {
  const shape = { kind: 'steady', durationMs: seconds * 1000, requestsPerSecond, promptTokens: 600, outputTokens: 40, sharedShare: 0.5, prefixes: 4 } as const;
  return [...syntheticTrace(shape, 16, new SeededRandom(seed))];
}

async function run(changes: Partial<SimulateOptions> = {}): Promise<SimulationResult> {
  return simulate({ text: disaggregated, settings: await loadSettings(), trace: steady(30), seed: 1, plugins, objective: { ttftMs: 1_000, itlMs: 50 }, ...changes });
}

describe('simulate', () => {
  it('runs a trace through the whole cluster, to the byte the same for a seed', async () => {
    const first = await run();
    expect(first.outcome).toMatchObject({ requests: first.outcome.finished, failed: 0 });
    expect(first.outcome.requests).toBeGreaterThan(150);
    expect(first.counters['armature_remote_prefills_total']).toBe(first.outcome.requests);
    expect(first.counters['armature_kv_transfer_blocks_total']).toBeGreaterThan(1_000);
    expect(first.outcome.hitRate).toBeGreaterThan(0.3);
    expect(first.movedBytes).toBeGreaterThan(0);
    expect(JSON.stringify(await run())).toBe(JSON.stringify(first));
    expect(JSON.stringify(await run({ seed: 2 }))).not.toBe(JSON.stringify(first));
  }, 60_000);

  it('gives the same times whether decode passes are looked ahead or not, with fewer events', async () => {
    const [one, many] = [await run({ lookaheadMs: 0 }), await run({ lookaheadMs: 5_000 })];
    expect(many.outcome.ttftMs).toEqual(one.outcome.ttftMs);
    expect(many.outcome.e2eMs.p99).toBeCloseTo(one.outcome.e2eMs.p99 ?? NaN, 0);
    expect(many.events).toBeLessThan(one.events / 2);
  }, 60_000);

  it('counts worker-hours from the order of a worker on', async () => {
    const result = await run();
    const hours = result.durationMs / 3_600_000;
    for (const pool of result.pools) expect(pool.workerHours).toBeCloseTo(3 * hours, 4);
    expect((await run({ replicas: { prefill: 1 } })).pools[0].workerHours).toBeCloseTo(hours, 2);
  }, 60_000);

  it('moves KV as slowly as the network is', async () => {
    const slow = await loadSettings('apiVersion: armature/v1\nnetwork: { transfer: { latencyMs: 40, gigabytesPerSecond: 1 } }\n');
    const [fast, delayed] = [await run(), await run({ settings: slow })];
    expect(delayed.outcome.failed).toBe(0);
    expect((delayed.outcome.e2eMs.mean ?? 0) - (fast.outcome.e2eMs.mean ?? 0)).toBeGreaterThan(40);
    expect(delayed.movedBytes).toBeGreaterThan(0.5 * fast.movedBytes);
  }, 60_000);

  it('breaks workers by plan and by rate; requests move on', async () => {
    const settings = await loadSettings(`
apiVersion: armature/v1
faults:
  - { kind: kill, worker: decode/1, atMs: 5000, restartMs: 3000 }
  - { kind: stop, pool: prefill, perHour: 400, durationMs: 4000 }
  - { kind: partition, pool: decode, atMs: 15000, durationMs: 8000 }
`);
    const broken = await run({ settings });
    expect(broken.faults.map(({ kind }) => kind)).toEqual(expect.arrayContaining(['kill', 'stop', 'partition']));
    expect(broken.faults).toContainEqual({ atMs: 5_000, kind: 'kill', worker: 'decode/1' });
    expect(broken.outcome.finished).toBe(broken.outcome.requests);
    expect(broken.counters['armature_migrations_total']).toBeGreaterThan(0);
    expect(broken.pools.find(({ pool }) => pool === 'decode')?.started).toBe(4);
    expect(JSON.stringify(await run({ settings }))).toBe(JSON.stringify(broken));
  }, 60_000);

  it('runs the planner of the file on simulated workers', async () => {
    const text = `
apiVersion: armature/v1
planner: { models: [{ model: demo, policy: { use: load }, intervalMs: 5000 }] }
models:
  - name: demo
    source: "@armature/model-demo"
    blockSize: 16
    objective: { ttftMs: 1000, itlMs: 50 }
    workers:
      - { name: all, replicas: 1, maxReplicas: 6, startupMs: 2000, ${engine.replace('4096', '1024')} }
`;
    const quiet = steady(20, 1);
    const busy = steady(60, 40, 6).map((row) => ({ ...row, atMs: row.atMs + 20_000, blocks: row.blocks.map((block) => block + 100_000_000) }));
    const result = await simulate({ text, settings: await loadSettings(), trace: [...quiet, ...busy], seed: 1, plugins, objective: { ttftMs: 1_000, itlMs: 50 } });
    expect(result.outcome.finished).toBe(result.outcome.requests);
    expect(result.pools[0].started).toBeGreaterThan(1);
    expect(Math.max(...result.intervals.map(({ workers }) => workers['all']))).toBeGreaterThan(1);
    expect(result.pools[0].workerHours).toBeLessThan((6 * result.durationMs) / 3_600_000);
  }, 60_000);

  describe('with tiers below the engine', () => {
    // The engine holds 160 blocks, the host tier 256 (of 2 MiB), the disk all there are.
    const tiers = (names: string): string => `, kvbm: { policy: { use: lineage, config: { offload: { host: stored } } }, tiers: [${names}] }`;
    const [host, wide, disk] = ['{ use: host, config: { capacity: 512MiB } }', '{ use: host, config: { capacity: 64GiB } }', '{ use: disk, config: { capacity: 128GiB } }'];
    const traceOf = (durationMs: number): TraceRow[] => [...syntheticTrace({ kind: 'steady', durationMs, requestsPerSecond: 4, promptTokens: 600, outputTokens: 10, sharedShare: 0.9, prefixes: 12 }, 16, new SeededRandom(8))];
    const tiered = async (kvbm: string, settings = '', durationMs = 40_000): Promise<SimulationResult> => {
      const text = `
apiVersion: armature/v1
models:
  - name: demo
    source: "@armature/model-demo"
    blockSize: 16
    workers: [{ name: all, replicas: 2, ${engine.replace('4096', '160')}${kvbm} }]
`;
      const result = await run({ text, trace: traceOf(durationMs), settings: await loadSettings(`apiVersion: armature/v1\n${settings}`) });
      expect(result.outcome.finished).toBe(result.outcome.requests);
      return result;
    };
    const rate = ({ outcome }: SimulationResult): number => outcome.hitRate ?? 0;
    const tier = ({ tiers: all }: SimulationResult, name: string): SimulationResult['tiers'][number] => all.find((entry) => entry.tier === name) as SimulationResult['tiers'][number];

    it('finds in host memory what the engine has no room for, to the byte the same for a seed', async () => {
      const [none, much] = [await tiered(''), await tiered(tiers(wide))];
      expect(rate(much)).toBeGreaterThan(rate(none) + 0.1);
      expect(much.counters['armature_kvbm_offloaded_blocks_total']).toBeGreaterThan(100);
      expect(none.tiers).toEqual([]);
      expect(tier(much, 'host')).toMatchObject({ capacityBlocks: 2 * 32_768, failures: 0 });
      expect(JSON.stringify(await tiered(tiers(wide)))).toBe(JSON.stringify(much));
    }, 60_000);

    it('fetches from a disk as far as its speed makes that worth while', async () => {
      const fast = 'tiers: { disk: { latencyMs: 0.05, gigabytesPerSecond: 100 } }';
      const slow = 'tiers: { disk: { latencyMs: 50, gigabytesPerSecond: 0.1 } }';
      const [above, quick, late] = [await tiered(tiers(host)), await tiered(tiers(`${host}, ${disk}`), fast), await tiered(tiers(`${host}, ${disk}`), slow)];
      expect(rate(quick)).toBeGreaterThan(rate(above) + 0.1);
      expect(rate(late)).toBeLessThan(rate(quick) - 0.1);
      expect(tier(quick, 'disk').loads).toBeGreaterThan(2 * tier(late, 'disk').loads);
      const slowed = (worker: string): string => `{ kind: disk, worker: ${worker}, atMs: 0, durationMs: 1000000000, slowdown: 10000 }`;
      const hurt = await tiered(tiers(`${host}, ${disk}`), `${fast}\nfaults: [${slowed('all/0')}, ${slowed('all/1')}]`);
      expect(tier(hurt, 'disk').loads).toBeLessThan(tier(quick, 'disk').loads / 2);
    }, 60_000);

    it('takes as long to and from host memory as the link does', async () => {
      const slow = await tiered(tiers(wide), 'tiers: { host: { latencyMs: 40, gigabytesPerSecond: 25 } }');
      expect(rate(slow)).toBeLessThan(rate(await tiered(tiers(wide))));
    }, 60_000);

    it('serves on while disks fail, and uses them again afterwards', async () => {
      const fast = 'tiers: { disk: { latencyMs: 0.05, gigabytesPerSecond: 100 } }';
      const broken = (durationMs: number): string => `${fast}\nfaults: [{ kind: disk, worker: all/0, atMs: 0, durationMs: ${durationMs} }, { kind: disk, worker: all/1, atMs: 0, durationMs: ${durationMs} }]`;
      const [always, first] = [await tiered(tiers(`${host}, ${disk}`), broken(1e9), 120_000), await tiered(tiers(`${host}, ${disk}`), broken(10_000), 120_000)];
      expect(always.faults.map(({ kind }) => kind)).toEqual(['disk', 'disk']);
      expect(tier(always, 'disk')).toMatchObject({ heldBlocks: 0, loads: 0 });
      expect(tier(always, 'disk').failures).toBeGreaterThan(100);
      expect(tier(first, 'disk').loads).toBeGreaterThan(100);
      expect(rate(first)).toBeGreaterThan(rate(always) + 0.1);
    }, 60_000);

    it('says which tiers it leaves out', async () => {
      const result = await tiered(tiers(`${host}, { use: nowhere, config: {} }`));
      expect(result.assumptions.join()).toContain('tiers nowhere are left out');
    }, 60_000);
  });

  it('never mends one fault of a worker by the end of another', async () => {
    const settings = await loadSettings(`
apiVersion: armature/v1
faults:
  - { kind: stop, worker: decode/0, atMs: 2000, durationMs: 3000 }
  - { kind: partition, worker: decode/0, atMs: 3000, durationMs: 60000 }
`);
    expect((await run({ settings })).faults).toEqual([{ atMs: 2_000, kind: 'stop', worker: 'decode/0' }]);
  }, 60_000);

  it.each([
    ['apiVersion: armature/v1\n', 'SIMULATION_NO_MODEL'],
    [disaggregated.replace('use: kv', 'use: nobody'), 'CONFIG_INVALID'],
  ])('refuses a file that it cannot simulate', async (text, code) => {
    await expect(run({ text })).rejects.toMatchObject({ code });
  });

  it('refuses settings with what is wrong', async () => {
    await expect(loadSettings('apiVersion: armature/v1\nfaults: [{ kind: kill }]\n')).rejects.toThrow(/either atMs or perHour/);
    await expect(loadSettings('apiVersion: armature/v1\nfaults: [{ kind: kill, atMs: 1, slowdown: 2 }]\n')).rejects.toThrow(/a kill has no slowdown/);
    await expect(loadSettings('apiVersion: armature/v1\nnetwork: { transfer: { gigabytesPerSecond: 0 } }\n')).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});

describe('htmlReport', () => {
  it('is one file without scripts or links, the same for the same result, with every plot and no broken number', async () => {
    const result = await run();
    const html = htmlReport(result, 'a <b> title');
    expect(html).toBe(htmlReport(result, 'a <b> title'));
    expect(html).toContain('a &lt;b&gt; title');
    expect(html.match(/<svg/g)).toHaveLength(6);
    expect(html).not.toMatch(/<script|https?:|NaN|Infinity|undefined/);
    // The last label of an axis ends where the picture does, instead of beyond it.
    expect(html.match(/text-anchor="end">[\d.,]+ min</g)).toHaveLength(6);
  }, 60_000);

  it('survives a run in which nothing finished', async () => {
    const result = await run({ trace: [] });
    expect(htmlReport(result, 'empty')).not.toMatch(/NaN|Infinity|undefined/);
  });
});

describe('readTrace', () => {
  const folder = mkdtempSync(join(tmpdir(), 'armature-trace-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const file = (text: string): string => {
    const path = join(folder, 'trace.jsonl');
    writeFileSync(path, text);
    return path;
  };
  const row = (changes: Record<string, unknown> = {}): string => JSON.stringify({ timestamp: 0, input_length: 20, output_length: 3, hash_ids: [4, 5], ...changes });

  it('reads Mooncake lines, of any length of file', () => {
    const many = Array.from({ length: 30_000 }, (_, i) => row({ timestamp: i, hash_ids: [i, i + 1] })).join('\n');
    const rows = [...readTrace(file(many), 16)];
    expect(rows).toHaveLength(30_000);
    expect(rows[29_999]).toEqual({ atMs: 29_999, promptTokens: 20, outputTokens: 3, blocks: Int32Array.of(29_999, 30_000) });
    expect([...readTrace(file(many), 16, 7)]).toHaveLength(7);
    expect([...readTrace(file(`\n${row()}\n\n`), 16)]).toHaveLength(1);
  });

  it.each([
    ['{"timestamp":', 'line 2: no JSON'],
    [row({ timestamp: -1 }), 'line 2: timestamp is -1'],
    [row({ input_length: 0 }), 'line 2: input_length is 0'],
    [row({ output_length: 'x' }), 'line 2: output_length is "x"'],
    [row({ input_length: 64 }), 'line 2: hash_ids has 2 entries for 64 tokens'],
    [row({ hash_ids: [1, 2.5] }), 'line 2: hash_ids[1] is 2.5'],
    ['null', 'line 2: timestamp is undefined'],
  ])('says which line is wrong: %s', (line, message) => {
    expect(() => [...readTrace(file(`${row()}\n${line}\n`), 16)]).toThrow(expect.objectContaining({ code: 'TRACE_INVALID', message: expect.stringContaining(message) as string }));
  });

  it('refuses rows out of order, an empty file and a missing one', () => {
    expect(() => [...readTrace(file(`${row({ timestamp: 5 })}\n${row({ timestamp: 4 })}\n`), 16)]).toThrow(/line 2: timestamp 4 comes after 5/);
    expect(() => [...readTrace(file(''), 16)]).toThrow(/holds no request/);
    expect(() => [...readTrace(join(folder, 'none'), 16)]).toThrow(expect.objectContaining({ code: 'TRACE_INVALID' }));
  });
});

describe('syntheticTrace', () => {
  it('shares prefixes as asked for, in order of time', () => {
    const rows = steady(200);
    expect(rows.length).toBeGreaterThan(1_200);
    expect(rows.every((row, i) => i === 0 || row.atMs >= rows[i - 1].atMs)).toBe(true);
    const seen = new Set<number>();
    let shared = 0;
    let all = 0;
    for (const { blocks } of rows) {
      for (const block of blocks) {
        if (seen.has(block)) shared++;
        seen.add(block);
        all++;
      }
    }
    expect(shared / all).toBeGreaterThan(0.4);
    expect(shared / all).toBeLessThan(0.55);
  });
});
