import { ArmatureError } from '@armature/contracts';
import type { Clock, Discovery, Logger, PlainData } from '@armature/contracts';
import type { Agent } from '../agent.ts';
import type { MetadataParty } from './listener.ts';

export const METADATA_PREFIX = 'transfer/agents';

export interface PublishOptions {
  readonly agent: Pick<Agent, 'name' | 'incarnation' | 'metadata' | 'onSegmentsChanged'>;
  readonly discovery: Discovery;
  readonly clock: Clock;
  readonly log: Logger;
  /** Default `transfer/agents`. */
  readonly prefix?: string;
  /** How long the entry outlives the process; see `Discovery.register`. */
  readonly ttlMs?: number;
  /** Which segments to publish, asked at every change; default all. */
  readonly segments?: () => readonly number[];
}

/**
 * Keeps an agent's metadata in discovery under `PREFIX/NAME`; published again when segments come or go (changes of one turn of the event loop
 * together). Throws `DISCOVERY_KEY_TAKEN` while another live agent has the name. `close` takes it away.
 */
export async function publishMetadata(options: PublishOptions): Promise<{ close(): Promise<void> }> {
  const { agent, discovery, clock, log, prefix = METADATA_PREFIX, ttlMs } = options;
  const value = (): PlainData => {
    const segments = options.segments?.();
    return { name: agent.name, incarnation: agent.incarnation, metadata: agent.metadata(segments === undefined ? {} : { segments }) };
  };
  const registration = await discovery.register(`${prefix}/${encodeURIComponent(agent.name)}`, value(), ttlMs === undefined ? {} : { ttlMs });
  let isPending = false;
  let isClosed = false;
  let updates: Promise<void> = Promise.resolve();
  const update = (): void => {
    isPending = false;
    if (isClosed) return;
    updates = updates.then(() => registration.update(value())).catch((error: unknown) => log.warn('transfer metadata was not published', { code: ArmatureError.from(error).code }));
  };
  const stop = agent.onSegmentsChanged(() => {
    if (isPending) return;
    isPending = true;
    clock.defer(update);
  });
  return {
    close: async () => {
      isClosed = true;
      stop();
      await updates;
      await registration.close();
    },
  };
}

export interface FollowOptions {
  readonly agent: Pick<MetadataParty, 'name' | 'addPeer' | 'removePeer' | 'peerIncarnation'>;
  readonly discovery: Discovery;
  readonly log: Logger;
  readonly prefix?: string;
  /** Which agents to know; default all but itself. */
  readonly accepts?: (name: string) => boolean;
  readonly onPeer?: (name: string) => void;
}

/** Makes published agents peers, refreshes them, and forgets those whose entry goes. Resolves when all present ones are known. */
export async function followPeers(options: FollowOptions): Promise<{ close(): void }> {
  const { agent, discovery, log, prefix = METADATA_PREFIX, accepts = () => true, onPeer } = options;
  const byKey = new Map<string, { readonly name: string; readonly incarnation: string }>();
  return discovery.watch(`${prefix}/`, {
    put: ({ key, value }) => {
      const entry = published(value);
      if (entry === undefined) {
        log.warn('entry in discovery is no transfer metadata', { key });
        return;
      }
      if (entry.name === agent.name || !accepts(entry.name)) return;
      try {
        const name = agent.addPeer(entry.metadata);
        byKey.set(key, { name, incarnation: agent.peerIncarnation(name) ?? '' });
        onPeer?.(name);
      } catch (error) {
        const { code, message } = ArmatureError.from(error, 'TRANSFER_METADATA_INVALID');
        log.warn('transfer metadata in discovery refused', { key, code, reason: message });
      }
    },
    // A peer that is back already under another incarnation stays.
    removed: (key) => {
      const entry = byKey.get(key);
      byKey.delete(key);
      if (entry !== undefined && agent.peerIncarnation(entry.name) === entry.incarnation) agent.removePeer(entry.name);
    },
  });
}

function published(value: PlainData): { name: string; metadata: Uint8Array } | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { name, metadata } = value as { readonly name?: unknown; readonly metadata?: unknown };
  return typeof name === 'string' && metadata instanceof Uint8Array ? { name, metadata } : undefined;
}
