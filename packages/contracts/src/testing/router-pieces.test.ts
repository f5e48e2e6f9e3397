import { expect, test } from 'vitest';
import type { Candidates, RouterFilter, RouterPicker, RouterScorer, RoutingRequest } from '../index.ts';
import { routerFilterRules, routerPickerRules, routerScorerRules } from './router-pieces.ts';
import type { ContractRule } from './runner.ts';

async function failures(rules: readonly ContractRule[]): Promise<string[]> {
  const failed: string[] = [];
  for (const rule of rules) {
    try {
      await rule.run();
    } catch {
      failed.push(rule.name);
    }
  }
  return failed;
}

const scorer = (score: RouterScorer['score'], rest: Partial<RouterScorer> = {}): RouterScorer => ({ name: 'cheapest', score, ...rest });
const good: RouterScorer['score'] = (_request, candidates, costs) => {
  for (let i = 0; i < candidates.count; i++) costs[i] += candidates.costPerHour[i];
};

test('sound pieces pass', async () => {
  expect(await failures(routerScorerRules(() => scorer(good)))).toEqual([]);
  expect(await failures(routerFilterRules(() => ({ name: 'none', filter: () => {} })))).toEqual([]);
  const first = (_r: RoutingRequest, candidates: Candidates, costs: Float64Array): number => costs.subarray(0, candidates.count).findIndex((cost) => cost !== Infinity);
  expect(await failures(routerPickerRules(() => ({ name: 'first', pick: first })))).toEqual([]);
});

const brokenScorers: Record<string, [RouterScorer, RegExp]> = {
  'NaN at zero': [scorer((_r, c, costs) => { for (let i = 0; i < c.count; i++) costs[i] += c.costPerHour[i] / c.costPerHour[i]; }), /finite/],
  'overwrites an exclusion': [scorer((_r, c, costs) => { for (let i = 0; i < c.count; i++) costs[i] = 1; }), /keeps \+Infinity/],
  'writes past the count': [scorer((_r, _c, costs) => { costs.fill(2); }), /keeps \+Infinity/],
  'changes a column': [scorer((r, c, costs) => { good(r, c, costs); c.activeRequests[0] = 7; }), /changes neither/],
  'explains from hidden state': [scorer(good, { explain: ((n) => () => ({ n: n++ }))(0) }), /explain/],
  'does not apply, and yet adds': [scorer(good, { applies: () => false }), /applies/],
  'closes once': [scorer(good, { close: ((n) => () => { if (n++ > 0) throw new Error('again'); })(0) }), /lifecycle/],
};
for (const [name, [piece, rule]] of Object.entries(brokenScorers)) {
  test(`broken scorer "${name}" fails its rule`, async () => {
    const failed = await failures(routerScorerRules(() => piece));
    expect(failed.some((entry) => rule.test(entry)), failed.join()).toBe(true);
  });
}

const brokenFilters: Record<string, RouterFilter['filter']> = {
  'resets what others excluded': (_r, _c, excluded) => void excluded.fill(0),
  'rotates': ((n) => (_r: RoutingRequest, c: Candidates, excluded: Uint8Array) => { if (c.count > 0) excluded[n++ % c.count] = 1; })(0),
  'writes past the count': (_r, _c, excluded) => void excluded.fill(1),
};
test('a filter that does not apply, and yet excludes, fails', async () => {
  const filter: RouterFilter = { name: 'first', applies: () => false, filter: (_r, c, excluded) => { if (c.count > 0) excluded[0] = 1; } };
  expect(await failures(routerFilterRules(() => filter))).toEqual(['applies: false only where filter excludes nobody']);
});

for (const [name, filter] of Object.entries(brokenFilters)) {
  test(`broken filter "${name}" fails`, async () => {
    expect((await failures(routerFilterRules(() => ({ name, filter })))).length).toBeGreaterThan(0);
  });
}

const brokenPickers: Record<string, RouterPicker['pick']> = {
  'picks an excluded worker': () => 0,
  'counts the cost up': (_r, c, costs) => { const at = costs.subarray(0, c.count).findIndex((cost) => cost !== Infinity); if (at >= 0) costs[at]++; return at; },
};
for (const [name, pick] of Object.entries(brokenPickers)) {
  test(`broken picker "${name}" fails`, async () => {
    expect((await failures(routerPickerRules(() => ({ name, pick })))).length).toBeGreaterThan(0);
  });
}
