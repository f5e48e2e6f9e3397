import { ArmatureError } from '@armature/contracts';
import type { Discovery, DiscoveryWatcher, PlainData, Registration } from '@armature/contracts';
import { checkKey, KeySpace, namespaceOf } from './keys.ts';
import { closedError } from './errors.ts';
import { EtcdLink } from './link.ts';
import { DiscoveryGauges } from './metrics.ts';
import type { EtcdDiscoveryOptions } from './options.ts';
import { PrefixWatch } from './prefix-watch.ts';
import { Registrar } from './registrar.ts';
import { WatchView } from './view.ts';
import { within } from './wait.ts';

/** Discovery through etcd: entries are keys below one namespace, held by leases of their owners. */
export class EtcdDiscovery implements Discovery {
  readonly supports = { processes: true } as const;
  readonly #options: EtcdDiscoveryOptions;
  readonly #keys: KeySpace;
  readonly #gauges: DiscoveryGauges;
  readonly #link: EtcdLink;
  readonly #registrar: Registrar;
  readonly #watches = new Set<PrefixWatch>();
  #starting: Promise<void> | undefined = undefined;
  #isClosed = false;

  constructor(options: EtcdDiscoveryOptions) {
    this.#options = options;
    const { config, codec, health } = options;
    this.#keys = new KeySpace(namespaceOf(config.namespace, config.cluster));
    this.#gauges = new DiscoveryGauges(options.metrics);
    this.#link = new EtcdLink(options, this.#keys, config.cluster, this.#gauges);
    this.#registrar = new Registrar({ leaves: options, codec, health, link: this.#link, keys: this.#keys, gauges: this.#gauges });
    this.#link.attach(this.#registrar);
  }

  /** Throws `DISCOVERY_UNREACHABLE` and `DISCOVERY_TLS_FAILED` after `startTimeoutMs`; `DISCOVERY_ACCESS_DENIED`, `DISCOVERY_CLUSTER_CONFLICT` and `DISCOVERY_TLS_FILE_UNREADABLE` at once. */
  start(): Promise<void> {
    if (this.#isClosed) return Promise.reject(closedError('etcd was started'));
    return (this.#starting ??= this.#link.start().catch((error: unknown) => {
      this.#starting = undefined; // the link goes on trying; a later call waits again
      throw error;
    }));
  }

  /** Throws `DISCOVERY_KEY_TAKEN`, `DISCOVERY_KEY_INVALID`, `DISCOVERY_VALUE_TOO_LARGE`; `DISCOVERY_UNREACHABLE` after `operationTimeoutMs`. */
  async register(key: string, value: PlainData, options: { readonly ttlMs?: number } = {}): Promise<Registration> {
    if (this.#isClosed) throw closedError(`"${key}" was registered`);
    checkKey(key);
    await this.start();
    return this.#registrar.register(key, value, options.ttlMs);
  }

  async watch(prefix: string, watcher: DiscoveryWatcher): Promise<{ close(): void }> {
    if (this.#isClosed) throw closedError(`"${prefix}" was watched`);
    await this.start();
    const { clock, config, codec, log } = this.#options;
    const view = new WatchView(watcher, { codec, log, gauges: this.#gauges });
    let isSynced = (): void => undefined;
    const synced = new Promise<void>((resolve) => (isSynced = resolve));
    const watch = new PrefixWatch(prefix, view, isSynced, { leaves: this.#options, link: this.#link, keys: this.#keys, gauges: this.#gauges });
    const close = (): void => {
      this.#watches.delete(watch);
      watch.close();
    };
    this.#watches.add(watch);
    this.#link.attach(watch);
    const late = (): ArmatureError =>
      new ArmatureError('DISCOVERY_UNREACHABLE', `the entries below "${prefix}" could not be read within ${config.operationTimeoutMs} ms`, { hint: 'check that etcd runs and that discovery.config.endpoints name it', retryable: true });
    try {
      await within(clock, config.operationTimeoutMs, synced, late);
    } catch (error) {
      close();
      throw error;
    }
    return { close };
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const watch of this.#watches) watch.close();
    this.#watches.clear();
    await this.#registrar.close();
    this.#link.close();
    this.#options.health.remove('discovery');
    this.#options.health.remove('discovery-registrations');
  }
}
