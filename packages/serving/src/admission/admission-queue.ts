import type { Clock, ErrorData, InferenceRequest, Logger, Metrics, Timer, WorkerRecord, WorkerRole } from '@armature/contracts';
import { BusyRule } from './busy-rule.ts';
import type { Occupancy, WorkerLoads } from './busy-rule.ts';
import type { QueueConfig } from './config.ts';
import { DrainRate } from './drain-rate.ts';
import { createOrder } from './order.ts';
import { QueueClass, gateKey } from './queue-class.ts';
import type { Gate } from './queue-class.ts';
import { QueueMetrics } from './queue-metrics.ts';
import type { Exit, QueueState } from './queue-metrics.ts';
import { closedError, deadlineError, queueFull, tenantFull, waitedTooLong } from './refusals.ts';
import { Tenants } from './tenants.ts';
import type { Tenant } from './tenants.ts';
import { TicketHeap } from './ticket-heap.ts';
import { Ticket } from './ticket.ts';
import type { QueueListener } from './ticket.ts';

/** Sets of eligible workers (pins, required taints) with a backlog at one time. Clients name these, so they are bounded. */
const MAX_CLASSES = 256;
/** Requests admitted in one turn of the event loop; fully cached ones add no load that would stop the release by itself. */
const MAX_ADMITTED_PER_TURN = 64;
/** Requests expire in batches of this many milliseconds at least. */
const SCAN_MS = 10;
/** While anything waits, capacity is looked at this often although nothing was heard: other routers' load may have ended. */
const SAFETY_SCAN_MS = 1_000;

export interface AdmissionOptions {
  readonly model: string;
  readonly config: QueueConfig;
  readonly loads: WorkerLoads;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** What the queue has to know of a request. */
export interface Arrival {
  readonly request: InferenceRequest;
  readonly gate: Gate;
  readonly deadlineAtMs: number;
  /** Prompt tokens that a worker would have to compute; asked only when the request is parked and the order charges them. */
  uncachedTokens(): number;
}

export type Entry =
  | { readonly type: 'free' }
  | { readonly type: 'refused'; readonly error: ErrorData }
  | { readonly type: 'parked'; readonly ticket: Ticket; readonly ahead: number; readonly occupancy: Readonly<Occupancy> };

const FREE: Entry = { type: 'free' };
const ROLES: readonly WorkerRole[] = ['both', 'prefill', 'decode'];
type Totals = { -readonly [K in keyof QueueState]: QueueState[K] };

/**
 * Parks requests of one model while every worker that may take them is busy, and admits them as capacity returns. Nothing is polled: whoever
 * changes a worker's load says so (`capacityChanged`). A newcomer never passes requests of its class that wait. Bounded in requests, tokens,
 * time, classes and tenants; what does not fit is refused with a code and when to come back.
 */
export class AdmissionQueue {
  readonly #options: AdmissionOptions;
  readonly #config: QueueConfig;
  readonly #rule: BusyRule;
  readonly #tenants: Tenants;
  readonly #rate: DrainRate;
  readonly #metrics: QueueMetrics;
  /** With a backlog; the one that has waited longest for an admission is first. */
  readonly #classes = new Map<string, QueueClass>();
  readonly #expiries = new TicketHeap((a, b) => a.expiresAtMs < b.expiresAtMs, 'expiryIndex');
  readonly #totals = new Map<WorkerRole, Totals>(ROLES.map((role) => [role, { requests: 0, promptTokens: 0 }]));
  readonly #occupancy: Occupancy = { workers: 0, busyByPrefillTokens: 0, busyByKvBlocks: 0 };
  #promptTokens = 0;
  #costTokens = 0;
  #sequence = 0;
  #timer: Timer | undefined;
  #timerAtMs = 0;
  #isAdmitting = false;
  #mustLookAgain = false;
  #isDeferred = false;
  #isClosed = false;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#config = options.config;
    this.#rule = new BusyRule(options.config, options.loads);
    this.#tenants = new Tenants(options.config.tenantWeights, options.config.maxTenants);
    this.#rate = new DrainRate(options.config.maxRetryAfterMs);
    this.#metrics = new QueueMetrics(options.metrics, options.model, { roles: this.#totals, tenants: () => this.#tenants.count });
  }

  get size(): number {
    return this.#expiries.size;
  }

  get promptTokens(): number {
    return this.#promptTokens;
  }

  /** For people. */
  snapshot(tenants: number): Readonly<Record<string, unknown>> {
    return {
      requests: this.size,
      promptTokens: this.#promptTokens,
      order: this.#config.order,
      drainedTokensPerSecond: this.#rate.tokensPerSecond,
      classes: [...this.#classes.values()].map(({ gate, order }) => ({ ...gate, requests: order.size })),
      tenants: this.#tenants.largest(tenants),
    };
  }

  /** Free: go on at once. Parked: the listener hears of it once. */
  enter(arrival: Arrival, listener: QueueListener): Entry {
    if (this.#isClosed) {
      this.#metrics.rejected('closed');
      return { type: 'refused', error: closedError(this.#options.model) };
    }
    const key = gateKey(arrival.gate);
    const waiting = this.#classes.get(key);
    const isFull = this.#rule.isFull(arrival.gate, this.#occupancy);
    // Without any worker and without a backlog the router says best what is wrong.
    if (waiting === undefined && (!isFull || this.#occupancy.workers === 0)) return FREE;
    const occupancy = { ...this.#occupancy };
    const refusal = this.#refusal(arrival.request, waiting);
    if (refusal !== undefined) return { type: 'refused', error: refusal };
    const ahead = waiting?.order.size ?? 0;
    const ticket = this.#park(waiting ?? this.#openClass(key, arrival.gate), arrival, listener);
    if (!isFull) this.capacityChanged();
    return { type: 'parked', ticket, ahead, occupancy };
  }

  /** The request gives up: cancelled, its client has gone, its deadline has passed. */
  leave(ticket: Ticket): void {
    if (ticket.isParked) this.#remove(ticket, this.#nowMs >= ticket.deadlineAtMs ? 'deadline' : 'left');
  }

  /** The admitted request was dispatched and computes this many prompt tokens. */
  settle(ticket: Ticket, uncachedTokens: number): void {
    this.#classes.get(ticket.class.key)?.order.settle(ticket, uncachedTokens);
  }

  /** Some worker's load has fallen, or a worker has come or gone. */
  capacityChanged(): void {
    if (this.size === 0) return;
    if (this.#isAdmitting) this.#mustLookAgain = true;
    else this.#admit('admitted');
  }

  joined(worker: WorkerRecord): void {
    this.#rule.joined(worker, this.#options.log);
    this.capacityChanged();
  }

  /** Everybody is told to go elsewhere, newcomers too. */
  close(): void {
    this.#isClosed = true;
    const error = closedError(this.#options.model);
    for (let ticket = this.#expiries.peek(); ticket !== undefined; ticket = this.#expiries.peek()) {
      this.#remove(ticket, 'closed');
      ticket.listener.refused(error);
    }
    this.#metrics.close();
  }

  get #nowMs(): number {
    return this.#options.clock.nowMs();
  }

  // ---------------------------------------------------------------- in

  #refusal(request: InferenceRequest, waiting: QueueClass | undefined): ErrorData | undefined {
    const { maxRequests, maxTokens, maxTenantRequests, maxTenantTokens } = this.#config;
    const { model } = this.#options;
    const tenant = this.#tenants.find(request.cacheSalt);
    if (tenant !== undefined) {
      const reason = tenant.requests >= (maxTenantRequests ?? Infinity) ? 'tenant-requests' : tenant.promptTokens >= (maxTenantTokens ?? Infinity) ? 'tenant-tokens' : undefined;
      if (reason !== undefined) {
        this.#metrics.rejected(reason);
        return tenantFull(model, this.#retryAfterMs(tenant));
      }
    }
    const reason = this.size >= maxRequests ? 'requests' : this.#promptTokens >= maxTokens ? 'tokens' : waiting === undefined && this.#classes.size >= MAX_CLASSES ? 'classes' : undefined;
    if (reason === undefined) return undefined;
    this.#metrics.rejected(reason);
    return queueFull(model, this.#config.overloadStatus, this.#retryAfterMs(undefined));
  }

  /** Until the whole backlog has drained; with tenants in turn, until that of the tenant has. */
  #retryAfterMs(tenant: Tenant | undefined): number {
    this.#rate.advance(this.#nowMs, this.size > 0);
    const isOwn = tenant !== undefined && this.#config.order === 'drr';
    return this.#rate.retryAfterMs(isOwn ? (tenant.costTokens * this.#tenants.activeWeight) / tenant.weight : this.#costTokens);
  }

  #openClass(key: string, gate: Gate): QueueClass {
    const opened = new QueueClass(key, gate, createOrder(this.#config));
    this.#classes.set(key, opened);
    return opened;
  }

  #park(into: QueueClass, arrival: Arrival, listener: QueueListener): Ticket {
    const { request, gate, deadlineAtMs } = arrival;
    const promptTokens = request.promptTokenIds.length;
    const costTokens = Math.max(1, this.#config.order === 'drr' ? arrival.uncachedTokens() : promptTokens);
    const nowMs = this.#nowMs;
    this.#rate.advance(nowMs, this.size > 0);
    const ticket = new Ticket({
      class: into,
      tenant: this.#tenants.enter(request.cacheSalt, promptTokens, costTokens),
      priority: request.priority,
      strictPriority: request.strictPriority ?? 0,
      promptTokens,
      costTokens,
      sequence: this.#sequence++,
      arrivedAtMs: nowMs,
      deadlineAtMs,
      expiresAtMs: Math.min(deadlineAtMs, nowMs + this.#config.maxWaitMs),
      listener,
    });
    into.order.add(ticket);
    this.#expiries.add(ticket);
    this.#count(gate.role, 1, ticket);
    this.#metrics.parked(gate.role);
    this.#arm();
    return ticket;
  }

  // ---------------------------------------------------------------- out

  /** Admits while somebody's workers have room. Classes take turns, one request each: they may share workers. */
  #admit(how: 'admitted' | 'admitted-by-scan'): void {
    this.#isAdmitting = true;
    let admitted = 0;
    try {
      do {
        this.#mustLookAgain = false;
        // A class that got one goes to the end of the map and is seen again in this loop.
        for (const of of this.#classes.values()) {
          if (!this.#isOpen(of)) continue;
          if (++admitted > MAX_ADMITTED_PER_TURN) return this.#admitLater();
          this.#admitOne(of, how);
        }
      } while (this.#mustLookAgain);
    } finally {
      this.#isAdmitting = false;
    }
  }

  #admitLater(): void {
    if (this.#isDeferred) return;
    this.#isDeferred = true;
    this.#options.clock.defer(() => {
      this.#isDeferred = false;
      this.capacityChanged();
    });
  }

  /** A pinned worker that has gone does not come back: the router says so to the request. Others wait for a worker to join. */
  #isOpen(of: QueueClass): boolean {
    if (!this.#rule.isFull(of.gate, this.#occupancy)) return true;
    return this.#occupancy.workers === 0 && (of.gate.worker !== undefined || of.gate.decodeWorker !== undefined);
  }

  #admitOne(of: QueueClass, how: 'admitted' | 'admitted-by-scan'): void {
    const ticket = of.order.take();
    if (ticket === undefined) return;
    this.#remove(ticket, how);
    if (of.order.size > 0) {
      this.#classes.delete(of.key);
      this.#classes.set(of.key, of);
    }
    this.#rate.drained(ticket.costTokens);
    this.#metrics.waitSeconds.observe((this.#nowMs - ticket.arrivedAtMs) / 1000);
    ticket.listener.admitted(ticket);
  }

  #remove(ticket: Ticket, outcome: Exit): void {
    this.#rate.advance(this.#nowMs, this.size > 0);
    ticket.isParked = false;
    ticket.class.order.remove(ticket);
    this.#expiries.remove(ticket);
    this.#tenants.leave(ticket.tenant, ticket.promptTokens, ticket.costTokens);
    this.#count(ticket.class.gate.role, -1, ticket);
    if (ticket.class.order.size === 0) this.#classes.delete(ticket.class.key);
    this.#metrics.left(outcome);
    if (this.size === 0) this.#disarm();
  }

  #count(role: WorkerRole, sign: 1 | -1, ticket: Ticket): void {
    this.#promptTokens += sign * ticket.promptTokens;
    this.#costTokens += sign * ticket.costTokens;
    const totals = this.#totals.get(role);
    if (totals === undefined) return;
    totals.requests += sign;
    totals.promptTokens += sign * ticket.promptTokens;
  }

  // ---------------------------------------------------------------- time

  /** One timer for all: to the earliest expiry, or the next safety scan. */
  #arm(): void {
    const first = this.#expiries.peek();
    if (first === undefined) return;
    const nowMs = this.#nowMs;
    const atMs = Math.max(nowMs + SCAN_MS, Math.min(first.expiresAtMs, nowMs + SAFETY_SCAN_MS));
    if (this.#timer !== undefined && this.#timerAtMs <= atMs) return;
    this.#disarm();
    this.#timerAtMs = atMs;
    this.#timer = this.#options.clock.setTimer(atMs - nowMs, () => this.#scan());
  }

  #disarm(): void {
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  #scan(): void {
    this.#timer = undefined;
    const nowMs = this.#nowMs;
    for (let ticket = this.#expiries.peek(); ticket !== undefined && ticket.expiresAtMs <= nowMs; ticket = this.#expiries.peek()) {
      const isLate = nowMs >= ticket.deadlineAtMs;
      this.#remove(ticket, isLate ? 'deadline' : 'max-wait');
      const error = isLate ? deadlineError(nowMs - ticket.arrivedAtMs) : waitedTooLong(this.#options.model, this.#config, this.#retryAfterMs(undefined));
      ticket.listener.refused(error);
    }
    if (this.size > 0 && !this.#isAdmitting) this.#admit('admitted-by-scan');
    this.#arm();
  }
}
