import type { Clock, ErrorData, InferenceRequest, Logger, Metrics, Timer, WorkerRecord } from '@armature/contracts';
import { Backlog } from './backlog.ts';
import { BusyRule } from './busy-rule.ts';
import type { Occupancy, WorkerLoads } from './busy-rule.ts';
import type { QueueConfig } from './config.ts';
import { createOrder } from './order.ts';
import { QueueClass, gateKey } from './queue-class.ts';
import type { Gate } from './queue-class.ts';
import { QueueMetrics } from './queue-metrics.ts';
import type { Exit } from './queue-metrics.ts';
import { closedError, deadlineError, queueFull, tenantFull, waitedTooLong } from './refusals.ts';
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
  /** The ticket of its first wait, for other workers: it keeps its place in the order of arrival, and its longest wait goes on. */
  readonly first: Ticket | undefined;
  /** Prompt tokens that a worker would have to compute; asked only when the request is parked and the order charges them. */
  uncachedTokens(): number;
}

export type Entry =
  | { readonly type: 'free' }
  | { readonly type: 'refused'; readonly error: ErrorData }
  | { readonly type: 'parked'; readonly ticket: Ticket; readonly ahead: number; readonly occupancy: Readonly<Occupancy> };

const FREE: Entry = { type: 'free' };

/**
 * Parks requests of one model while every worker that may take them is busy, and admits them as capacity returns. Nothing is polled: whoever
 * changes a worker's load says so (`capacityChanged`). A newcomer never passes requests of its class that wait. Bounded in requests, tokens,
 * time, classes and tenants; what does not fit is refused with a code and when to come back.
 */
export class AdmissionQueue {
  readonly #options: AdmissionOptions;
  readonly #config: QueueConfig;
  readonly #rule: BusyRule;
  readonly #backlog: Backlog;
  readonly #metrics: QueueMetrics;
  /** With a backlog; the one that has waited longest for an admission is first. */
  readonly #classes = new Map<string, QueueClass>();
  readonly #expiries = new TicketHeap((a, b) => a.expiresAtMs < b.expiresAtMs, 'expiryIndex');
  readonly #occupancy: Occupancy = { workers: 0, busyByPrefillTokens: 0, busyByKvBlocks: 0 };
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
    this.#backlog = new Backlog(options.config, options.clock);
    this.#metrics = new QueueMetrics(options.metrics, options.model, { roles: this.#backlog.roles, tenants: () => this.#backlog.tenants.count });
  }

  get size(): number {
    return this.#expiries.size;
  }

  /** See `BusyRule.isBusy`. */
  isBusy(worker: WorkerRecord, prefillTokens: number, blocks: number): boolean {
    return this.#rule.isBusy(worker, prefillTokens, blocks);
  }

  get promptTokens(): number {
    return this.#backlog.promptTokens;
  }

  /** For people. */
  snapshot(tenants: number): Readonly<Record<string, unknown>> {
    return {
      requests: this.size,
      promptTokens: this.promptTokens,
      order: this.#config.order,
      drainedTokensPerSecond: this.#backlog.drainedTokensPerSecond,
      classes: [...this.#classes.values()].map(({ gate, order }) => ({ gate, requests: order.size })),
      tenants: this.#backlog.tenants.largest(tenants),
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
    const reason = this.#backlog.excess(request.cacheSalt) ?? (waiting === undefined && this.#classes.size >= MAX_CLASSES ? 'classes' : undefined);
    if (reason === undefined) return undefined;
    this.#metrics.rejected(reason);
    const { model } = this.#options;
    if (reason === 'tenant-requests' || reason === 'tenant-tokens') return tenantFull(model, this.#backlog.retryAfterMs(request.cacheSalt));
    return queueFull(model, this.#config.overloadStatus, this.#backlog.retryAfterMs());
  }

  #openClass(key: string, gate: Gate): QueueClass {
    const opened = new QueueClass(key, gate, createOrder(this.#config));
    this.#classes.set(key, opened);
    return opened;
  }

  #park(into: QueueClass, arrival: Arrival, listener: QueueListener): Ticket {
    const { request, gate, deadlineAtMs, first } = arrival;
    const promptTokens = request.promptTokenIds.length;
    const costTokens = Math.max(1, this.#config.order === 'drr' ? arrival.uncachedTokens() : promptTokens);
    const arrivedAtMs = first?.arrivedAtMs ?? this.#nowMs;
    const ticket = new Ticket({
      class: into,
      tenant: this.#backlog.enter(request.cacheSalt, gate.role, promptTokens, costTokens),
      priority: request.priority,
      strictPriority: request.strictPriority ?? 0,
      promptTokens,
      costTokens,
      sequence: first?.sequence ?? this.#sequence++,
      arrivedAtMs,
      deadlineAtMs,
      expiresAtMs: Math.min(deadlineAtMs, arrivedAtMs + this.#config.maxWaitMs),
      listener,
    });
    into.order.add(ticket);
    this.#expiries.add(ticket);
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
    this.#backlog.drained(ticket.costTokens);
    this.#metrics.waitSeconds.observe((this.#nowMs - ticket.arrivedAtMs) / 1000);
    ticket.listener.admitted(ticket);
  }

  #remove(ticket: Ticket, outcome: Exit): void {
    ticket.isParked = false;
    ticket.class.order.remove(ticket);
    this.#expiries.remove(ticket);
    this.#backlog.leave(ticket);
    if (ticket.class.order.size === 0) this.#classes.delete(ticket.class.key);
    this.#metrics.left(outcome);
    if (this.size === 0) this.#disarm();
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
      const error = isLate ? deadlineError(nowMs - ticket.arrivedAtMs) : waitedTooLong(this.#options.model, this.#config, this.#backlog.retryAfterMs());
      ticket.listener.refused(error);
    }
    if (this.size > 0 && !this.#isAdmitting) this.#admit('admitted-by-scan');
    this.#arm();
  }
}
