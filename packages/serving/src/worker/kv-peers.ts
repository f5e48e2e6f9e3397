import type { PlaneMessage, PlaneStream, RequestPlane, StreamSink } from '@armature/contracts';
import type { BlockManager, KvLoan, KvPeerCalls } from '@armature/kvbm';
import { Method, intsField, loanMessage, numberField, parseLoan, stringField } from '../messages.ts';
import { callUnary } from './unary.ts';

const LOAN_CALL_TIMEOUT_MS = 2_000;
const NO_PARENT = new Int32Array(0);

/** Block managers of other workers, over the request plane. */
export function peerCalls(requests: RequestPlane): KvPeerCalls {
  const settle = (address: string, lease: number, done: (isValid: boolean) => void): void =>
    callUnary(requests, address, { method: Method.SettleLoan, message: { type: 'lease', lease }, deadlineMs: LOAN_CALL_TIMEOUT_MS }, (answer) => done(answer?.['valid'] === true));
  return {
    borrow: (...[address, hashes, from, to, ttlMs, deadlineMs, done]) => {
      const parent = from === 0 ? {} : { parent: hashes.subarray(2 * from - 2, 2 * from) };
      const message = { type: 'borrow', sequenceHashes: hashes.subarray(2 * from, 2 * to), ...parent, ttlMs, deadlineMs };
      callUnary(requests, address, { method: Method.Borrow, message, deadlineMs }, (answer) => done(loanOf(answer)));
    },
    renew: (address, lease, ttlMs) =>
      callUnary(requests, address, { method: Method.RenewLoan, message: { type: 'lease', lease, ttlMs }, deadlineMs: LOAN_CALL_TIMEOUT_MS }, () => undefined),
    settle,
  };
}

/** An answer that is none is a refusal: the borrower computes, the loan lapses. */
function loanOf(answer: PlaneMessage | undefined): KvLoan | undefined {
  try {
    return parseLoan(answer);
  } catch {
    return undefined;
  }
}

/** The lender's side of `borrow`. A loan that nobody waits for any more ends at once. `parent`: the block before them in their prompt, absent at its start. */
export function answerBorrow(manager: BlockManager, message: PlaneMessage, stream: PlaneStream): StreamSink {
  const wanted = intsField(message, 'sequenceHashes');
  const parent = message['parent'] === undefined ? NO_PARENT : intsField(message, 'parent').subarray(0, 2);
  const hashes = Int32Array.from([...parent, ...wanted]);
  let isClosed = false;
  manager.lend(hashes, parent.length >> 1, hashes.length >> 1, numberField(message, 'ttlMs'), numberField(message, 'deadlineMs'), (loan) => {
    if (isClosed) {
      if (loan !== undefined) manager.settleLoan(loan.lease);
      return;
    }
    stream.send(loan === undefined ? { type: 'refused' } : loanMessage(loan));
    stream.close();
  });
  return { message: () => undefined, closed: () => void (isClosed = true) };
}

/** A frontend's hint. Taken at once, carried out when there is nothing more urgent. */
export function answerPrefetch(manager: BlockManager, message: PlaneMessage, stream: PlaneStream): StreamSink {
  manager.prefetch('queue', intsField(message, 'sequenceHashes'), stringField(message, 'cacheSalt'));
  stream.send({ type: 'prefetch' });
  stream.close();
  return { message: () => undefined, closed: () => undefined };
}
