import { describe, expect, it } from 'vitest';
import { isPlugin } from '@armature/contracts';
import { routerPolicyContract } from '@armature/contracts/testing/router-policy';
import { fakeContext } from './fixtures.test.support.ts';
import { kvPolicyDefaults, routerPlugins } from './index.ts';

let seed = 0;
for (const plugin of routerPlugins) {
  describe(plugin.name, () => {
    routerPolicyContract({ runner: { describe, it }, create: () => plugin.create(kvPolicyDefaults as never, fakeContext(++seed)) });

    it('has a closed config schema with description and default on every field', () => {
      expect(isPlugin(plugin)).toBe(true);
      const schema = plugin.configSchema as { additionalProperties: boolean; properties: Record<string, Record<string, unknown>> };
      expect(schema.additionalProperties).toBe(false);
      for (const field of Object.values(schema.properties)) expect(field).toMatchObject({ description: expect.any(String), default: expect.anything() });
    });
  });
}

it('the schema and the defaults of kv name the same fields', () => {
  const schema = routerPlugins[0].configSchema as { properties: Record<string, { default: unknown }> };
  const defaults = Object.fromEntries(Object.entries(schema.properties).map(([name, field]) => [name, field.default]));
  expect(defaults).toEqual(kvPolicyDefaults);
});
