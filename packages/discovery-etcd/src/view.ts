import type { Codec, DiscoveryWatcher, Logger } from '@armature/contracts';
import { unpack } from './envelope.ts';
import type { DiscoveryGauges } from './metrics.ts';

/** A key as etcd shows it. */
export interface Stored {
  readonly key: string;
  readonly bytes: Buffer;
}

interface Known {
  readonly id: string;
  readonly bytes: Buffer;
}

/**
 * What one watcher has been told, and the rule what to tell it next. While removals are held (after an outage), an entry that its owner writes
 * again in time is never missing: told is only what really differs.
 */
export class WatchView {
  readonly #watcher: DiscoveryWatcher;
  readonly #codec: Codec;
  readonly #log: Logger;
  readonly #gauges: DiscoveryGauges;
  readonly #known = new Map<string, Known>();
  /** Keys that etcd does not have (any more), but that the watcher still believes in. */
  readonly #held = new Set<string>();
  #isOpen = true;

  constructor(watcher: DiscoveryWatcher, parts: { readonly codec: Codec; readonly log: Logger; readonly gauges: DiscoveryGauges }) {
    this.#watcher = watcher;
    this.#codec = parts.codec;
    this.#log = parts.log;
    this.#gauges = parts.gauges;
  }

  put({ key, bytes }: Stored): void {
    const envelope = unpack(this.#codec, bytes);
    if (envelope === undefined) {
      this.#log.warn('an entry in etcd cannot be read and is ignored', { code: 'DISCOVERY_VALUE_INVALID', key });
      this.removed(key, false);
      return;
    }
    this.#unhold(key);
    const before = this.#known.get(key);
    if (before?.id === envelope.id && before.bytes.equals(bytes)) return;
    // Another owner without a removal in between: it happened while we were away, or is held.
    if (before !== undefined && before.id !== envelope.id) this.#tellRemoved(key);
    if (before?.id !== envelope.id) this.#gauges.entries.add(1);
    this.#known.set(key, { id: envelope.id, bytes });
    this.#tell(() => this.#watcher.put({ key, value: envelope.value }));
  }

  removed(key: string, isHeld: boolean): void {
    if (!this.#known.has(key)) return;
    if (!isHeld) {
      this.#unhold(key);
      this.#tellRemoved(key);
    } else if (!this.#held.has(key)) {
      this.#held.add(key);
      this.#gauges.heldRemovals.add(1);
    }
  }

  /** The whole prefix as it is now; what is missing has gone. */
  replace(entries: readonly Stored[], isHeld: boolean): void {
    const present = new Set(entries.map(({ key }) => key));
    for (const key of [...this.#known.keys()]) if (!present.has(key)) this.removed(key, isHeld);
    for (const entry of entries) this.put(entry);
  }

  synced(): void {
    this.#tell(() => this.#watcher.synced?.());
  }

  /** The grace is over: what has not come back has gone. */
  releaseHeld(): void {
    for (const key of [...this.#held]) this.removed(key, false);
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#gauges.entries.add(-this.#known.size);
    this.#gauges.heldRemovals.add(-this.#held.size);
    this.#known.clear();
    this.#held.clear();
  }

  #unhold(key: string): void {
    if (this.#held.delete(key)) this.#gauges.heldRemovals.add(-1);
  }

  #tellRemoved(key: string): void {
    if (this.#known.delete(key)) this.#gauges.entries.add(-1);
    this.#tell(() => this.#watcher.removed(key));
  }

  #tell(say: () => void): void {
    if (!this.#isOpen) return;
    try {
      say();
    } catch (error) {
      this.#log.error('discovery watcher threw', { error: String(error) });
    }
  }
}
