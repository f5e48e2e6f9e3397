import { SystemClock } from '@armature/core';
import { MemoryTransport } from '@armature/nixel';
import { describe, expect, it } from 'vitest';
import { conversations } from './support/conversations.ts';
import { greedy, metric, modelOf, request, run, start, stopAfter } from './support/in-process.ts';
import type { App, Output } from './support/in-process.ts';

const CONVERSATIONS = 200;
const SEED = 20261123;

const yaml = (workers: string): string => `
apiVersion: armature/v1
requests: { use: memory, config: { encode: true } }
events: { use: memory, config: { encode: true } }
discovery: { use: memory, config: { encode: true } }
models:
  - name: demo
    source: "@armature/model-demo"
    workers:
${workers}`;
const aggregated = yaml('      - { name: worker, replicas: 2, engine: { use: reference } }\n');
const split = yaml('      - { name: prefill, role: prefill, replicas: 2, engine: { use: reference } }\n      - { name: decode, role: decode, replicas: 2, engine: { use: reference } }\n');

/** Every other conversation is sampled, the rest greedy; a few have two choices. */
async function answers(app: App): Promise<Output[]> {
  const model = modelOf(app);
  const prompts = conversations(CONVERSATIONS, SEED).map(
    (messages) => model.preprocessor.encodeChat({ messages, addGenerationPrompt: true, continueFinalMessage: false }).tokenIds,
  );
  const outputs: Output[] = [];
  const atOnce = 8;
  for (let i = 0; i < prompts.length; i += atOnce) {
    const batch = prompts.slice(i, i + atOnce).map((tokens, k) => {
      const n = i + k;
      const sampling = { ...greedy, topLogprobs: 0, ...(n % 2 === 1 ? { temperature: 0.8, seedLo: n } : {}) };
      return run(model, request(tokens, { sampling, stop: stopAfter(16), choices: n % 10 === 9 ? 2 : 1 }));
    });
    outputs.push(...(await Promise.all(batch)));
  }
  return outputs;
}

const different = (a: readonly Output[], b: readonly Output[]): number[] =>
  a.flatMap((output, i) => {
    const other = b[i];
    const same = JSON.stringify([output.tokens, output.logprobs, output.finish]) === JSON.stringify([other?.tokens, other?.logprobs, other?.finish]);
    return same ? [] : [i];
  });

describe(`disaggregated equals aggregated bit for bit (${CONVERSATIONS} conversations, seed ${SEED})`, () => {
  let expected: Output[];

  it('aggregated', async () => {
    const app = await start(aggregated);
    expected = await answers(app);
    await app.close(1_000);
    expect(expected.every((output) => output.end?.type === 'finished' && output.ends === 1)).toBe(true);
  }, 120_000);

  it('disaggregated: identical tokens and logprobs; every prefill was remote; blocks moved', async () => {
    const app = await start(split);
    const got = await answers(app);
    const remote = await metric(app, 'armature_remote_prefills_total');
    const moved = await metric(app, 'armature_kv_transfer_blocks_total');
    const failures = await metric(app, 'armature_kv_transfer_failures_total');
    await app.close(1_000);
    expect(remote).toBe(CONVERSATIONS);
    expect(moved).toBeGreaterThan(CONVERSATIONS);
    expect(failures).toBe(0);
    expect(different(expected, got)).toEqual([]);
  }, 120_000);

  it('sabotage: one byte flipped in each transfer is seen', async () => {
    let flipped = 0;
    const flipping = new MemoryTransport({
      clock: new SystemClock(),
      tap: (bytes) => {
        const at = (bytes.length >> 3) * 4 + 3; // sign and exponent of a float in the middle
        bytes[at] = (bytes[at] as number) ^ 0x40;
        flipped++;
      },
    });
    const app = await start(split, { overrides: { 'transfer-transport': flipping } });
    const got = await answers(app);
    const failures = await metric(app, 'armature_kv_transfer_failures_total');
    await app.close(1_000);
    expect(failures).toBe(0);
    expect(flipped).toBeGreaterThan(0);
    expect(different(expected, got).length).toBeGreaterThan(0);
  }, 120_000);
});
