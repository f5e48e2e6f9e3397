import type { ErrorData } from '@armature/contracts';
import type { QueueConfig } from './config.ts';

export function queueFull(model: string, status: 503 | 529, retryAfterMs: number): ErrorData {
  return {
    code: 'SERVING_QUEUE_FULL',
    message: `every worker of model "${model}" is busy and its queue is full`,
    hint: 'retry after the time given, add workers, or raise the limits of models[].queue',
    retryable: true,
    refusal: { status, retryAfterMs },
  };
}

/** Others may still enter. */
export function tenantFull(model: string, retryAfterMs: number): ErrorData {
  return {
    code: 'SERVING_TENANT_QUEUE_FULL',
    message: `this tenant has as many requests waiting for model "${model}" as it may`,
    hint: 'retry after the time given, send fewer requests at once, or raise maxTenantRequests and maxTenantTokens of models[].queue',
    retryable: true,
    refusal: { status: 429, retryAfterMs },
  };
}

export function waitedTooLong(model: string, config: QueueConfig, retryAfterMs: number): ErrorData {
  return {
    code: 'SERVING_QUEUE_TIMEOUT',
    message: `no worker of model "${model}" had room for ${config.maxWaitMs} ms`,
    hint: 'retry after the time given, add workers, or raise maxWaitMs of models[].queue',
    retryable: true,
    refusal: { status: config.overloadStatus, retryAfterMs },
  };
}

export function deadlineError(waitedMs: number): ErrorData {
  return {
    code: 'SERVING_DEADLINE_EXCEEDED',
    message: `the request's time was used up in the queue, where it had been for ${Math.round(waitedMs)} ms`,
    hint: 'allow more time (x-request-timeout-ms), or add workers',
  };
}

export function closedError(model: string): ErrorData {
  return {
    code: 'SERVING_QUEUE_DRAINING',
    message: `the server closes; the request had not begun and waited for a worker of model "${model}"`,
    hint: 'send it again: another server takes it',
    retryable: true,
  };
}
