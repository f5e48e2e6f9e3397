import OpenAI, { InternalServerError, RateLimitError } from 'openai';
import type { APIError } from 'openai';
import { afterEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '@armature/core';
import { collect, emptyOutput, metric, modelOf, request, start, stopAfter } from './support/in-process.ts';
import type { App, Output } from './support/in-process.ts';
import { testRandom } from './support/random.ts';

// One mock worker that computes one prompt at a time (any prompt makes it busy), each for 25 ms, behind the real HTTP frontend.
const yaml = (queue: string): string => `
apiVersion: armature/v1
frontend: { use: openai, config: { port: 0 } }
requests: { use: memory, config: { encode: true } }
events: { use: memory, config: { encode: true } }
models:
  - name: demo
    source: "@armature/model-demo"
    ${queue === '' ? '' : `queue: { prefillTokens: 0, ${queue} }`}
    workers:
      - { name: worker, engine: { use: mock, config: { vocabSize: 1024, maxModelTokens: 4096, prefillCoefficients: [0, 0, 25] } } }
`;

let app: App | undefined;
afterEach(async () => {
  await app?.close(1_000);
  app = undefined;
});

async function serve(queue: string): Promise<{ readonly app: App; readonly ask: (tenant?: string, options?: object, maxRetries?: number) => Promise<unknown> }> {
  const running = await start(yaml(queue));
  app = running;
  const { url } = running.deployment.summary();
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none' });
  let asked = 0;
  const ask = (tenant = '', options: object = {}, maxRetries = 0): Promise<unknown> =>
    client.completions.create(
      { model: 'demo', prompt: Array.from({ length: 40 }, (_, i) => (i * 7 + ++asked * 13) % 1000), max_tokens: 1 },
      { maxRetries, headers: tenant === '' ? {} : { 'x-tenant-id': tenant }, ...options },
    );
  return { app: running, ask };
}

async function until(holds: () => Promise<boolean>, what: string): Promise<void> {
  for (let tries = 0; !(await holds()); tries++) {
    if (tries === 2_000) throw new Error(`it never came about that ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function failuresOf(work: readonly Promise<unknown>[]): Promise<APIError[]> {
  const settled = await Promise.allSettled(work);
  return settled.flatMap((one) => (one.status === 'rejected' ? [one.reason as APIError] : []));
}

describe('a queue in front of the workers, seen by an OpenAI client', () => {
  it('that is full answers 529, that of one tenant 429, both with Retry-After; who comes back is served', async () => {
    const t = await serve('maxRequests: 6, maxTenantRequests: 2');
    const own = await failuresOf(Array.from({ length: 8 }, () => t.ask('greedy')));
    expect(own.length).toBeGreaterThan(0);
    for (const error of own) {
      expect(error).toBeInstanceOf(RateLimitError);
      expect([error.status, error.code, error.type]).toEqual([429, 'SERVING_TENANT_QUEUE_FULL', 'rate_limit_error']);
      expect(Number(error.headers?.get('retry-after'))).toBeGreaterThanOrEqual(1);
    }
    expect(await metric(t.app, 'armature_queue_rejections_total')).toBe(own.length);
    const all = await failuresOf(Array.from({ length: 20 }, (_, i) => t.ask(`tenant${i}`)));
    expect(all.length).toBeGreaterThan(0);
    for (const error of all) {
      expect(error).toBeInstanceOf(InternalServerError);
      expect([error.status, error.code, error.type]).toEqual([529, 'SERVING_QUEUE_FULL', 'overloaded_error']);
      expect(Number(error.headers?.get('retry-after'))).toBeGreaterThanOrEqual(1);
    }
    const before = await metric(t.app, 'armature_queue_rejections_total');
    expect(await failuresOf(Array.from({ length: 12 }, (_, i) => t.ask(`again${i}`, {}, 10)))).toEqual([]);
    expect(await metric(t.app, 'armature_queue_rejections_total')).toBeGreaterThan(before);
    expect(await metric(t.app, 'armature_queue_requests')).toBe(0);
  });

  it('gives a light tenant its share in turns, which first come, first served does not', async () => {
    const heavyBeforeLight = async (order: string): Promise<number> => {
      const t = await serve(`order: ${order}, quantumTokens: 40`);
      const finished: string[] = [];
      const ask = (tenant: string): Promise<unknown> => t.ask(tenant).then(() => finished.push(tenant));
      const work = Array.from({ length: 60 }, () => ask('heavy'));
      await until(async () => (await metric(t.app, 'armature_queue_requests')) > 40, 'the heavy tenant waits');
      work.push(...Array.from({ length: 5 }, () => ask('light')));
      await until(async () => (await metric(t.app, 'armature_queue_tenants')) === 2, 'the light tenant waits too');
      const ahead = finished.length;
      await Promise.all(work);
      await t.app.close(1_000);
      return finished.lastIndexOf('light') - 4 - ahead;
    };
    expect(await heavyBeforeLight('drr')).toBeLessThan(15); // 5 turns each, and what ran
    expect(await heavyBeforeLight('fcfs')).toBeGreaterThan(15);
  });

  it('forgets a client that leaves while it waits', async () => {
    const t = await serve('maxRequests: 100');
    const leaving = new AbortController();
    const stay = Array.from({ length: 20 }, () => t.ask());
    const left = Array.from({ length: 10 }, () => t.ask('', { signal: leaving.signal }));
    await until(async () => (await metric(t.app, 'armature_queue_parked_total')) === 29, 'all but the first had to wait');
    leaving.abort();
    expect((await failuresOf(left)).length).toBeGreaterThan(0);
    expect(await failuresOf(stay)).toEqual([]);
    await until(async () => (await metric(t.app, 'armature_queue_requests')) === 0, 'the queue is empty');
    const text = await t.app.metrics.text();
    expect(text).toMatch(/armature_queue_exits_total\{model="demo",outcome="left"\} [1-9]/);
    expect(text).not.toMatch(/armature_queue_exits_total\{model="demo",outcome="admitted-by-scan"\} [1-9]/); // by events, not by looking
  });

  it('tells who waits to go elsewhere when the server closes, and lets what runs end', async () => {
    const t = await serve('maxRequests: 100');
    const work = Array.from({ length: 20 }, () => t.ask());
    await until(async () => (await metric(t.app, 'armature_queue_parked_total')) === 19, 'all but the first had to wait');
    const closing = t.app.close(5_000);
    const failures = await failuresOf(work);
    await closing;
    expect(failures.length).toBeGreaterThan(0);
    for (const error of failures) expect([error.status, error.headers?.get('retry-after')]).toEqual([503, '1']);
    expect(failures.map((error) => error.code)).toContain('SERVING_QUEUE_DRAINING');
    expect(failures.length).toBeLessThan(20);
  });

  it('is not there unless it is configured', async () => {
    const t = await serve('');
    expect(await failuresOf(Array.from({ length: 30 }, () => t.ask('one')))).toEqual([]);
    expect(await t.app.metrics.text()).not.toContain('armature_queue_');
  });

  it('without a threshold is refused by the config check', async () => {
    await expect(start(yaml('maxRequests: 1').replace('prefillTokens: 0, ', ''))).rejects.toMatchObject({ message: expect.stringContaining('no threshold') as string });
  });
});

describe('a queue in front of prefill and decode workers under virtual time', () => {
  const pools = `
apiVersion: armature/v1
requests: { use: memory, config: { encode: true } }
events: { use: memory, config: { encode: true } }
models:
  - name: demo
    source: "@armature/model-demo"
    queue: { prefillFraction: 0.5, kvBlocksFraction: 0.5, order: drr, quantumTokens: 512, maxRequests: 10000 }
    workers:
      - { name: prefill, role: prefill, replicas: 2, engine: { use: mock, config: { vocabSize: 1024, maxModelTokens: 4096, totalBlocks: 2048, maxBatchedTokens: 1024 } } }
      - { name: decode, role: decode, replicas: 2, engine: { use: mock, config: { vocabSize: 1024, maxModelTokens: 4096, totalBlocks: 1024 } } }
`;

  it('admits everybody by events alone, cancels without residue, and is the same for a seed', async () => {
    const simulate = async (seed: number) => {
      const clock = new VirtualClock();
      app = await start(pools, { clock, seed });
      const model = modelOf(app);
      const random = testRandom(seed);
      const outputs: Output[] = [];
      let history = '';
      for (let i = 0; i < 400; i++) {
        const output = emptyOutput(1);
        outputs.push(output);
        const prompt = Int32Array.from({ length: 100 + random.below(900) }, () => random.below(1000));
        const inference = request(prompt, { id: `r${i}`, cacheSalt: `tenant${random.below(3)}`, stop: stopAfter(1 + random.below(30), { ignoreEos: true }), deadlineMs: 1e9 });
        const leavesAfterMs = random.below(10) === 0 ? random.below(500) : undefined;
        clock.setTimer(random.below(2_000), () => {
          const handle = model.execute(inference, collect(output, () => (history += `${i}@${clock.nowMs()};`)));
          if (leavesAfterMs !== undefined) clock.setTimer(leavesAfterMs, () => handle.cancel());
        });
      }
      await clock.runUntilIdle();
      const text = await app.metrics.text();
      const exits = (outcome: string): number => Number(new RegExp(`armature_queue_exits_total\\{model="demo",outcome="${outcome}"\\} (\\d+)`).exec(text)?.[1]);
      const result = {
        history,
        endedOnce: outputs.filter((output) => output.ends === 1 && output.end?.type !== 'failed').length,
        parked: await metric(app, 'armature_queue_parked_total'),
        admitted: exits('admitted'),
        byScan: exits('admitted-by-scan'),
        left: exits('left'),
        waiting: await metric(app, 'armature_queue_requests'),
      };
      const closing = app.close(1_000);
      await clock.runUntilIdle();
      await closing;
      return result;
    };
    const first = await simulate(7);
    expect(first).toMatchObject({ endedOnce: 400, byScan: 0, waiting: 0 });
    expect(first.parked).toBeGreaterThan(200);
    expect(first.left).toBeGreaterThan(0);
    expect(first.admitted + first.left).toBe(first.parked);
    expect(await simulate(7)).toEqual(first);
  }, 60_000);
});
