import type { QueueConfig } from './config.ts';
import { DrrOrder } from './drr-order.ts';
import { TicketHeap } from './ticket-heap.ts';
import type { Ticket } from './ticket.ts';

/** Decides which of the parked requests of one class goes next. No operation is slower than O(log n) in the requests parked. */
export interface QueueOrder {
  readonly size: number;
  add(ticket: Ticket): void;
  /** Removes and returns the next one. */
  take(): Ticket | undefined;
  remove(ticket: Ticket): void;
  /** The admitted request computes `costTokens`, not what was estimated when it was parked. */
  settle(ticket: Ticket, costTokens: number): void;
}

type Before = (a: Ticket, b: Ticket) => boolean;

/** Oldest first. */
export const byArrival: Before = (a, b) => a.sequence < b.sequence;

/**
 * Tiers of `strictPriority` first, without ageing. Within a tier the highest priority, where `ageingMs` of waiting count as one point: a request
 * of priority p overtakes those that came at most p × ageingMs before it, so a constant stream of important requests holds up nobody for ever.
 * The key does not change while a request waits (all age alike), which is what lets a heap hold it. 0: no ageing.
 */
export function byPriority(ageingMs: number): Before {
  return (a, b) => {
    if (a.strictPriority !== b.strictPriority) return a.strictPriority > b.strictPriority;
    const lead = ageingMs === 0 ? b.priority - a.priority : a.arrivedAtMs - a.priority * ageingMs - (b.arrivedAtMs - b.priority * ageingMs);
    return lead === 0 ? a.sequence < b.sequence : lead < 0;
  };
}

class HeapOrder implements QueueOrder {
  readonly #heap: TicketHeap;

  constructor(before: Before) {
    this.#heap = new TicketHeap(before, 'orderIndex');
  }

  get size(): number {
    return this.#heap.size;
  }

  add(ticket: Ticket): void {
    this.#heap.add(ticket);
  }

  take(): Ticket | undefined {
    return this.#heap.take();
  }

  remove(ticket: Ticket): void {
    this.#heap.remove(ticket);
  }

  settle(): void {
    // only tenants in turn are charged
  }
}

export function createOrder(config: QueueConfig): QueueOrder {
  switch (config.order) {
    case 'fcfs':
      return new HeapOrder(byArrival);
    case 'priority':
      return new HeapOrder(byPriority(config.ageingMs));
    case 'drr':
      return new DrrOrder(config.quantumTokens, byPriority(config.ageingMs));
  }
}
