import { createHash } from 'node:crypto';
import { VirtualClock } from '@armature/core';
import { describe, expect, it } from 'vitest';
import { collect, emptyOutput, metric, modelOf, request, start, stopAfter } from './support/in-process.ts';
import type { Output } from './support/in-process.ts';
import { testRandom } from './support/random.ts';

const REQUESTS = 1_000;

const yaml = `
apiVersion: armature/v1
requests: { use: memory, config: { encode: true } }
events: { use: memory, config: { encode: true } }
models:
  - name: demo
    source: "@armature/model-demo"
    blockSize: 16
    workers:
      - { name: prefill, role: prefill, replicas: 3, engine: { use: mock, config: { vocabSize: 1024, maxModelTokens: 4096, totalBlocks: 2048 } } }
      - { name: decode, role: decode, replicas: 3, engine: { use: mock, config: { vocabSize: 1024, maxModelTokens: 4096, totalBlocks: 2048 } } }
`;

interface History {
  readonly digest: string;
  readonly remote: number;
  readonly moved: number;
  readonly finished: number;
  readonly virtualMs: number;
}

/** 1,000 requests with Poisson-like arrivals over shared prefixes, all under virtual time. The digest covers every token and its time. */
async function simulate(seed: number): Promise<History> {
  const clock = new VirtualClock();
  const app = await start(yaml, { clock, seed });
  const model = modelOf(app);
  const random = testRandom(seed);
  const hash = createHash('sha256');
  const outputs: Output[] = [];
  let at = 0;
  for (let i = 0; i < REQUESTS; i++) {
    at += -Math.log(1 - random.next()) * 20;
    const prefix = random.below(16);
    const prompt = Int32Array.from({ length: 64 + random.below(400) }, (_, k) => (k < 256 ? (prefix * 31 + k * 7) % 1000 : random.below(1000)));
    const output = emptyOutput(1);
    outputs.push(output);
    clock.setTimer(at, () => {
      const sink = collect(output, () => hash.update(`end ${i} ${clock.nowMs()} ${JSON.stringify(output.end)}\n`));
      model.execute(request(prompt, { id: `r${i}`, stop: stopAfter(1 + (i % 40), { ignoreEos: true }), deadlineMs: 1e9 }), {
        end: sink.end,
        tokens: (batch) => {
          hash.update(`${i} ${clock.nowMs()} ${[...batch.tokenIds.subarray(0, batch.count)].join(',')}\n`);
          sink.tokens(batch);
        },
      });
    });
  }
  await clock.runUntilIdle();
  const history = {
    digest: '',
    remote: await metric(app, 'armature_remote_prefills_total'),
    moved: await metric(app, 'armature_kv_transfer_blocks_total'),
    finished: outputs.filter((output) => output.end?.type === 'finished' && output.ends === 1).length,
    virtualMs: clock.nowMs(),
  };
  const closing = app.close(1_000);
  await clock.runUntilIdle();
  await closing;
  return { ...history, digest: hash.digest('hex') };
}

describe('the production router, serving and mock engine under virtual time', () => {
  it(`runs ${REQUESTS} requests byte for byte the same for a seed`, async () => {
    const first = await simulate(42);
    expect(first.finished).toBe(REQUESTS);
    expect(first.remote).toBe(REQUESTS);
    expect(first.moved).toBeGreaterThan(REQUESTS);
    expect(first.virtualMs).toBeGreaterThan(10_000);
    const second = await simulate(42);
    expect(second).toEqual(first);
    const other = await simulate(43);
    expect(other.digest).not.toBe(first.digest);
  }, 120_000);
});
