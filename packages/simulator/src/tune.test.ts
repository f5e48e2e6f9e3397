import { mock } from '@armature/backend-mock';
import { SeededRandom } from '@armature/core';
import type { PluginDescriptor } from '@armature/contracts';
import { memoryTransport } from '@armature/nixel';
import { routerPlugins } from '@armature/router-kv';
import { servingPlugins } from '@armature/serving';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { loadSettings, syntheticTrace, tune } from './index.ts';
import type { TuneOptions } from './index.ts';

const plugins = [...servingPlugins, ...routerPlugins, mock, memoryTransport] as unknown as readonly PluginDescriptor[];
const text = `
apiVersion: armature/v1
models:
  - name: demo
    source: "@armature/model-demo"
    blockSize: 16
    router: { use: kv, config: { cost: kv-cost, overlapCredit: 0 } }
    workers:
      - { name: all, replicas: 4, engine: { use: mock, config: { totalBlocks: 2048, maxModelTokens: 65536, vocabSize: 1024 } } }
`;
const trace = [...syntheticTrace({ kind: 'steady', durationMs: 20_000, requestsPerSecond: 40, promptTokens: 1_500, outputTokens: 8, sharedShare: 0.8, prefixes: 60 }, 16, new SeededRandom(3))];

async function tuned(changes: Partial<TuneOptions> = {}): Promise<Awaited<ReturnType<typeof tune>>> {
  const overlap = { path: ['router', 'config', 'overlapCredit'], use: 'kv', initial: 1, values: [0, 1] };
  return tune({ text, trace, settings: await loadSettings(), plugins, objective: { ttftMs: 500, itlMs: 50 }, goal: 'ttft', seeds: [1, 2, 3], tunables: [overlap], ...changes });
}

describe('tune', () => {
  it('finds that cached blocks are worth something, and how sure it is; the same twice', async () => {
    const result = await tuned();
    console.log(JSON.stringify(result.trials), result.before);
    expect(result.changes).toEqual([{ path: 'models[0].router.config.overlapCredit', from: 0, to: 1 }]);
    expect(result.change.high).toBeLessThan(0);
    expect(result.change.low).toBeLessThan(result.change.mean);
    expect(result.after).toBeLessThan(result.before);
    expect(parse(result.text)).toMatchObject({ models: [{ router: { use: 'kv', config: { overlapCredit: 1 } } }] });
    expect(result.simulations).toBe(6);
    expect(await tuned()).toEqual(result);
  }, 120_000);

  it('proposes nothing that changes nothing, and tries nothing of a plug-in that the file does not use', async () => {
    const idle = { path: ['router', 'config', 'predictSeconds'], use: 'kv', initial: 5, values: [6] };
    const threshold = { path: ['disaggregation', 'config', 'maxLocalTokens'], use: 'conditional', initial: 2_048, values: [1, 2] };
    const result = await tuned({ tunables: [idle, threshold] });
    expect(result.changes).toEqual([]);
    expect(result.text).toBe(text);
    expect(result.trials.map(({ path }) => path)).toEqual(['models[0].router.config.predictSeconds']);
  }, 120_000);

  it('needs two seeds', async () => {
    await expect(tuned({ seeds: [1] })).rejects.toMatchObject({ code: 'TUNE_SEEDS_MISSING' });
  });
});
