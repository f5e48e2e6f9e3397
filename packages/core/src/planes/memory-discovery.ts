import { ArmatureError } from '@armature/contracts';
import type { Clock, Codec, Discovery, DiscoveryWatcher, Logger, PlainData, Registration, Timer } from '@armature/contracts';
import { SerialQueue } from './serial-queue.ts';

export interface MemoryPlaneOptions {
  /** Every message makes a codec round trip, so that nothing works in one process that could not work between hosts. */
  readonly encode: boolean;
  readonly codec: Codec;
  readonly clock: Clock;
  readonly log: Logger;
}

interface Entry {
  readonly owner: object;
  readonly ttlMs: number;
  value: PlainData;
}
interface Watch {
  readonly prefix: string;
  readonly watcher: DiscoveryWatcher;
  isOpen: boolean;
}

const DEFAULT_TTL_MS = 10_000;

/**
 * Discovery inside one process. Watchers are called in the turn of the change, each change to all before the next; a change made
 * inside a callback follows after it. Owners live as long as the process, so entries end by `close`, or by `lapse` in fault tests.
 */
export class MemoryDiscovery implements Discovery {
  readonly supports = { processes: false } as const;
  readonly #options: MemoryPlaneOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #watches = new Set<Watch>();
  readonly #timers = new Set<Timer>();
  readonly #queue: SerialQueue;
  #isClosed = false;

  constructor(options: MemoryPlaneOptions) {
    this.#options = options;
    this.#queue = new SerialQueue((error) => options.log.error('discovery watcher threw', { error: String(error) }));
  }

  async register(key: string, value: PlainData, options: { readonly ttlMs?: number } = {}): Promise<Registration> {
    if (this.#isClosed) throw new ArmatureError('DISCOVERY_CLOSED', `"${key}" was registered after discovery was closed`, { hint: 'register before close' });
    if (this.#entries.has(key)) {
      throw new ArmatureError('DISCOVERY_KEY_TAKEN', `another owner holds the key "${key}"`, { hint: 'give this instance another name, or wait until the other one has gone' });
    }
    const owner = {};
    const entry: Entry = { owner, ttlMs: options.ttlMs ?? DEFAULT_TTL_MS, value: this.#pack(value) };
    this.#entries.set(key, entry);
    this.#put(key, entry);
    return {
      update: async (next) => {
        if (this.#entries.get(key)?.owner !== owner) {
          throw new ArmatureError('DISCOVERY_REGISTRATION_CLOSED', `the registration of "${key}" has ended`, { hint: 'register again' });
        }
        entry.value = this.#pack(next);
        this.#put(key, entry);
      },
      close: async () => this.#remove(key, owner),
    };
  }

  watch(prefix: string, watcher: DiscoveryWatcher): Promise<{ close(): void }> {
    if (this.#isClosed) {
      return Promise.reject(new ArmatureError('DISCOVERY_CLOSED', `"${prefix}" was watched after discovery was closed`, { hint: 'watch before close' }));
    }
    const watch: Watch = { prefix, watcher, isOpen: true };
    this.#watches.add(watch);
    const handle = {
      close: () => {
        watch.isOpen = false;
        this.#watches.delete(watch);
      },
    };
    return new Promise((resolve) => {
      for (const [key, entry] of this.#entries) if (key.startsWith(prefix)) this.#deliverPut(watch, key, entry.value);
      this.#queue.push(() => {
        try {
          if (watch.isOpen) watcher.synced?.();
        } finally {
          resolve(handle);
        }
      });
      this.#queue.drain();
    });
  }

  /** The owner of `key` stops renewing, as if its process had died: watchers see `removed` when its time to live has passed. */
  lapse(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    const timer = this.#options.clock.setTimer(entry.ttlMs, () => {
      this.#timers.delete(timer);
      this.#remove(key, entry.owner);
    });
    this.#timers.add(timer);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const timer of this.#timers) this.#options.clock.clearTimer(timer);
    this.#timers.clear();
    for (const watch of this.#watches) watch.isOpen = false;
    this.#watches.clear();
    this.#entries.clear();
  }

  #put(key: string, entry: Entry): void {
    const packed = entry.value;
    for (const watch of this.#watches) if (key.startsWith(watch.prefix)) this.#deliverPut(watch, key, packed);
    this.#queue.drain();
  }

  #deliverPut(watch: Watch, key: string, packed: PlainData): void {
    this.#queue.push(() => {
      if (watch.isOpen) watch.watcher.put({ key, value: this.#unpack(packed) });
    });
  }

  #remove(key: string, owner: object): void {
    if (this.#entries.get(key)?.owner !== owner) return;
    this.#entries.delete(key);
    for (const watch of this.#watches) {
      if (key.startsWith(watch.prefix)) {
        this.#queue.push(() => {
          if (watch.isOpen) watch.watcher.removed(key);
        });
      }
    }
    this.#queue.drain();
  }

  #pack(value: PlainData): PlainData {
    return this.#options.encode ? this.#options.codec.encode(value) : value;
  }

  #unpack(packed: PlainData): PlainData {
    return this.#options.encode ? this.#options.codec.decode(packed as Uint8Array) : packed;
  }
}
