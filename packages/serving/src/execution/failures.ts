import type { ErrorData } from '@armature/contracts';

/** What a request waits for: the hop that a deadline or a stall is named after. */
export type Arrow = 'placement' | 'prefill' | 'transfer' | 'first token' | 'decode';

export const CANCELLED = 'SERVING_CANCELLED';

export const cancelledError: ErrorData = { code: CANCELLED, message: 'the request was cancelled' };

/** A decode worker told this leaves the lease on the prefill worker's blocks alone: another one reads them now. */
export const decodeMovedError: ErrorData = { code: 'SERVING_DECODE_MOVED', message: 'the request is decoded by another worker' };

/** The worker itself is gone or does not answer: the next request would fare alike. */
export function isLost(error: ErrorData): boolean {
  return error.code === 'PLANE_DISCONNECTED' || error.code === 'PLANE_UNREACHABLE' || error.code === 'SERVING_STALLED';
}

/**
 * It never began: the worker takes nothing new, as it was told to, or has gone before discovery could say so. Not counted against the request; the
 * worker is not asked again.
 */
export function neverBegan(error: ErrorData): boolean {
  return error.code === 'SERVING_WORKER_DRAINING' || error.code === 'ENGINE_DRAINING' || error.code === 'PLANE_UNREACHABLE';
}

export function isOverload(error: ErrorData): boolean {
  return error.code.endsWith('_OVERLOADED');
}

/** There is no worker to go to: one may come. */
export function isVacancy(error: ErrorData): boolean {
  return error.code === 'SERVING_NO_WORKER' || error.code === 'SERVING_NO_ADAPTER_WORKER' || error.code === 'SERVING_NO_FORMAT_WORKER' || error.code === 'SERVING_NO_PREFILL_WORKER';
}

export function stalledError(worker: string, arrow: Arrow, silentMs: number): ErrorData {
  return {
    code: 'SERVING_STALLED',
    message: `worker ${worker} said nothing for ${silentMs} ms during ${arrow}`,
    hint: 'see the worker; `deadlines` of the model says how long it may be silent',
    retryable: true,
  };
}

export function deadlineError(deadlineMs: number, arrow: Arrow): ErrorData {
  return {
    code: 'SERVING_DEADLINE_EXCEEDED',
    message: `the request's ${deadlineMs} ms were used up during ${arrow}`,
    hint: 'allow more time (x-request-timeout-ms), or add workers',
  };
}

export function incompleteError(worker: string): ErrorData {
  return { code: 'SERVING_STREAM_INCOMPLETE', message: `worker ${worker} ended the stream too early`, retryable: true };
}

/** When nobody is left, the client hears why the last worker refused: "overloaded" and "no worker" are answered differently. */
export function reasonOf(error: ErrorData, last: ErrorData | undefined): ErrorData {
  if (last === undefined || !isVacancy(error)) return error;
  return isOverload(last) ? last : { ...error, message: `${error.message}; the last one said ${last.code}` };
}
