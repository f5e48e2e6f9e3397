import type { ConfigReport, JsonSchema } from '@armature/contracts';

/** `models[].queue`, defaults applied. A threshold that is left out is not looked at. */
export interface QueueConfig {
  /** A worker is busy above this × its batch limit, in prompt tokens sent to it and not computed. */
  readonly prefillFraction?: number;
  /** A worker is busy above this many prompt tokens sent to it and not computed. */
  readonly prefillTokens?: number;
  /** A worker is busy above this share of its KV blocks in use. */
  readonly kvBlocksFraction?: number;
  /** Batch limit of workers that report none. */
  readonly assumedBatchTokens: number;
  readonly order: 'fcfs' | 'priority' | 'drr';
  readonly ageingMs: number;
  readonly quantumTokens: number;
  readonly tenantWeights: Readonly<Record<string, number>>;
  readonly maxTenants: number;
  readonly maxRequests: number;
  readonly maxTokens: number;
  readonly maxWaitMs: number;
  /** Left out: a tenant may fill the whole queue. */
  readonly maxTenantRequests?: number;
  readonly maxTenantTokens?: number;
  readonly overloadStatus: 503 | 529;
  readonly maxRetryAfterMs: number;
}

const integer = (minimum: number, fallback: number | undefined, description: string): JsonSchema => ({
  type: 'integer',
  minimum,
  ...(fallback === undefined ? {} : { default: fallback }),
  description,
});

export const queueSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  description: 'Requests wait here while every worker that may take them is busy. Left out: no queue, workers queue themselves. Needs at least one threshold.',
  properties: {
    prefillFraction: {
      type: 'number',
      minimum: 0,
      description: 'Busy above this × the batch limit of the worker, in prompt tokens sent to it and not computed yet. Left out: not looked at.',
    },
    prefillTokens: integer(0, undefined, 'Busy above this many prompt tokens sent to the worker and not computed yet. Left out: not looked at.'),
    kvBlocksFraction: { type: 'number', minimum: 0, maximum: 1, description: "Busy above this share of the worker's KV blocks in use by its requests. Left out: not looked at." },
    assumedBatchTokens: integer(1, 8192, 'Batch limit assumed of a worker that reports none; each such worker is logged.'),
    order: {
      enum: ['fcfs', 'priority', 'drr'],
      default: 'fcfs',
      description: 'Who goes first: the oldest; the highest priority; or tenants in turn (deficit round robin over uncached prompt tokens).',
    },
    ageingMs: integer(0, 10_000, 'Waiting this long counts as much as one point of `priority`, so that nothing waits for ever, in milliseconds; 0 = no ageing. Tiers of strict_priority do not age.'),
    quantumTokens: integer(1, 8192, 'Deficit round robin: uncached prompt tokens that a tenant of weight 1 may send in its turn.'),
    tenantWeights: {
      type: 'object',
      default: {},
      additionalProperties: { type: 'number', minimum: 0.001, maximum: 1_000_000 },
      description: 'Deficit round robin: share of a tenant (x-tenant-id or cache_salt) relative to others; 1 for those not named.',
    },
    maxTenants: integer(1, 1024, 'Tenants with waiting requests that are told apart; those above share one turn and one limit.'),
    maxRequests: integer(1, 2048, 'Waiting requests at most; more are refused with overloadStatus.'),
    maxTokens: integer(1, 16_777_216, 'Prompt tokens of waiting requests: once reached, more requests are refused with overloadStatus.'),
    maxWaitMs: integer(1, 60_000, 'Longest wait, in milliseconds; then the request is refused with overloadStatus.'),
    maxTenantRequests: integer(1, undefined, 'Waiting requests of one tenant at most; more are refused with 429. Left out: as many as the queue takes.'),
    maxTenantTokens: integer(1, undefined, 'Prompt tokens of waiting requests of one tenant: once reached, more are refused with 429. Left out: as many as the queue takes.'),
    overloadStatus: { enum: [503, 529], default: 529, description: 'HTTP status when the queue is full or the wait too long.' },
    maxRetryAfterMs: integer(1_000, 60_000, 'Longest Retry-After that refused clients are told, in milliseconds; the shortest is 1 s.'),
  },
};

/** `models[].affinity`, defaults applied. */
export interface AffinityConfig {
  readonly bonusBlocks: number;
  readonly ttlMs: number;
  readonly maxSessions: number;
}

export const affinitySchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  description: 'Requests of a session (x-session-id) prefer the worker that had the last one. Left out: sessions are not looked at.',
  properties: {
    bonusBlocks: { type: 'number', minimum: 0, default: 32, description: 'What staying is worth, in blocks of cost: a worker that is busier than that loses the session.' },
    ttlMs: integer(1_000, 600_000, 'A session is forgotten after this long without a request, in milliseconds.'),
    maxSessions: integer(1, 100_000, 'Sessions remembered; the one not seen for longest is forgotten first.'),
  },
};

/** A queue that could never hold anything is a mistake, not a setting. */
export function checkQueue(queue: QueueConfig | undefined, path: readonly (string | number)[], report: ConfigReport): void {
  if (queue === undefined) return;
  if (queue.prefillFraction === undefined && queue.prefillTokens === undefined && queue.kvBlocksFraction === undefined) {
    report({ path, code: 'CONFIG_QUEUE_NO_THRESHOLD', message: 'the queue has no threshold, so no worker would ever count as busy', hint: 'set prefillFraction, prefillTokens or kvBlocksFraction, or remove the section' });
  }
  if (queue.order !== 'drr' && Object.keys(queue.tenantWeights).length > 0) {
    report({ path: [...path, 'tenantWeights'], code: 'CONFIG_QUEUE_WEIGHTS_UNUSED', message: `order ${queue.order} does not look at tenantWeights`, hint: 'set order: drr, or remove the weights' });
  }
}
