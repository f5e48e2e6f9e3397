import { describe, expect, it } from 'vitest';
import { isPlugin } from '@armature/contracts';
import { routerFilterContract, routerPickerContract, routerScorerContract } from '@armature/contracts/testing/router-pieces';
import { routerPolicyContract } from '@armature/contracts/testing/router-policy';
import { fakeContext } from './fixtures.test.support.ts';
import { kvPolicyDefaults, routerPlugins } from './index.ts';
import { SessionScorer } from './scorers/session.ts';
import { PreferredTaintsScorer } from './scorers/taints.ts';

const runner = { describe, it };
let seed = 0;
for (const plugin of routerPlugins) {
  describe(plugin.name, () => {
    const create = (): never => plugin.create({ ...kvPolicyDefaults, predictSeconds: 0 } as never, // predictions outlive requests, which the rules on load would take for load
       fakeContext(++seed)) as never;
    if (plugin.kind === 'router-policy') routerPolicyContract({ runner, create });
    if (plugin.kind === 'router-scorer') routerScorerContract({ runner, create });
    if (plugin.kind === 'router-filter') routerFilterContract({ runner, create });
    if (plugin.kind === 'router-picker') routerPickerContract({ runner, create });

    it('has a closed config schema with description and default on every field', () => {
      expect(isPlugin(plugin)).toBe(true);
      const schema = plugin.configSchema as { additionalProperties: boolean; properties: Record<string, Record<string, unknown>> };
      expect(schema.additionalProperties).toBe(false);
      for (const [name, field] of Object.entries(schema.properties)) {
        expect(field).toMatchObject({ description: expect.any(String), ...(name === 'picker' ? {} : { default: expect.anything() }) });
      }
    });
  });
}

for (const create of [() => new SessionScorer(), () => new PreferredTaintsScorer()]) describe(create().name, () => routerScorerContract({ runner, create }));

it('the schema and the defaults of kv name the same fields', () => {
  const schema = routerPlugins[0].configSchema as { properties: Record<string, { default: unknown }> };
  const defaults = Object.fromEntries(Object.entries(schema.properties).filter(([name]) => name !== 'picker').map(([name, field]) => [name, field.default]));
  expect(defaults).toEqual(kvPolicyDefaults);
});
