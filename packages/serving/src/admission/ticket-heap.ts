import type { Ticket } from './ticket.ts';

/** Binary heap of tickets that knows where each one lies: add, take and remove are O(log n). */
export class TicketHeap {
  readonly #items: Ticket[] = [];
  readonly #before: (a: Ticket, b: Ticket) => boolean;
  readonly #place: 'orderIndex' | 'expiryIndex';

  /** `place` is the ticket's field that this heap owns: a ticket is in one heap per field at most. */
  constructor(before: (a: Ticket, b: Ticket) => boolean, place: 'orderIndex' | 'expiryIndex') {
    this.#before = before;
    this.#place = place;
  }

  get size(): number {
    return this.#items.length;
  }

  peek(): Ticket | undefined {
    return this.#items[0];
  }

  add(ticket: Ticket): void {
    this.#items.push(ticket);
    this.#rise(ticket, this.#items.length - 1);
  }

  take(): Ticket | undefined {
    const first = this.#items[0];
    if (first !== undefined) this.remove(first);
    return first;
  }

  /** False: it is not here. */
  remove(ticket: Ticket): boolean {
    const at = ticket[this.#place];
    if (at < 0 || this.#items[at] !== ticket) return false;
    const last = this.#items.pop() as Ticket;
    ticket[this.#place] = -1;
    if (last !== ticket) {
      this.#rise(last, at);
      this.#sink(last, last[this.#place]);
    }
    return true;
  }

  #rise(ticket: Ticket, from: number): void {
    const items = this.#items;
    let at = from;
    while (at > 0) {
      const above = (at - 1) >> 1;
      if (!this.#before(ticket, items[above])) break;
      items[at] = items[above];
      items[at][this.#place] = at;
      at = above;
    }
    items[at] = ticket;
    ticket[this.#place] = at;
  }

  #sink(ticket: Ticket, from: number): void {
    const items = this.#items;
    const { length } = items;
    let at = from;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= length) break;
      if (below + 1 < length && this.#before(items[below + 1], items[below])) below++;
      if (!this.#before(items[below], ticket)) break;
      items[at] = items[below];
      items[at][this.#place] = at;
      at = below;
    }
    items[at] = ticket;
    ticket[this.#place] = at;
  }
}
