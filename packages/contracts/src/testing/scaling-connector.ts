import assert from 'node:assert/strict';
import type { ScalingConnector, ScalingOrder, ScalingStatus } from '../planner.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

/** A connector with the outside that it talks to. */
export interface ConnectorUnderTest {
  readonly connector: ScalingConnector;
  /** What the connector has told the outside so far: writes, processes started and told to end. Undefined: it cannot be counted. */
  effects?(): number;
  /** The planner was killed, without `close`, and starts again: a new connector on the same outside. Undefined: it remembers nothing beyond its life. */
  restart?(): Promise<ScalingConnector>;
  /** Ends everything. */
  close(): Promise<void>;
}

export interface ScalingConnectorContractOptions {
  readonly runner: SuiteRunner;
  /** A new connector that is started, on an outside without orders that knows the pools `a` and `b` of the models `m` and `n`. */
  create(): Promise<ConnectorUnderTest>;
  readonly skip?: readonly SkippedRule[];
}

const DEADLINE_MS = 5_000;
const STATES: readonly ScalingStatus['state'][] = ['unknown', 'pending', 'done', 'failed'];

function order(revision: number, a: number, model = 'm'): ScalingOrder {
  return { revision, model, pools: [{ pool: 'a', replicas: a }, { pool: 'b', replicas: 0 }] };
}

/** The rules of scaling-connector v1. */
export function scalingConnectorRules(create: ScalingConnectorContractOptions['create']): ContractRule[] {
  const rule = (name: string, run: (under: ConnectorUnderTest) => Promise<void>): ContractRule => ({
    name,
    run: async () => {
      const under = await create();
      try {
        await run(under);
      } finally {
        await under.close();
      }
    },
  });
  return [
    rule('a model without orders has none in force, and a status', async ({ connector }) => {
      assert.equal(await connector.current('m'), undefined);
      const { revision, state } = connector.status('m');
      assert.ok(STATES.includes(state), `state ${state}`);
      assert.equal(revision, 0);
    }),
    rule('an order that was taken is in force, whole', async ({ connector }) => {
      await connector.apply(order(1, 1), DEADLINE_MS);
      assert.deepEqual(await connector.current('m'), order(1, 1));
    }),
    rule('a later order replaces it', async ({ connector }) => {
      await connector.apply(order(1, 1), DEADLINE_MS);
      await connector.apply(order(2, 0), DEADLINE_MS);
      assert.deepEqual(await connector.current('m'), order(2, 0));
    }),
    rule('an order that comes late does not undo a newer one', async ({ connector }) => {
      await connector.apply(order(7, 1), DEADLINE_MS);
      await connector.apply(order(6, 0), DEADLINE_MS);
      assert.deepEqual(await connector.current('m'), order(7, 1));
    }),
    rule('the same order again changes nothing outside', async ({ connector, effects }) => {
      await connector.apply(order(1, 1), DEADLINE_MS);
      const before = effects?.();
      await connector.apply(order(1, 1), DEADLINE_MS);
      assert.equal(effects?.(), before);
      assert.deepEqual(await connector.current('m'), order(1, 1));
    }),
    rule('models do not know of each other', async ({ connector }) => {
      await connector.apply(order(5, 1), DEADLINE_MS);
      assert.equal(await connector.current('n'), undefined);
      await connector.apply(order(1, 0, 'n'), DEADLINE_MS);
      assert.deepEqual([await connector.current('m'), await connector.current('n')], [order(5, 1), order(1, 0, 'n')]);
    }),
    rule('the status is of an order that was given, and a failure has a reason', async ({ connector }) => {
      await connector.apply(order(3, 1), DEADLINE_MS);
      const { revision, state, reason } = connector.status('m');
      assert.ok(revision >= 0 && revision <= 3, `status of order ${revision}`);
      assert.ok(STATES.includes(state), `state ${state}`);
      if (state === 'failed') assert.ok(reason !== undefined && reason !== '', 'it failed without a reason');
    }),
    rule('a planner that was killed finds the order in force, and the same order again changes nothing', async ({ connector, restart, effects }) => {
      if (restart === undefined) return;
      await connector.apply(order(4, 1), DEADLINE_MS);
      const before = effects?.();
      const again = await restart();
      try {
        assert.deepEqual(await again.current('m'), order(4, 1));
        await again.apply(order(4, 1), DEADLINE_MS);
        assert.equal(effects?.(), before);
      } finally {
        await again.close?.();
      }
    }),
    rule('close is idempotent', async ({ connector }) => {
      await connector.close?.();
      await connector.close?.();
    }),
  ];
}

/** Runs the suite: `scalingConnectorContract({ runner: { describe, it }, create })`. */
export function scalingConnectorContract(options: ScalingConnectorContractOptions): void {
  registerRules(options.runner, 'scaling-connector v1', scalingConnectorRules(options.create), options.skip);
}
