import { describe, expect, it } from 'vitest';
import { testRandom } from '../test-support/fakes.ts';
import { config, seedOf, tenant, ticket } from './testing.test.support.ts';
import { DrrOrder } from './drr-order.ts';
import { byPriority, createOrder } from './order.ts';
import type { QueueOrder } from './order.ts';
import type { Tenant } from './tenants.ts';
import type { Ticket } from './ticket.ts';

const QUANTUM = 100;

/** The textbook, with arrays: one list per tenant, walked turn by turn. */
class NaiveDrr {
  readonly #flows: { tenant: Tenant; tickets: Ticket[]; deficit: number; isPaid: boolean }[] = [];

  add(of: Ticket): void {
    const flow = this.#flows.find((entry) => entry.tenant === of.tenant);
    if (flow === undefined) this.#flows.push({ tenant: of.tenant, tickets: [of], deficit: 0, isPaid: false });
    else flow.tickets.push(of);
  }
  take(): Ticket | undefined {
    while (this.#flows.length > 0) {
      const flow = this.#flows[0];
      if (!flow.isPaid) flow.deficit += QUANTUM * flow.tenant.weight;
      flow.isPaid = true;
      const head = flow.tickets[0];
      if (head.costTokens <= flow.deficit) {
        flow.deficit -= head.costTokens;
        flow.tickets.shift();
        if (flow.tickets.length === 0) this.#flows.shift();
        return head;
      }
      flow.isPaid = false;
      this.#flows.shift();
      this.#flows.push(flow);
    }
    return undefined;
  }
  remove(of: Ticket): void {
    const at = this.#flows.findIndex((entry) => entry.tenant === of.tenant);
    const flow = this.#flows[at];
    if (flow === undefined) return;
    flow.tickets = flow.tickets.filter((entry) => entry !== of);
    if (flow.tickets.length === 0) this.#flows.splice(at, 1);
  }
}

describe('deficit round robin', () => {
  it('does what the textbook does, in any order of arrivals, departures and turns', () => {
    const seed = seedOf();
    console.log(`drr seed ${seed}`);
    for (let round = 0; round < 200; round++) {
      const random = testRandom(seed + round);
      const tenants = Array.from({ length: 1 + random.below(8) }, (_, i) => tenant(`t${i}`, [1, 1, 2, 0.5, 0.25][random.below(5)]));
      const [order, naive] = [new DrrOrder(QUANTUM, byPriority(0)), new NaiveDrr()];
      const waiting = new Set<Ticket>();
      for (let step = 0; step < 300; step++) {
        const dice = random.below(10);
        if (dice < 5) {
          const one = ticket(tenants[random.below(tenants.length)], 1 + random.below(random.below(4) === 0 ? 3_000 : 150));
          for (const of of [order, naive]) of.add(one);
          waiting.add(one);
        } else if (dice < 9) {
          const taken = order.take();
          expect(taken, `seed ${seed + round} step ${step}`).toBe(naive.take());
          if (taken !== undefined) waiting.delete(taken);
        } else {
          const [one] = waiting;
          if (one === undefined) continue;
          for (const of of [order, naive]) of.remove(one);
          waiting.delete(one);
        }
        expect(order.size).toBe(waiting.size);
      }
    }
  });

  /** Largest difference, per weight, of the tokens that two tenants sent while both waited. */
  function unfairness(order: QueueOrder, seed: number): { readonly most: number; readonly bound: number } {
    const random = testRandom(seed);
    const tenants = [tenant('heavy'), tenant('light'), tenant('double', 2)];
    const largest = 400;
    const sent = new Map(tenants.map((of) => [of, 0]));
    let left = 0;
    for (const [of, requests] of [[tenants[0], 900], [tenants[1], 300], [tenants[2], 600]] as const) {
      for (let i = 0; i < requests; i++, left++) order.add(ticket(of, 1 + random.below(largest)));
    }
    let most = 0;
    for (let i = 0; i < left / 3; i++) {
      const taken = order.take() as Ticket;
      sent.set(taken.tenant, (sent.get(taken.tenant) ?? 0) + taken.costTokens);
      const shares = tenants.map((of) => (sent.get(of) ?? 0) / of.weight);
      most = Math.max(most, Math.max(...shares) - Math.min(...shares));
    }
    return { most, bound: 2 * (QUANTUM + largest) };
  }

  it('keeps tenants that wait within a quantum and a request of each other; first come, first served does not', () => {
    const seed = seedOf();
    console.log(`drr fairness seed ${seed}`);
    for (let round = 0; round < 20; round++) {
      const { most, bound } = unfairness(new DrrOrder(QUANTUM, byPriority(0)), seed + round);
      expect(most, `seed ${seed + round}`).toBeLessThanOrEqual(bound);
    }
    const { most, bound } = unfairness(createOrder({ ...config, order: 'fcfs' }), seed);
    expect(most).toBeGreaterThan(10 * bound);
  });

  it('gives back what was estimated too high, and takes what was too low', () => {
    const share = (settled: number): number => {
      const order = new DrrOrder(QUANTUM, byPriority(0));
      const [a, b] = [tenant('a'), tenant('b')];
      for (let i = 0; i < 40; i++) {
        order.add(ticket(a, 100));
        order.add(ticket(b, 100));
      }
      let ofA = 0;
      for (let i = 0; i < 30; i++) {
        const taken = order.take() as Ticket;
        if (taken.tenant === a) ofA++;
        order.settle(taken, taken.tenant === a ? settled : 100);
      }
      return ofA;
    };
    expect(share(100)).toBe(15);
    expect(share(50)).toBe(20); // half the price, twice as many
    expect(share(200)).toBe(10);
  });

  it('pays laps in which nobody can send at once', () => {
    const order = new DrrOrder(1, byPriority(0));
    const tenants = Array.from({ length: 50 }, (_, i) => tenant(`t${i}`, 0.001));
    let weighed = 0;
    for (const of of tenants) {
      const watched = { ...of, get weight(): number {
        weighed++;
        return 0.001;
      } };
      order.add(ticket(watched, 100_000));
    }
    expect(order.take()).toBeDefined();
    expect(weighed).toBeLessThan(50 * 10); // turn by turn it would be 100,000,000 laps
  });

  it('lets a tenant order its own requests', () => {
    const order = new DrrOrder(1_000, byPriority(0));
    const of = tenant('t');
    const [low, high] = [ticket(of, 10, { priority: -1 }), ticket(of, 10, { priority: 1 })];
    order.add(low);
    order.add(high);
    expect([order.take(), order.take()]).toEqual([high, low]);
  });
});
