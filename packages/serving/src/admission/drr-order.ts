import type { QueueOrder } from './order.ts';
import type { Tenant } from './tenants.ts';
import { TicketHeap } from './ticket-heap.ts';
import type { Ticket } from './ticket.ts';

/** One tenant's requests, a member of the ring of tenants that have any. */
class Flow {
  readonly tenant: Tenant;
  readonly tickets: TicketHeap;
  /** Tokens it may still send in this turn. */
  deficit: number;
  /** It has had the quantum of this turn. */
  isPaid: boolean;
  previous: Flow;
  next: Flow;

  constructor(tenant: Tenant, before: (a: Ticket, b: Ticket) => boolean) {
    this.tenant = tenant;
    this.tickets = new TicketHeap(before, 'orderIndex');
    this.deficit = 0;
    this.isPaid = false;
    this.previous = this;
    this.next = this;
  }
}

/**
 * Deficit round robin over tenants (Shreedhar and Varghese, 1995): in its turn a tenant gets quantum × weight and sends while that covers its next
 * request's uncached tokens; what is left stays for its next turn as long as it has requests waiting. Over any stretch in which two tenants both
 * wait, the tokens they send differ, per weight, by no more than a quantum and a request each. Within a tenant: its own priorities, then age.
 *
 * A turn that sends nothing is never walked twice: laps without an answer are paid at once, so a small quantum costs no time.
 */
export class DrrOrder implements QueueOrder {
  readonly #quantumTokens: number;
  readonly #before: (a: Ticket, b: Ticket) => boolean;
  readonly #flows = new Map<Tenant, Flow>();
  /** Whose turn it is. */
  #current: Flow | undefined;
  #size = 0;

  constructor(quantumTokens: number, before: (a: Ticket, b: Ticket) => boolean) {
    this.#quantumTokens = quantumTokens;
    this.#before = before;
  }

  get size(): number {
    return this.#size;
  }

  add(ticket: Ticket): void {
    let flow = this.#flows.get(ticket.tenant);
    if (flow === undefined) {
      flow = new Flow(ticket.tenant, this.#before);
      this.#flows.set(ticket.tenant, flow);
      this.#link(flow);
    }
    flow.tickets.add(ticket);
    this.#size++;
  }

  take(): Ticket | undefined {
    let flow = this.#current;
    let passed = 0;
    while (flow !== undefined) {
      if (!flow.isPaid) {
        flow.deficit += this.#quantumTokens * flow.tenant.weight;
        flow.isPaid = true;
      }
      const head = flow.tickets.peek();
      if (head !== undefined && head.costTokens <= flow.deficit) {
        flow.tickets.take();
        flow.deficit -= head.costTokens;
        this.#size--;
        this.#current = flow;
        if (flow.tickets.size === 0) this.#unlink(flow);
        return head;
      }
      flow.isPaid = false;
      flow = flow.next;
      if (++passed === this.#flows.size) {
        this.#skipLaps();
        passed = 0;
      }
    }
    return undefined;
  }

  remove(ticket: Ticket): void {
    const flow = this.#flows.get(ticket.tenant);
    if (flow === undefined || !flow.tickets.remove(ticket)) return;
    this.#size--;
    if (flow.tickets.size === 0) this.#unlink(flow);
  }

  /** What was estimated too high comes back, as long as the tenant still waits; what was too low is owed. */
  settle(ticket: Ticket, costTokens: number): void {
    const flow = this.#flows.get(ticket.tenant);
    if (flow !== undefined) flow.deficit += ticket.costTokens - Math.max(1, costTokens);
  }

  /** Nobody could send in a whole lap: as many laps as the first who can needs, but one, are paid to everybody now. */
  #skipLaps(): void {
    let laps = Infinity;
    for (const flow of this.#flows.values()) {
      const missing = (flow.tickets.peek()?.costTokens ?? Infinity) - flow.deficit;
      laps = Math.min(laps, Math.ceil(missing / (this.#quantumTokens * flow.tenant.weight)));
    }
    if (laps <= 1 || laps === Infinity) return;
    for (const flow of this.#flows.values()) flow.deficit += (laps - 1) * this.#quantumTokens * flow.tenant.weight;
  }

  /** A new tenant is last in the turn that runs. */
  #link(flow: Flow): void {
    const current = this.#current;
    if (current === undefined) {
      this.#current = flow;
      return;
    }
    flow.next = current;
    flow.previous = current.previous;
    current.previous.next = flow;
    current.previous = flow;
  }

  #unlink(flow: Flow): void {
    this.#flows.delete(flow.tenant);
    if (flow.next === flow) {
      this.#current = undefined;
      return;
    }
    flow.previous.next = flow.next;
    flow.next.previous = flow.previous;
    if (this.#current === flow) this.#current = flow.next;
  }
}
