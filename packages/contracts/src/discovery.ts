import type { PlainData } from './context.ts';
import type { Lifecycle } from './plugin.ts';

export interface DiscoveryEntry {
  /** Slash-separated, for example `workers/demo/decode/0`. */
  readonly key: string;
  readonly value: PlainData;
}

/** Called with the snapshot first, then `synced` once, then ordered deltas without gaps, also over reconnects. */
export interface DiscoveryWatcher {
  put(entry: DiscoveryEntry): void;
  removed(key: string): void;
  synced?(): void;
}

export interface Registration {
  update(value: PlainData): Promise<void>;
  /** Idempotent. Watchers see `removed`. */
  close(): Promise<void>;
}

/** Who is alive. Entries live while their owner renews them (`ttlMs`); the implementation renews by itself until `close`. */
export interface Discovery extends Lifecycle {
  readonly supports: { /** Entries are visible to other processes. */ readonly processes: boolean };
  /** Throws `DISCOVERY_KEY_TAKEN` when another live owner holds the key. */
  register(key: string, value: PlainData, options?: { readonly ttlMs?: number }): Promise<Registration>;
  /** Resolves after `synced`. */
  watch(prefix: string, watcher: DiscoveryWatcher): Promise<{ close(): void }>;
}
