import type { Candidates, ErrorData, InferenceRequest, LogFields, Logger, WorkerRecord } from '@armature/contracts';
import { CountingMetrics, ManualClock, silentLog, workerRecord } from '../test-support/fakes.ts';
import { AdmissionQueue } from './admission-queue.ts';
import type { Arrival, Entry } from './admission-queue.ts';
import type { WorkerLoads } from './busy-rule.ts';
import type { QueueConfig } from './config.ts';
import { QueueClass } from './queue-class.ts';
import type { Gate } from './queue-class.ts';
import type { Tenant } from './tenants.ts';
import { Ticket } from './ticket.ts';
import type { QueueListener } from './ticket.ts';

export const config: QueueConfig = {
  prefillTokens: 100,
  assumedBatchTokens: 8192,
  order: 'fcfs',
  ageingMs: 0,
  quantumTokens: 100,
  tenantWeights: {},
  maxTenants: 16,
  maxRequests: 1_000,
  maxTokens: 1_000_000,
  maxWaitMs: 60_000,
  overloadStatus: 529,
  maxRetryAfterMs: 60_000,
};

/** Workers whose load the test sets. */
export class FakeLoads implements WorkerLoads {
  readonly workers: { record: WorkerRecord; prefillTokens: number; blocks: number }[] = [];

  add(name: string, role: WorkerRecord['role'], more: Partial<WorkerRecord> = {}): WorkerRecord {
    const record = workerRecord(name, role, more);
    this.workers.push({ record, prefillTokens: 0, blocks: 0 });
    return record;
  }
  set(name: string, prefillTokens: number, blocks = 0): void {
    for (const worker of this.workers) if (worker.record.instanceId === `${name}@1`) Object.assign(worker, { prefillTokens, blocks });
  }
  record(slot: number): WorkerRecord | undefined {
    return this.workers[slot]?.record;
  }
  candidates(role: WorkerRecord['role'], excluded: readonly string[], { only }: { readonly only: string | undefined }): Candidates {
    const rows = this.workers.map((worker, slot) => ({ ...worker, slot })).filter(({ record }) => record.role === role && !excluded.includes(record.instanceId) && (only === undefined || record.instanceId === only));
    const column = (of: (row: (typeof rows)[number]) => number): Float64Array => Float64Array.from(rows, of);
    return { count: rows.length, slots: Int32Array.from(rows, (row) => row.slot), activePrefillTokens: column((row) => row.prefillTokens), activeBlocks: column((row) => row.blocks) } as unknown as Candidates;
  }
}

/** What one parked request heard. */
export class Heard implements QueueListener {
  readonly name: string;
  admissions = 0;
  error: ErrorData | undefined;
  ticket: Ticket | undefined;
  readonly #onAdmitted: (heard: Heard) => void;

  constructor(name: string, onAdmitted: (heard: Heard) => void) {
    this.name = name;
    this.#onAdmitted = onAdmitted;
  }
  admitted(): void {
    this.admissions++;
    this.#onAdmitted(this);
  }
  refused(error: ErrorData): void {
    this.error = error;
  }
}

export interface Wish {
  readonly tokens?: number;
  readonly uncached?: number;
  readonly tenant?: string;
  readonly priority?: number;
  readonly strictPriority?: number;
  readonly deadlineMs?: number;
  readonly gate?: Partial<Gate>;
  readonly first?: Ticket;
}

/** A queue over one worker `both/0` of which the test decides whether it is busy. */
export function build(more: Partial<QueueConfig> = {}) {
  const clock = new ManualClock();
  const metrics = new CountingMetrics();
  const loads = new FakeLoads();
  const warnings: { message: string; fields: LogFields | undefined }[] = [];
  const log: Logger = { ...silentLog, warn: (message, fields) => void warnings.push({ message, fields }) };
  const queue = new AdmissionQueue({ model: 'm', config: { ...config, ...more }, loads, clock, log, metrics });
  const order: string[] = [];
  const enter = (name: string, wish: Wish = {}, onAdmitted: (heard: Heard) => void = () => undefined): { readonly heard: Heard; readonly entry: Entry } => {
    const heard = new Heard(name, (self) => {
      order.push(self.name);
      onAdmitted(self);
    });
    const tokens = wish.tokens ?? 10;
    const request = { promptTokenIds: new Int32Array(tokens), cacheSalt: wish.tenant ?? '', priority: wish.priority ?? 0, strictPriority: wish.strictPriority ?? 0 } as unknown as InferenceRequest;
    const arrival: Arrival = {
      request,
      gate: { role: 'both', worker: undefined, decodeWorker: undefined, requiredTaints: [], ...wish.gate },
      deadlineAtMs: clock.nowMs() + (wish.deadlineMs ?? 1e9),
      first: wish.first,
      uncachedTokens: () => wish.uncached ?? tokens,
    };
    const entry = queue.enter(arrival, heard);
    if (entry.type === 'parked') heard.ticket = entry.ticket;
    return { heard, entry };
  };
  return { clock, metrics, loads, queue, order, enter, warnings };
}

const anyClass = new QueueClass('', { role: 'both', worker: undefined, decodeWorker: undefined, requiredTaints: [] }, undefined as never);
let sequence = 0;

/** A ticket outside of any queue. */
export function ticket(tenant: Tenant, costTokens: number, more: Partial<Ticket> = {}): Ticket {
  const listener = { admitted: () => undefined, refused: () => undefined };
  return new Ticket({
    class: anyClass,
    tenant,
    priority: 0,
    strictPriority: 0,
    promptTokens: costTokens,
    costTokens,
    sequence: sequence++,
    arrivedAtMs: 0,
    deadlineAtMs: Infinity,
    expiresAtMs: 0,
    listener,
    ...more,
  });
}

export function tenant(name: string, weight = 1): Tenant {
  return { name, weight, requests: 0, promptTokens: 0, costTokens: 0 };
}

/** Printed by property tests; ARMATURE_SEED repeats one. */
export function seedOf(): number {
  return Number(process.env['ARMATURE_SEED'] ?? Date.now() & 0xffffff);
}
