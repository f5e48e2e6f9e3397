import { ArmatureError } from '@armature/contracts';
import { afterEach, describe, expect, it } from 'vitest';
import { Checkpoint } from './checkpoint/checkpoint.ts';
import { argmax } from './reference/ops.ts';
import { ReferenceLlama } from './reference/llama.ts';
import { ReferenceRunner } from './reference-runner.ts';
import type { ReferenceRunnerOptions } from './reference-runner.ts';
import type { SamplingSetup, StepBatch, StepResult } from '@armature/engine-core';
import { directBatch } from './testing/direct-runner.ts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { writeCheckpoint } from './testing/write-checkpoint.ts';

const open: ReferenceRunner[] = [];

function runnerFor(folder: string, options: Partial<ReferenceRunnerOptions> = {}): ReferenceRunner {
  const runner = new ReferenceRunner({
    folder,
    modelName: 'random',
    blockSize: 8,
    totalBlocks: 64,
    maxSequences: 4,
    maxBatchedTokens: 64,
    startTimeoutMs: 20_000,
    stepTimeoutMs: 10_000,
    closeTimeoutMs: 2_000,
    clock: realClock,
    ...options,
  });
  open.push(runner);
  return runner;
}

afterEach(async () => {
  await Promise.all(open.splice(0).map((runner) => runner.close()));
});

function setup(slot: number, overrides: Partial<SamplingSetup> = {}): SamplingSetup {
  return {
    slot,
    choice: 0,
    temperature: 0,
    topP: 1,
    topK: 0,
    minP: 0,
    seedLo: 1,
    seedHi: 0,
    frequencyPenalty: 0,
    presencePenalty: 0,
    repetitionPenalty: 1,
    biasTokenIds: new Int32Array(0),
    biasValues: new Float32Array(0),
    topLogprobs: -1,
    promptTokenIds: new Int32Array(0),
    outputTokenIds: new Int32Array(0),
    minTokens: 0,
    bannedBeforeMinTokens: new Int32Array(0),
    ...overrides,
  };
}

function step(runner: ReferenceRunner, batch: StepBatch): Promise<StepResult> {
  return new Promise((resolve, reject) => runner.step(batch, (result, error) => (result === undefined ? reject(ArmatureError.fromData(error!)) : resolve(result))));
}

const tokens = [5, 9, 60, 2, 41, 41, 7, 30, 12];
const blocks = [3, 1, 2];
/** 2 layers, keys and values, 2 heads of 8, 8 tokens, f32. */
const BLOCK_BYTES = 2 * 2 * 2 * 8 * 8 * 4;

describe('ReferenceRunner', () => {
  it('generates in its thread what the plain model generates', async () => {
    const folder = writeCheckpoint();
    const runner = runnerFor(folder);
    expect(runner.info).toMatchObject({ vocabSize: 77, maxModelTokens: 128, eosTokenIds: [3], blockSize: 8, totalBlocks: 64, });
    await runner.start();
    expect(runner.info.modelFingerprint).toMatch(/^[0-9a-f]{32}$/);
    const plain = new ReferenceLlama(Checkpoint.open(folder));
    let expected = -1;
    for (const token of tokens) expected = argmax(plain.next(token));
    runner.openSequence(setup(2, { topLogprobs: 2 }));
    const said: number[] = [];
    for (let i = 0; i < 8; i++) {
      const sequence = i === 0 ? { tokens, context: 0, blocks, samples: true } : { tokens: [said[i - 1]!], context: tokens.length + i - 1, blocks, samples: true };
      const result = await step(runner, { ...directBatch([sequence], 16), slots: Int32Array.of(2), outputIndexes: Int32Array.of(i) });
      expect(result.tokenIds[0]).toBe(expected);
      expect(result.topTokenIds[0]).toBe(expected);
      expect(result.topLogprobs[0]).toBe(result.logprobs[0]);
      expect(result.topTokenIds[2]).toBe(-1);
      said.push(expected);
      expected = argmax(plain.next(expected));
    }
    runner.closeSequence(2);
    await expect(step(runner, { ...directBatch([{ tokens, context: 0, blocks, samples: true }], 16), slots: Int32Array.of(2) })).rejects.toMatchObject({ code: 'ENGINE_STEP_INVALID' });
    expect(runner.failure()).toBeUndefined();
  });

  it('draws the same tokens whatever else is in the batch', async () => {
    const runner = runnerFor(writeCheckpoint());
    await runner.start();
    const sampled = setup(0, { temperature: 1.3, topP: 0.95, seedLo: 77 });
    const one = { tokens, context: 0, blocks, samples: true };
    runner.openSequence(sampled);
    const alone = (await step(runner, { ...directBatch([one], 16), outputIndexes: Int32Array.of(4) })).tokenIds[0];
    runner.openSequence(setup(1));
    const other = { tokens: [8, 9], context: 0, blocks: [9], samples: true };
    const mixed = await step(runner, { ...directBatch([other, { ...one, blocks: [7, 6] }], 16), slots: Int32Array.of(1, 0), outputIndexes: Int32Array.of(0, 4) });
    expect(mixed.tokenIds[1]).toBe(alone);
  });

  it('shows its KV arena: a copied block serves another sequence, an overwritten one does not', async () => {
    const runner = runnerFor(writeCheckpoint());
    await runner.start();
    const arena = runner.arena();
    expect((arena.segments[0]!.wasm as { buffer?: unknown }).buffer).toBe(arena.segments[0]!.buffer); // checksums are computed in place
    expect(arena.segments[0]!.lengthBytes).toBe(64 * BLOCK_BYTES);
    expect(arena).toMatchObject({ pieces: 1, pieceBytes: BLOCK_BYTES, blockStrideBytes: BLOCK_BYTES });
    runner.openSequence(setup(0, { topLogprobs: 0 }));
    const last = (block: number): Promise<StepResult> => step(runner, directBatch([{ tokens: tokens.slice(8), context: 8, blocks: [block, 20], samples: true }], 16));
    await step(runner, directBatch([{ tokens: tokens.slice(0, 8), context: 0, blocks: [3], samples: false }], 16));
    const logprob = (await last(3)).logprobs[0];
    const bytes = new Uint8Array(arena.segments[0]!.buffer, arena.segments[0]!.byteOffset, arena.segments[0]!.lengthBytes);
    bytes.copyWithin(11 * BLOCK_BYTES, 3 * BLOCK_BYTES, 4 * BLOCK_BYTES);
    expect((await last(11)).logprobs[0]).toBe(logprob);
    bytes.fill(63, 11 * BLOCK_BYTES, 12 * BLOCK_BYTES);
    expect((await last(11)).logprobs[0]).not.toBe(logprob);
  });

  it('has one layout fingerprint per model and layout', async () => {
    const folder = writeCheckpoint();
    const [a, b, c] = [runnerFor(folder), runnerFor(folder, { totalBlocks: 9, maxSequences: 1 }), runnerFor(folder, { blockSize: 16 })];
    await Promise.all([a.start(), b.start(), c.start()]);
    expect(b.arena().layoutFingerprint).toBe(a.arena().layoutFingerprint);
    expect(c.arena().layoutFingerprint).not.toBe(a.arena().layoutFingerprint);
  });

  it.each([
    ['a block outside the arena', { blocks: [64, 0] }],
    ['a token outside the vocabulary', { tokens: [77] }],
    ['more tokens than the model has positions for', { context: 128 }],
    ['no tokens', { tokens: [] }],
  ])('refuses %s and goes on', async (_, wrong) => {
    const runner = runnerFor(writeCheckpoint());
    await runner.start();
    runner.openSequence(setup(0));
    const good = { tokens, context: 0, blocks, samples: true };
    await expect(step(runner, directBatch([{ ...good, ...wrong }], 17))).rejects.toMatchObject({ code: 'ENGINE_STEP_INVALID' });
    await expect(step(runner, directBatch([good], 16))).resolves.toBeDefined();
  });

  it('refuses at construction what cannot fit, and names it', () => {
    const folder = writeCheckpoint();
    const code = (options: Partial<ReferenceRunnerOptions>): unknown => {
      try {
        runnerFor(folder, options);
        return 'nothing thrown';
      } catch (error) {
        return (error as { code: string }).code;
      }
    };
    expect(code({ totalBlocks: 3_000_000 })).toBe('ENGINE_MEMORY_LIMIT');
    expect(code({ blockSize: 6 })).toBe('ENGINE_CONFIG_INVALID');
    expect(code({ maxModelTokens: 129 })).toBe('ENGINE_CONFIG_INVALID');
    expect(code({ totalBlocks: 0 })).toBe('ENGINE_CONFIG_INVALID');
  });

  it('a crashed thread ends the running step with an error and makes the runner unhealthy', async () => {
    const runner = runnerFor(writeCheckpoint());
    await runner.start();
    let failures = 0;
    runner.onFailure(() => failures++);
    runner.openSequence({ slot: 0 } as SamplingSetup); // not a setup: throws in the thread
    const batch = directBatch([{ tokens, context: 0, blocks, samples: true }], 16);
    await expect(step(runner, batch)).rejects.toMatchObject({ code: 'ENGINE_THREAD_DIED', retryable: true });
    await expect(step(runner, batch)).rejects.toMatchObject({ code: 'ENGINE_THREAD_DIED' });
    expect(failures).toBe(1);
  });

  it('a thread that takes too long counts as dead', async () => {
    const runner = runnerFor(writeCheckpoint(), { stepTimeoutMs: 1 });
    await runner.start();
    let failures = 0;
    runner.onFailure(() => failures++);
    runner.openSequence(setup(0));
    // Steps here take about as long as the timer: repeat until one is late.
    const batch = directBatch([{ tokens: Array.from({ length: 64 }, (_, i) => i), context: 0, blocks: [0, 1, 2, 3, 4, 5, 6, 7], samples: true }], 16);
    const late = async (): Promise<void> => {
      for (let i = 0; i < 2000; i++) await step(runner, batch);
    };
    await expect(late()).rejects.toMatchObject({ code: 'ENGINE_STEP_TIMEOUT', retryable: true });
    expect(runner.failure()).toMatchObject({ code: 'ENGINE_STEP_TIMEOUT' });
    expect(failures).toBe(1);
    await expect(step(runner, batch)).rejects.toMatchObject({ code: 'ENGINE_STEP_TIMEOUT' });
  });

  it('close ends a running step and is idempotent; start failures are errors', async () => {
    const folder = writeCheckpoint();
    const runner = runnerFor(folder);
    await runner.start();
    runner.openSequence(setup(0));
    const running = step(runner, directBatch([{ tokens, context: 0, blocks, samples: true }], 16)).then(
      () => 'done',
      (error: { code: string }) => error.code,
    );
    await Promise.all([runner.close(), runner.close()]);
    expect(['done', 'ENGINE_CLOSED']).toContain(await running);
    const late = runnerFor(folder, { startTimeoutMs: 0 });
    await expect(late.start()).rejects.toMatchObject({ code: 'ENGINE_START_TIMEOUT' });
  });
});
