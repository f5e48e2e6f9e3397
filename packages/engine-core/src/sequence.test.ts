import type { EngineRequest } from '@armature/contracts';
import { saltHash, sequenceHashes } from '@armature/tokens';
import { expect, test } from 'vitest';
import type { RequestGroup } from './request-group.ts';
import { Sequence } from './sequence.ts';
import { StepColumns } from './step-columns.ts';

function source(seed: number): (bound: number) => number {
  let x = seed >>> 0;
  return (bound) => ((x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 8) % bound;
}

function sequenceOf(tokenIds: Int32Array, promptTokens: number, blockSize: number): Sequence {
  const request = { tokenIds, promptTokens, cacheSalt: 's', leg: 'full' } as EngineRequest;
  return new Sequence({ request } as RequestGroup, { choice: 0, blockSize, arrival: 0 });
}

function passOf(...batch: Sequence[]): Sequence[] {
  return batch;
}

/** Sequences beside plain lists of their tokens; passes beside what the lists say a pass holds. */
function history(seed: number, append: (sequence: Sequence, token: number) => void): void {
  const below = source(seed);
  const blockSize = 1 + below(9);
  const given = Int32Array.from({ length: 1 + below(70) }, () => below(1_000));
  const before = given.slice();
  const tokens = [...given];
  const promptTokens = 1 + below(given.length);
  const sequence = sequenceOf(given, promptTokens, blockSize);
  const columns = new StepColumns(4, 1_024, 600);
  for (let step = 0; step < 400; step++) {
    const token = below(1_000);
    append(sequence, token);
    tokens.push(token);
    if (step % 7 > 0) continue;
    const where = `seed ${seed}, step ${step}`;
    expect(sequence.length, where).toBe(tokens.length);
    expect(sequence.tokenAt(tokens.length - 1), where).toBe(token);
    expect([...sequence.outputTokens()], where).toEqual(tokens.slice(promptTokens));
    expect([...sequence.hashes], where).toEqual([...sequenceHashes(Int32Array.from(tokens), tokens.length, blockSize, saltHash({ cacheSalt: 's', lora: '' }))]);
    sequence.computed = below(tokens.length);
    sequence.scheduled = Math.min(tokens.length - sequence.computed, 1 + below(500));
    columns.fill(passOf(sequence, sequence), true);
    const pass = tokens.slice(sequence.computed, sequence.computed + sequence.scheduled);
    expect([...columns.tokenIds.subarray(0, 2 * pass.length)], where).toEqual([...pass, ...pass]);
  }
  expect(given, 'the request was changed').toEqual(before);
}

test.each([1, 2, 3, 4, 5, 6])('tokens given and made read as one list, by hash, by pass, and one by one (seed %i)', (seed) => {
  history(seed, (sequence, token) => sequence.append(token));
});

test('sabotage: a token that is lost is seen', () => {
  let count = 0;
  expect(() => history(1, (sequence, token) => sequence.append(++count === 200 ? token + 1 : token))).toThrow(/seed 1/);
});

test('the block table grows with the passes, and rows are those of the pass', () => {
  const columns = new StepColumns(64, 4_096, 5);
  const first = columns.blockTable.length;
  const batch = Array.from({ length: 41 }, (_, i) => {
    const sequence = sequenceOf(Int32Array.of(1, 2, 3), 3, 2);
    for (let b = 0; b < 1 + (i % 5); b++) sequence.addBlock(100 * i + b);
    sequence.scheduled = 3;
    return sequence;
  });
  columns.fill(batch, true);
  expect(columns.blockTable.length).toBeGreaterThan(first);
  expect(columns.blockTable.length).toBeLessThanOrEqual(64 * 5);
  for (let i = 0; i < batch.length; i++) for (let b = 0; b < 1 + (i % 5); b++) expect(columns.blockTable[i * 5 + b]).toBe(100 * i + b);
});
