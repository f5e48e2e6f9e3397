import { definePlugin } from '@armature/contracts';
import type { KvEvictionOrder, PluginDescriptor } from '@armature/contracts';
import { costPolicySchema, kvPolicySchema } from './config.ts';
import type { CostPolicyConfig, KvPolicyConfig } from './config.ts';
import { CostKeys } from './cost-keys.ts';
import { LeafOrder } from './leaf-order.ts';
import { LruOrder } from './lru-order.ts';
import { ConfiguredPolicy } from './policy.ts';
import { TinyLfuOrder } from './tiny-lfu-order.ts';

function policy(name: string, description: string, createOrder: (places: number) => KvEvictionOrder): PluginDescriptor<'kv-policy', KvPolicyConfig> {
  return definePlugin<'kv-policy', KvPolicyConfig>({
    kind: 'kv-policy',
    contract: 'v1',
    name,
    description,
    configSchema: kvPolicySchema,
    create: (config) => new ConfiguredPolicy(name, config, createOrder),
  });
}

export const lru = policy('lru', 'The least recently used block goes first.', (places) => new LruOrder(places));
export const tinylfu = policy('tinylfu', 'Least recently used first, but a newcomer only outlives others that were asked for less often lately (W-TinyLFU).', (places) => new TinyLfuOrder(places));
export const lineage = policy('lineage', 'A block goes after all that follow it: leaves first, the least recently used of them. The default.', (places) => new LeafOrder(places));

export const cost = definePlugin<'kv-policy', CostPolicyConfig>({
  kind: 'kv-policy',
  contract: 'v1',
  name: 'cost',
  description: 'Leaves first, of them the one that is cheapest to recompute for how often it is used (GreedyDual-Size-Frequency).',
  configSchema: costPolicySchema,
  create: (config) => new ConfiguredPolicy('cost', config, (places) => new LeafOrder(places, new CostKeys(places, config.positionBlocks))),
});

/** The first is the default. */
export const kvPolicyPlugins = [lineage, lru, tinylfu, cost] as const;
