import { describe, expect, it } from 'vitest';
import { isPlugin } from '@armature/contracts';
import type { KvPolicy, PluginDescriptor } from '@armature/contracts';
import { kvPolicyContract } from '@armature/contracts/testing/kv-policy';
import type { KvPolicySupports } from '@armature/contracts/testing/kv-policy';
import { costPolicyDefaults, kvPolicyDefaults } from './config.ts';
import { kvPolicyPlugins } from './plugin.ts';

const supports = (name: string): KvPolicySupports => ({ leastRecentFirst: name !== 'tinylfu', leavesFirst: name === 'lineage' || name === 'cost' });

function create(plugin: (typeof kvPolicyPlugins)[number], config: object = {}): KvPolicy {
  return (plugin as PluginDescriptor<'kv-policy', object>).create({ ...costPolicyDefaults, ...config }, {} as never) as KvPolicy;
}

for (const plugin of kvPolicyPlugins) {
  describe(plugin.name, () => {
    kvPolicyContract({ runner: { describe, it }, create: () => create(plugin), supports: supports(plugin.name) });

    it('is a descriptor whose schema and defaults name the same fields', () => {
      expect(isPlugin(plugin)).toBe(true);
      const schema = plugin.configSchema as { additionalProperties: boolean; properties: Record<string, { default: unknown; properties?: Record<string, { default: unknown }> }> };
      expect(schema.additionalProperties).toBe(false);
      const defaults = Object.fromEntries(
        Object.entries(schema.properties).map(([name, field]) => [name, field.properties === undefined ? field.default : Object.fromEntries(Object.entries(field.properties).map(([key, inner]) => [key, inner.default]))]),
      );
      expect(defaults).toEqual(plugin.name === 'cost' ? costPolicyDefaults : kvPolicyDefaults);
      for (const field of Object.values(schema.properties)) expect(field).toMatchObject({ description: expect.any(String), default: expect.anything() });
    });

    it('follows its config', () => {
      const policy = create(plugin, { offload: { device: { uses: 3 }, host: 'never', disk: 'stored' }, prefetch: 'queue' });
      expect([policy.name, policy.prefetch]).toEqual([plugin.name, 'queue']);
      expect((['device', 'host', 'disk', 'object'] as const).map((tier) => policy.offload(tier))).toEqual([{ when: 'uses', uses: 3 }, { when: 'never' }, { when: 'stored' }, { when: 'never' }]);
    });
  });
}
