import type { KvEvictionOrder, KvOffloadRule, KvPolicy, KvTier } from '@armature/contracts';
import { offloadRule } from './config.ts';
import type { KvPolicyConfig } from './config.ts';

/** The rules of a config around one of the eviction orders. */
export class ConfiguredPolicy implements KvPolicy {
  readonly name: string;
  readonly prefetch: KvPolicy['prefetch'];
  readonly #rules: Readonly<Record<KvTier, KvOffloadRule>>;
  readonly #createOrder: (places: number) => KvEvictionOrder;

  constructor(name: string, config: KvPolicyConfig, createOrder: (places: number) => KvEvictionOrder) {
    const { device, host, disk } = config.offload;
    this.name = name;
    this.prefetch = config.prefetch;
    this.#rules = { device: offloadRule(device), host: offloadRule(host), disk: offloadRule(disk), object: offloadRule('never') };
    this.#createOrder = createOrder;
  }

  order(_tier: KvTier, places: number): KvEvictionOrder {
    return this.#createOrder(places);
  }

  offload(tier: KvTier): KvOffloadRule {
    return this.#rules[tier];
  }
}
