import { describe, expect, it } from 'vitest';
import type { ScalingConnector, ScalingOrder, ScalingStatus } from '../planner.ts';
import { scalingConnectorRules } from './scaling-connector.ts';
import type { ConnectorUnderTest } from './scaling-connector.ts';

/** What survives a planner. */
class Outside {
  readonly orders = new Map<string, ScalingOrder>();
  writes = 0;

  write(order: ScalingOrder): void {
    this.writes++;
    this.orders.set(order.model, order);
  }
}

class Good implements ScalingConnector {
  readonly outside: Outside;
  constructor(outside: Outside) {
    this.outside = outside;
  }
  async apply(order: ScalingOrder): Promise<void> {
    const last = this.outside.orders.get(order.model);
    if (last === undefined || order.revision > last.revision) this.outside.write(order);
  }
  status(model: string): ScalingStatus {
    return { revision: this.outside.orders.get(model)?.revision ?? 0, state: 'pending' };
  }
  async current(model: string): Promise<ScalingOrder | undefined> {
    return this.outside.orders.get(model);
  }
}

function under(make: (outside: Outside) => ScalingConnector): () => Promise<ConnectorUnderTest> {
  return async () => {
    const outside = new Outside();
    return { connector: make(outside), effects: () => outside.writes, restart: async () => make(outside), close: async () => undefined };
  };
}

/** Broken connectors, each with the rule it must fail. */
const mutants: readonly [string, string, (outside: Outside) => ScalingConnector][] = [
  [
    'reports an order nobody gave',
    'without orders',
    (outside) => Object.assign(new Good(outside), { status: (model: string): ScalingStatus => ({ revision: outside.orders.get(model)?.revision ?? 9, state: 'done' }) }),
  ],
  [
    'forgets pools without workers',
    'whole',
    (outside) => Object.assign(new Good(outside), { current: async (model: string) => { const order = outside.orders.get(model); return order && { ...order, pools: order.pools.filter(({ replicas }) => replicas > 0) }; } }),
  ],
  ['keeps its first order', 'a later order', (outside) => Object.assign(new Good(outside), { apply: async (order: ScalingOrder) => void (outside.orders.has(order.model) || outside.write(order)) })],
  [
    'takes the last one that comes',
    'comes late',
    (outside) => Object.assign(new Good(outside), { apply: async (order: ScalingOrder) => void (outside.orders.get(order.model)?.revision !== order.revision && outside.write(order)) }),
  ],
  [
    'starts workers again for the same order',
    'the same order again changes nothing outside',
    (outside) => {
      let lives = 0;
      return Object.assign(new Good(outside), { apply: async (order: ScalingOrder) => void ((outside.orders.get(order.model)?.revision ?? 0) <= order.revision && (order.revision !== 4 || lives++ === 0) && outside.write(order)) });
    },
  ],
  [
    'has one order for all models',
    'know of each other',
    (outside) => Object.assign(new Good(outside), { current: async (model: string) => outside.orders.get(model) ?? [...outside.orders.values()].find(({ revision }) => revision === 5) }),
  ],
  ['fails without a reason', 'has a reason', (outside) => Object.assign(new Good(outside), { status: (model: string): ScalingStatus => ({ revision: outside.orders.get(model)?.revision ?? 0, state: outside.orders.has(model) ? 'failed' : 'unknown' }) })],
  [
    'closes only once',
    'idempotent',
    (outside) => {
      let isClosed = false;
      return Object.assign(new Good(outside), {
        close: () => {
          if (isClosed) throw new Error('closed');
          isClosed = true;
        },
      });
    },
  ],
];

async function failures(create: () => Promise<ConnectorUnderTest>): Promise<string[]> {
  const failed: string[] = [];
  for (const rule of scalingConnectorRules(create)) {
    try {
      await rule.run();
    } catch {
      failed.push(rule.name);
    }
  }
  return failed;
}

describe('the scaling-connector suite', () => {
  it('passes a correct connector', async () => {
    expect(await failures(under((outside) => new Good(outside)))).toEqual([]);
  });

  it.each(mutants)('finds a connector that %s', async (_what, broken, make) => {
    const failed = await failures(under(make));
    expect(failed.some((name) => name.includes(broken)), failed.join()).toBe(true);
  });

  it('finds a connector that remembers nothing of its life before', async () => {
    const failed = await failures(async () => {
      let outside = new Outside();
      return {
        connector: new Good(outside),
        restart: async () => {
          outside = new Outside();
          return new Good(outside);
        },
        close: async () => undefined,
      };
    });
    expect(failed).toEqual(['a planner that was killed finds the order in force, and the same order again changes nothing']);
  });
});
