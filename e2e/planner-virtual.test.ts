import { definePlugin } from '@armature/contracts';
import type { PluginDescriptor, ScalingConnector, ScalingOrder } from '@armature/contracts';
import { VirtualClock } from '@armature/core';
import type { TickRecord } from '@armature/planner';
import type { ServingDeployment } from '@armature/serving';
import { describe, expect, it } from 'vitest';
import { collect, emptyOutput, modelOf, request, start, stopAfter } from './support/in-process.ts';
import type { App, Output } from './support/in-process.ts';
import { testRandom } from './support/random.ts';

/** Prefill and decode pools of one process; the planner sees what real frontends and workers report. */
const yaml = `
apiVersion: armature/v1
requests: { use: memory, config: { encode: true } }
events: { use: memory, config: { encode: true } }
discovery: { use: memory, config: { encode: true } }
planner:
  connector: { use: in-process }
  models: [{ model: demo, policy: { use: sla, config: { caution: 0.5 } }, intervalMs: 5000, constraints: { stabilisationTicks: 6 } }]
models:
  - name: demo
    source: "@armature/model-demo"
    blockSize: 16
    objective: { ttftMs: 1000, itlMs: 25 }
    disaggregation: { use: conditional, config: { maxLocalTokens: 16 } }
    workers:
      - { name: prefill, role: prefill, replicas: 1, maxReplicas: 6, startupMs: 4000, engine: { use: mock, config: &mock { vocabSize: 1024, maxModelTokens: 4096, totalBlocks: 1024, maxSequences: 64 } } }
      - { name: decode, role: decode, replicas: 1, maxReplicas: 6, startupMs: 4000, engine: { use: mock, config: *mock } }
`;

/** Workers of this very process, which take four seconds to start. */
class InProcess implements ScalingConnector {
  readonly #clock: VirtualClock;
  readonly #deployment: () => ServingDeployment;
  #order: ScalingOrder | undefined = undefined;
  failures = 0;

  constructor(clock: VirtualClock, deployment: () => ServingDeployment) {
    this.#clock = clock;
    this.#deployment = deployment;
  }

  async apply(order: ScalingOrder): Promise<void> {
    this.#order = order;
    for (const { pool, replicas } of order.pools) {
      const live = this.#deployment().localWorkers(order.model).filter((worker) => worker.pool === pool).map(({ index }) => index);
      for (const index of live.sort((a, b) => b - a)) if (index >= replicas) void this.#deployment().stopWorker(order.model, pool, index, 30_000).catch(() => this.failures++);
      for (let index = 0; index < replicas; index++) if (!live.includes(index)) this.#clock.setTimer(4_000, () => void this.#start(order.model, pool, index));
    }
  }
  status(): { revision: number; state: 'unknown' } {
    return { revision: this.#order?.revision ?? 0, state: 'unknown' };
  }
  async current(): Promise<ScalingOrder | undefined> {
    return this.#order;
  }
  async #start(model: string, pool: string, index: number): Promise<void> {
    const isWanted = (this.#order?.pools.find((entry) => entry.pool === pool)?.replicas ?? 0) > index;
    const isThere = this.#deployment().localWorkers(model).some((worker) => worker.pool === pool && worker.index === index);
    if (isWanted && !isThere) await this.#deployment().startWorker(model, pool, index).catch(() => this.failures++);
  }
}

interface Run {
  readonly ticks: readonly TickRecord[];
  readonly outputs: readonly Output[];
  readonly failures: number;
}

/** Two minutes: load 4 per second, then 16, then 2; and one to calm down. */
async function simulate(seed: number, untilMs = 180_000): Promise<Run> {
  const clock = new VirtualClock();
  let app: App | undefined = undefined;
  const connector = new InProcess(clock, () => (app as unknown as App).deployment as unknown as ServingDeployment);
  const plugin = definePlugin<'scaling-connector', object>({ kind: 'scaling-connector', contract: 'v1', name: 'in-process', description: 'Workers of this process.', configSchema: { type: 'object', properties: {} }, create: () => connector });
  app = await start(yaml, { clock, seed, plugins: [plugin as unknown as PluginDescriptor] });
  const model = modelOf(app);
  const random = testRandom(seed);
  const outputs: Output[] = [];
  const rate = (at: number): number => (at < 40_000 ? 4 : at < 80_000 ? 16 : 2);
  for (let at = 0, i = 0; at < 120_000; at += (-Math.log(1 - random.next()) * 1_000) / rate(at), i++) {
    const prompt = Int32Array.from({ length: 600 + random.below(200) }, () => random.below(1_000));
    const output = emptyOutput(1);
    outputs.push(output);
    clock.setTimer(at, () => void model.execute(request(prompt, { id: `r${i}`, stop: stopAfter(60, { ignoreEos: true }), deadlineMs: 1e9 }), collect(output, () => undefined)));
  }
  await clock.runUntilIdle({ untilMs });
  const { body } = await app.admin.handle('/planner/ticks', new URLSearchParams({ limit: '1000' }));
  const closing = app.close(1_000);
  await clock.runUntilIdle({ untilMs: untilMs + 60_000 });
  await closing;
  return { ticks: (JSON.parse(body) as TickRecord[]).reverse(), outputs, failures: connector.failures };
}

describe('the planner in a whole cluster under virtual time', () => {
  it('sizes prefill and decode by what frontends and engines report, loses no request, and does the same again', async () => {
    const { ticks, outputs, failures } = await simulate(7);
    expect(outputs.filter(({ end, ends }) => end?.type !== 'finished' || ends !== 1)).toEqual([]);
    expect([failures, ticks.length]).toEqual([0, 36]);
    const workers = (from: number, to: number): number[] => ticks.slice(from, to).map(({ inputs }) => inputs.pools.reduce((sum, { ready }) => sum + ready, 0));
    expect(Math.max(...workers(5, 8))).toBeLessThan(Math.max(...workers(12, 16)));
    expect(workers(35, 36)[0]).toBe(2);
    const busy = ticks[14] as TickRecord;
    expect(busy.inputs.traffic.requestsPerSecond).toBeGreaterThan(10);
    expect(busy.inputs.traffic.promptTokens).toBeGreaterThan(600);
    expect(busy.inputs.thresholdTokens).toBe(16);
    for (const pool of busy.inputs.pools) expect([pool.pool, pool.passes > 0, pool.roleChange, pool.capacity]).toEqual([pool.pool, true, 'live', { kvTokens: 16_384, maxSequences: 64, maxBatchedTokens: 8_192 }]);
    expect(ticks.flatMap(({ problems }) => problems.filter((problem) => /report|stuck|lost/.test(problem)))).toEqual([]);
    // What came of a tick is filled in later.
    const begun = (all: readonly TickRecord[]): object[] => all.slice(0, 12).map((tick) => ({ ...tick, actual: null }));
    expect(begun((await simulate(7, 62_000)).ticks)).toEqual(begun(ticks));
  }, 120_000);
});
