import type { PlaneMessage, PlaneStream, RequestPlane, StreamOpen, StreamSink } from '@armature/contracts';
import type { BlockManager } from '@armature/kvbm';
import { expect, test } from 'vitest';
import { answerBorrow, peerCalls } from './kv-peers.ts';

/** What the lender's manager is asked for, when the borrower asks for rows `from` to `to`. */
function asked(hashes: Int32Array, from: number, to: number): unknown[] {
  const lent: unknown[] = [];
  const manager = { lend: (...args: unknown[]) => void lent.push(...args.slice(0, 3)) } as unknown as BlockManager;
  const stream = { send: () => true, close: () => undefined } as unknown as PlaneStream;
  const plane = {
    open: (_address: string, open: StreamOpen, _sink: StreamSink) => {
      answerBorrow(manager, structuredClone(open.message) as PlaneMessage, stream);
      return stream;
    },
  } as unknown as RequestPlane;
  peerCalls(plane).borrow('lender', hashes, from, to, 1_000, 1_000, () => undefined);
  return lent;
}

test('the lender is told which block comes before those that are borrowed', () => {
  const hashes = Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
  expect(asked(hashes, 0, 2)).toEqual([Int32Array.of(1, 2, 3, 4), 0, 2]);
  expect(asked(hashes, 1, 3)).toEqual([Int32Array.of(1, 2, 3, 4, 5, 6), 1, 3]);
  expect(asked(hashes, 2, 4)).toEqual([Int32Array.of(3, 4, 5, 6, 7, 8), 1, 3]);
});
