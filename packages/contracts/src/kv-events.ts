/** Where a block's KV lies. */
export type KvTier = 'device' | 'host' | 'disk' | 'object';

/**
 * What an engine did to its cache. Sequence hashes are interleaved int32 words (lo, hi), two per block, in chain order.
 * `eventId` counts from 1 without gaps per worker incarnation.
 */
export type KvEvent =
  | {
      readonly type: 'stored';
      readonly eventId: number;
      /** Sequence hash of the block before the first one (2 words), empty at the start of a prompt. */
      readonly parent: Int32Array;
      readonly sequenceHashes: Int32Array;
      readonly tier: KvTier;
    }
  | { readonly type: 'removed'; readonly eventId: number; readonly sequenceHashes: Int32Array; readonly tier: KvTier }
  | { readonly type: 'cleared'; readonly eventId: number };

/** Subject of KV events on the event plane: `kv/MODEL/INSTANCE`. */
export function kvEventSubject(model: string, instanceId: string): string {
  return `kv/${model}/${instanceId}`;
}
