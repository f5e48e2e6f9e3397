import type { KvHostPull, KvLender } from '@armature/contracts';

/** A worker as vLLM carries it in `kv_transfer_params.armature`: plain JSON. */
export function lenderWords({ instanceId, address, agentMetadata, layoutFingerprint }: KvLender): Readonly<Record<string, unknown>> {
  return { instanceId, address, agent: Buffer.from(agentMetadata).toString('base64'), layout: layoutFingerprint };
}

/** Undefined: not those words. They come through clients of vLLM: nothing of them is believed before a block's checksum was right. */
export function parseLender(value: unknown): NonNullable<KvHostPull['lender']> | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { instanceId, address, agent, layout, blocks } = value as Readonly<Record<string, unknown>>;
  if (typeof instanceId !== 'string' || typeof address !== 'string' || typeof agent !== 'string' || typeof layout !== 'string') return undefined;
  if (typeof blocks !== 'number' || !Number.isSafeInteger(blocks) || blocks < 1) return undefined;
  return { worker: { instanceId, address, agentMetadata: Buffer.from(agent, 'base64'), layoutFingerprint: layout }, blocks };
}
