import type { RequestRecord } from '@armature/serving';
import { expect, test } from 'vitest';
import { explainRequest } from './explain.ts';

const record = (kv: RequestRecord['kv']): RequestRecord =>
  ({ requestId: 'r', model: 'm', promptTokens: 100, cachedTokens: 80, outputTokens: 3, ttftMs: 12.34, itlMs: 2, decisions: [], moves: [], disaggregation: undefined, transfer: undefined, ...(kv === undefined ? {} : { kv }) }) as unknown as RequestRecord;
const run = { estimatedMs: 1.26, recomputeMs: 20 } as const;

test('where each run of blocks came from, what was expected, and why not', () => {
  const text = explainRequest(
    record({
      runs: [
        { ...run, source: 'device', fromBlock: 0, blocks: 2, outcome: 'done' },
        { ...run, source: 'host', fromBlock: 2, blocks: 3, tookMs: 0.8, outcome: 'done' },
        { ...run, source: 'peer', fromBlock: 5, blocks: 1, tookMs: 3, outcome: 'late', peer: 'prefill/1@ab12' },
        { ...run, source: 'disk', fromBlock: 6, blocks: 1, outcome: 'not-worth-it' },
        { ...run, source: 'recompute', fromBlock: 6, blocks: 1, outcome: 'done' },
      ],
      onboardedBlocks: 4,
      waitedMs: 3.9,
    }),
  );
  expect(text.split('\n')).toEqual([
    '  kv           blocks 0–1 held by the engine',
    '               blocks 2–4 from host (expected 1.3 ms, took 0.8 ms; computing: 20 ms)',
    '               blocks 5–5 from prefill/1 (expected 1.3 ms, took 3.0 ms; computing: 20 ms) · late',
    '               blocks 6–6 from disk (expected 1.3 ms; computing: 20 ms) · not-worth-it',
    '               blocks 6–6 computed',
    '               4 blocks brought to the engine in 3.9 ms',
    '  tokens       100 prompt, 80 cached, 3 output · TTFT 12 ms · ITL 2.0 ms',
  ]);
});

test('nothing of it without tiers', () => {
  expect(explainRequest(record(undefined))).toBe('  tokens       100 prompt, 80 cached, 3 output · TTFT 12 ms · ITL 2.0 ms');
});

test('each migration: from where to where, why, after what, and the wait it cost', () => {
  const move = { kind: 'request', from: 'decode/1@a', to: 'decode/0@b', code: 'PLANE_DISCONNECTED', choice: undefined, atToken: 17, sinceMs: 5, addedMs: 1031.4 } as const;
  const moves = [move, { ...move, kind: 'decode', from: 'decode/0@b', to: undefined, code: 'SERVING_WORKER_DRAINING', choice: 2, addedMs: undefined }];
  expect(explainRequest({ ...record(undefined), moves } as RequestRecord).split('\n').slice(0, 2)).toEqual([
    '  migrated     decode/1 → decode/0 after 17 tokens: PLANE_DISCONNECTED; 1031 ms to the next token',
    '               decode decode/0 → nowhere after 17 tokens of choice 2: SERVING_WORKER_DRAINING; no token came after it',
  ]);
});
