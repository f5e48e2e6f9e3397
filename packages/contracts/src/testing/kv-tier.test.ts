import { describe, expect, it, test } from 'vitest';
import { ReferenceTier } from './kv-tier-reference.test.support.ts';
import type { TierBug } from './kv-tier-reference.test.support.ts';
import { kvTierContract, kvTierRules } from './kv-tier.ts';

kvTierContract({ runner: { describe, it }, create: ({ places, folder }) => new ReferenceTier(places, folder), isPersistent: true });

/** Which rules of that name fail. */
async function failures(bug: TierBug, name: RegExp): Promise<string[]> {
  const rules = kvTierRules({ create: ({ places, folder }) => new ReferenceTier(places, folder, bug), isPersistent: true }).filter((rule) => name.test(rule.name));
  const failed: string[] = [];
  for (const rule of rules) {
    try {
      await rule.run();
    } catch (error) {
      failed.push(`${rule.name}: ${String(error)}`);
    }
  }
  return failed;
}

const bugs: readonly (readonly [TierBug, RegExp])[] = [
  ['loads take no pin', /not evicted nor overwritten/],
  ['evictions are not reported', /reports it/],
  ['refused rows are reported as removed', /nothing goes/],
  ['done comes twice', /ends once/],
  ['duplicates are overwritten', /nor overwritten$/],
  ['quotas are ignored', /at its quota/],
  ['admission is ignored', /does not admit/],
  ['checksums are lost', /checksums and lineage/],
  ['parents are lost', /checksums and lineage/],
  ['match skips gaps', /first gap/],
  ['records in order of places', /parents before/],
  ['foreign content is given out', /another model or layout/],
  ['evicts the newest', /victim of its order/],
  ['close leaves operations', /close ends/],
  ['writes after done', /no byte changes/],
  ['bad rows throw', /bad rows/],
  ['one bad row fails all', /bad rows/],
  ['cancelled stores are matched', /cancelled/],
  ['loads nothing, says Done', /the same bytes/],
  ['forgets at close', /still there/],
  ['probe answers twice', /probe answers once/],
];
for (const [bug, rule] of bugs) {
  test(`a tier where "${bug}" fails its rule`, async () => {
    expect(await failures(bug, rule)).toHaveLength(1);
  });
}
