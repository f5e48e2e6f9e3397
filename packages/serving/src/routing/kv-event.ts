import type { KvEvent, KvTier, PlainData } from '@armature/contracts';

const TIERS: readonly unknown[] = ['device', 'host', 'disk', 'object'] satisfies readonly KvTier[];
const isTier = (value: PlainData): value is KvTier => TIERS.includes(value);

/** A worker's word that its events go up to `eventId`: shows a loss at the end of the stream, and that the stream lives. */
export interface KvHeartbeat {
  readonly type: 'heartbeat';
  readonly eventId: number;
}

/** What came from the event plane as an event, or why it is none. Engines and planes of other versions are outside: everything is looked at. */
export function parseKvEvent(payload: PlainData): KvEvent | KvHeartbeat | string {
  if (typeof payload !== 'object' || payload === null || Array.isArray(payload) || ArrayBuffer.isView(payload)) return `the payload is ${payload === null ? 'null' : typeof payload}`;
  const event = payload as Readonly<Record<string, PlainData>>;
  const { type, eventId, tier } = event;
  if (typeof eventId !== 'number' || !Number.isSafeInteger(eventId) || eventId < 0) return `event id is ${String(eventId)}`;
  if (type === 'heartbeat') return { type, eventId };
  if (eventId === 0) return 'event ids count from 1';
  if (type === 'cleared') {
    if (tier === undefined || tier === null) return { type, eventId };
    return isTier(tier) ? { type, eventId, tier } : `tier is ${String(tier)}`;
  }
  if (type !== 'stored' && type !== 'removed') return `event type is ${String(type)}`;
  return blockColumnsFault(event) ?? (payload as unknown as KvEvent);
}

/** What is wrong with the tier, hashes or parent of a `stored` or `removed` event, or undefined. */
function blockColumnsFault({ type, tier, sequenceHashes, parent }: Readonly<Record<string, PlainData>>): string | undefined {
  if (!isTier(tier)) return `tier is ${String(tier)}`;
  if (!(sequenceHashes instanceof Int32Array) || sequenceHashes.length % 2 !== 0) return 'sequence hashes are no column of 64-bit words (Int32Array, two per block)';
  const hasParent = parent instanceof Int32Array && (parent.length === 0 || parent.length === 2);
  return type === 'removed' || hasParent ? undefined : 'the parent is no sequence hash';
}
