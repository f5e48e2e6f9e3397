import { expect, it } from 'vitest';
import { PROTOCOL } from '../messages.ts';
import { workerRecord } from '../test-support/fakes.ts';
import { refusalOf } from './worker-refusal.ts';

it('a process takes workers of its own version and the one before; an older one says what to upgrade', () => {
  const refusal = (theirs: number, ours: number): string | undefined => refusalOf(workerRecord('a/0', 'both', { protocol: theirs }), 4, ours)?.message;
  expect([refusal(7, 7), refusal(6, 7)]).toEqual([undefined, undefined]);
  expect(refusal(7, 6)).toBe('it speaks protocol 7, this process 6 and 5; upgrade this process first');
  expect(refusal(5, 7)).toBe('it speaks protocol 5, this process 7 and 6; upgrade the worker');
  expect(refusalOf(workerRecord('a/0', 'both', { protocol: PROTOCOL + 1 }), 4)?.code).toBe('SERVING_PROTOCOL_MISMATCH');
  expect(refusalOf(workerRecord('a/0', 'both', { protocol: undefined as never }), 4)?.code).toBe('SERVING_PROTOCOL_MISMATCH');
});
