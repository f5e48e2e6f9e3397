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
      /** Salt of the request that stored them (its tenant), within the worker only: hosts do not publish it. */
      readonly cacheSalt?: string;
    }
  | { readonly type: 'removed'; readonly eventId: number; readonly sequenceHashes: Int32Array; readonly tier: KvTier }
  /** `tier` absent: nothing is held in any tier. */
  | { readonly type: 'cleared'; readonly eventId: number; readonly tier?: KvTier };

/** Subject of KV events on the event plane: `kv/MODEL/INSTANCE`. */
export function kvEventSubject(model: string, instanceId: string): string {
  return `kv/${model}/${instanceId}`;
}
