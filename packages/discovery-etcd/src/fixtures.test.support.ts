import { deserialize, serialize } from 'node:v8';
import { randomUUID } from 'node:crypto';
import type { Codec, Counter, Family, Gauge, Health, Histogram, Logger, Metrics, PlainData, Random } from '@armature/contracts';
import type { DiscoveryWatcher } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { EtcdDiscovery } from './etcd-discovery.ts';
import type { EtcdDiscoveryConfig } from './options.ts';

const codec: Codec = { encode: (value) => serialize(value), decode: (bytes) => deserialize(bytes) as PlainData };

/** A generator with a printed seed (mulberry32). */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  const u32 = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
  return { u32, next: () => u32() / 2 ** 32, below: (bound) => Math.floor((u32() / 2 ** 32) * bound), fork: (label) => seededRandom(seed + label.length) };
}

/** Counts and keeps what was reported. */
export class Facts implements Metrics {
  readonly values = new Map<string, number>();
  readonly health = new Map<string, string>();
  readonly lines: string[] = [];

  #family<M extends Counter & Gauge & Histogram>(name: string): Family<M> {
    return {
      with: (...labels) => {
        const key = [name.replace('armature_discovery_', ''), ...labels].join(' ');
        this.values.set(key, this.values.get(key) ?? 0);
        const add = (by: number): void => void this.values.set(key, this.get(key) + by);
        return { inc: (by = 1) => add(by), add, set: (value: number) => void this.values.set(key, value), observe: () => undefined } as unknown as M;
      },
    };
  }
  counter = ({ name }: { name: string }): Family<Counter> => this.#family(name);
  gauge = ({ name }: { name: string }): Family<Gauge> => this.#family(name);
  histogram = ({ name }: { name: string }): Family<Histogram> => this.#family(name);
  onCollect = (): (() => void) => () => undefined;
  get(key: string): number {
    return this.values.get(key) ?? 0;
  }
  readonly reports: Health = {
    set: (component, state) => void this.health.set(component, state),
    remove: (component) => void this.health.delete(component),
    report: () => ({ state: 'ready', components: {} }),
  };
  readonly log: Logger = {
    debug: () => undefined,
    info: (message) => void this.lines.push(message),
    warn: (message, fields) => void this.lines.push(`${message} ${String(fields?.['code'] ?? '')} ${String(fields?.['reason'] ?? '')}`),
    error: (message) => void this.lines.push(message),
    child: () => this.log,
    isEnabled: () => true,
  };
}

export const DEFAULTS: EtcdDiscoveryConfig = {
  endpoints: [],
  cluster: 'test',
  namespace: '',
  username: '',
  password: '',
  tls: { caFile: '', certFile: '', keyFile: '', serverName: '' },
  startTimeoutMs: 20_000,
  requestTimeoutMs: 3000,
  operationTimeoutMs: 20_000,
  heartbeatMs: 300,
  reconnectMinMs: 50,
  reconnectMaxMs: 500,
  graceMs: 1500,
  restoreJitterMs: 50,
  maxValueBytes: 1_048_576,
};

export const made = new Map<EtcdDiscovery, { readonly facts: Facts; readonly config: EtcdDiscoveryConfig }>();

export function discovery(config: Partial<EtcdDiscoveryConfig>, seed = 1): EtcdDiscovery {
  const facts = new Facts();
  const full = { ...DEFAULTS, ...config };
  const instance = new EtcdDiscovery({ config: full, baseDir: '/', clock: realClock, random: seededRandom(seed), log: facts.log, metrics: facts, health: facts.reports, codec });
  made.set(instance, { facts, config: full });
  return instance;
}

export function factsOf(instance: EtcdDiscovery): Facts {
  return (made.get(instance) as { facts: Facts }).facts;
}

export const freshNamespace = (): string => `/test/${randomUUID()}/`;

export class Recorder implements DiscoveryWatcher {
  readonly lines: string[] = [];
  readonly entries = new Map<string, PlainData>();
  put({ key, value }: { readonly key: string; readonly value: PlainData }): void {
    this.lines.push(`put ${key} ${JSON.stringify(value)}`);
    this.entries.set(key, value);
  }
  removed(key: string): void {
    this.lines.push(`removed ${key}`);
    this.entries.delete(key);
  }
  synced(): void {
    this.lines.push('synced');
  }
  state(): string {
    return JSON.stringify([...this.entries].sort(([a], [b]) => (a < b ? -1 : 1)));
  }
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Returns when it is true; fails with `what` after a minute. */
export async function until(what: string, isTrue: () => boolean | Promise<boolean>, limitMs = 60_000): Promise<void> {
  const giveUpAt = Date.now() + limitMs;
  while (!(await isTrue())) {
    if (Date.now() > giveUpAt) throw new Error(`did not happen: ${what}`);
    await sleep(10);
  }
}
