import assert from 'node:assert/strict';
import type { DisaggregationInput, DisaggregationPolicy } from '../disaggregation-policy.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface DisaggregationPolicyContractOptions {
  readonly runner: SuiteRunner;
  /** A new policy, independent of all others. */
  create(): DisaggregationPolicy | Promise<DisaggregationPolicy>;
  readonly skip?: readonly SkippedRule[];
}

/** Local and remote: unknown, one of them unknown, either better, free, never. */
const PREDICTIONS = [[NaN, NaN], [10, NaN], [NaN, 10], [10, 20], [20, 10], [0, 0], [Infinity, 5]] as const;

/** Edge values and everything between: any input that a host may bring. */
function* inputs(): Generator<DisaggregationInput> {
  for (const promptTokens of [1, 16, 2048, 131_072]) {
    for (const share of [0, 0.5, 1]) {
      for (const load of [0, 1, 8192, 1e9]) {
        for (const prefillWorkers of [0, 1, 64]) {
          for (const [localFirstTokenMs, remoteFirstTokenMs] of PREDICTIONS) {
            yield { promptTokens, overlapTokens: Math.floor(promptTokens * share), prefillWorkers, leastPrefillTokens: load, decodePrefillTokens: 1e9 - load, localFirstTokenMs, remoteFirstTokenMs };
          }
        }
      }
    }
  }
}

/** The rules of disaggregation-policy v1. */
export function disaggregationPolicyRules(create: DisaggregationPolicyContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'shape: a name, and both settings have a value',
      run: async () => {
        const policy = await create();
        assert.equal(typeof policy.name, 'string');
        assert.notEqual(policy.name, '');
        assert.equal(typeof policy.creditsDecodeOverlap, 'boolean');
        assert.ok(policy.whenNoPrefillWorker === 'local' || policy.whenNoPrefillWorker === 'fail', `whenNoPrefillWorker is ${policy.whenNoPrefillWorker}`);
      },
    },
    {
      name: 'answers true or false for any input, without throwing',
      run: async () => {
        const policy = await create();
        for (const input of inputs()) assert.equal(typeof policy.isRemote({ ...input }), 'boolean', JSON.stringify(input));
      },
    },
    {
      name: 'does not change its input: the host reuses it',
      run: async () => {
        const policy = await create();
        for (const input of inputs()) {
          const given = { ...input };
          policy.isRemote(given);
          assert.deepEqual(given, input);
        }
      },
    },
    {
      name: 'does not keep its input: a later change of the object changes no earlier answer',
      run: async () => {
        const policy = await create();
        const all = [...inputs()];
        const fresh = all.map((input) => policy.isRemote({ ...input }));
        const reused = { ...(all[0] as DisaggregationInput) };
        const again = all.map((input) => policy.isRemote(Object.assign(reused, input)));
        assert.deepEqual(again, fresh);
      },
    },
    {
      name: 'more uncached tokens never turn a remote prompt local, all else equal',
      run: async () => {
        const policy = await create();
        for (const input of inputs()) {
          if (input.overlapTokens === 0 || !policy.isRemote({ ...input })) continue;
          assert.equal(policy.isRemote({ ...input, overlapTokens: 0 }), true, JSON.stringify(input));
        }
      },
    },
  ];
}

/** Runs the suite: `disaggregationPolicyContract({ runner: { describe, it }, create })`. */
export function disaggregationPolicyContract(options: DisaggregationPolicyContractOptions): void {
  registerRules(options.runner, 'disaggregation-policy v1', disaggregationPolicyRules(options.create), options.skip);
}
