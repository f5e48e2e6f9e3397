import type { ErrorData } from '@armature/contracts';
import type { QueueClass } from './queue-class.ts';
import type { Tenant } from './tenants.ts';

/** What the queue tells a parked request: exactly one of the two, once, unless the request leaves by itself. */
export interface QueueListener {
  /** Capacity has returned and it is this request's turn. Dispatches before it returns. */
  admitted(ticket: Ticket): void;
  refused(error: ErrorData): void;
}

export interface TicketOptions {
  readonly class: QueueClass;
  readonly tenant: Tenant;
  readonly priority: number;
  readonly strictPriority: number;
  readonly promptTokens: number;
  readonly costTokens: number;
  readonly sequence: number;
  readonly arrivedAtMs: number;
  readonly deadlineAtMs: number;
  readonly expiresAtMs: number;
  readonly listener: QueueListener;
}

/** One parked request. */
export class Ticket {
  readonly class: QueueClass;
  readonly tenant: Tenant;
  readonly priority: number;
  readonly strictPriority: number;
  readonly promptTokens: number;
  /** Uncached prompt tokens as estimated at arrival, at least 1: what deficit round robin charges. */
  readonly costTokens: number;
  /** Order of arrival. */
  readonly sequence: number;
  readonly arrivedAtMs: number;
  readonly deadlineAtMs: number;
  /** The earlier of deadline and longest wait. */
  readonly expiresAtMs: number;
  readonly listener: QueueListener;
  isParked: boolean;
  /** Places in the heaps; -1 = not in it. */
  orderIndex: number;
  expiryIndex: number;

  constructor(options: TicketOptions) {
    this.class = options.class;
    this.tenant = options.tenant;
    this.priority = options.priority;
    this.strictPriority = options.strictPriority;
    this.promptTokens = options.promptTokens;
    this.costTokens = options.costTokens;
    this.sequence = options.sequence;
    this.arrivedAtMs = options.arrivedAtMs;
    this.deadlineAtMs = options.deadlineAtMs;
    this.expiresAtMs = options.expiresAtMs;
    this.listener = options.listener;
    this.isParked = true;
    this.orderIndex = -1;
    this.expiryIndex = -1;
  }
}
