import { describe, expect, it } from 'vitest';
import type { DisaggregationInput, DisaggregationPolicy } from '../disaggregation-policy.ts';
import { disaggregationPolicyRules } from './disaggregation-policy.ts';

const good: DisaggregationPolicy = { name: 'good', creditsDecodeOverlap: true, whenNoPrefillWorker: 'local', isRemote: (input) => input.promptTokens - input.overlapTokens >= 16 };

/** Broken policies, each with the rule it must fail. */
const mutants: readonly [string, string, () => DisaggregationPolicy][] = [
  ['has no name', 'shape', () => ({ ...good, name: '' })],
  ['answers undefined for a full overlap', 'answers true or false', () => ({ ...good, isRemote: (input) => (input.overlapTokens === input.promptTokens ? (undefined as never) : true) })],
  [
    'writes to its input',
    'does not change',
    () => ({
      ...good,
      isRemote: (input) => {
        const isRemote = good.isRemote(input);
        input.promptTokens = 0;
        return isRemote;
      },
    }),
  ],
  [
    'decides by the first object it saw',
    'does not keep',
    () => {
      let kept: DisaggregationInput | undefined;
      let last: DisaggregationInput | undefined;
      return {
        ...good,
        isRemote: (input) => {
          if (input !== last) {
            last = input;
            kept = { ...input };
          }
          return good.isRemote(kept as DisaggregationInput);
        },
      };
    },
  ],
  ['sends cached prompts away and keeps cold ones', 'more uncached', () => ({ ...good, isRemote: (input) => input.overlapTokens > 0 })],
];

describe('the disaggregation-policy suite', () => {
  it('passes a correct policy', async () => {
    for (const rule of disaggregationPolicyRules(() => good)) await rule.run();
  });

  it.each(mutants)('finds a policy that %s', async (_what, broken, create) => {
    const failed: string[] = [];
    for (const rule of disaggregationPolicyRules(create)) {
      try {
        await rule.run();
      } catch {
        failed.push(rule.name);
      }
    }
    expect(failed).toHaveLength(1);
    expect(failed[0]).toContain(broken);
  });
});
