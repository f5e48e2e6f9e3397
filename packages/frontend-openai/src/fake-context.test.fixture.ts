import type { Family, Health, Logger, Metrics, PluginContext, PluginInstance, PluginKind, Random } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';

export { realClock };


export function seeded(seed: number): Random {
  let state = seed >>> 0;
  const u32 = (): number => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return (z ^ (z >>> 16)) >>> 0;
  };
  return { u32, next: () => u32() / 4294967296, below: (bound) => u32() % bound, fork: (label) => seeded(seed + label.length + 1) };
}

export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

export class FakeLog implements Logger {
  readonly lines: LogLine[] = [];
  level: 'debug' | 'off' = 'debug';
  #add(level: string, message: string, fields: Readonly<Record<string, unknown>> = {}): void {
    this.lines.push({ level, message, fields });
  }
  debug(message: string, fields?: Readonly<Record<string, unknown>>): void {
    this.#add('debug', message, fields);
  }
  info(message: string, fields?: Readonly<Record<string, unknown>>): void {
    this.#add('info', message, fields);
  }
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void {
    this.#add('warn', message, fields);
  }
  error(message: string, fields?: Readonly<Record<string, unknown>>): void {
    this.#add('error', message, fields);
  }
  child(): Logger {
    return this;
  }
  isEnabled(): boolean {
    return this.level === 'debug';
  }
}

/** Sums per `name{labels}`; histograms count and sum under `_count`, `_sum`. */
export class FakeMetrics implements Metrics {
  readonly values = new Map<string, number>();

  #add(key: string, by: number): void {
    this.values.set(key, (this.values.get(key) ?? 0) + by);
  }
  #family<M>(name: string, make: (key: string) => M): Family<M> {
    return { with: (...labels) => make(labels.length === 0 ? name : `${name}{${labels.join(',')}}`) };
  }
  counter(spec: { readonly name: string }): ReturnType<Metrics['counter']> {
    return this.#family(spec.name, (key) => ({ inc: (by = 1) => this.#add(key, by) }));
  }
  gauge(spec: { readonly name: string }): ReturnType<Metrics['gauge']> {
    return this.#family(spec.name, (key) => ({ set: (value) => void this.values.set(key, value), add: (by) => this.#add(key, by) }));
  }
  histogram(spec: { readonly name: string }): ReturnType<Metrics['histogram']> {
    return this.#family(spec.name, (key) => ({
      observe: (value) => {
        this.#add(`${key}_count`, 1);
        this.#add(`${key}_sum`, value);
      },
    }));
  }
  onCollect(): () => void {
    return () => undefined;
  }
}

export class FakeHealth implements Health {
  readonly states = new Map<string, 'starting' | 'ready' | 'degraded' | 'draining' | 'failed'>();
  set(component: string, state: 'starting' | 'ready' | 'degraded' | 'draining' | 'failed'): void {
    this.states.set(component, state);
  }
  remove(component: string): void {
    this.states.delete(component);
  }
  report(): ReturnType<Health['report']> {
    const failed = [...this.states.values()].includes('failed');
    return { state: failed ? 'failed' : 'ready', components: {} };
  }
}

export interface FakeContext extends PluginContext {
  readonly log: FakeLog;
  readonly metrics: FakeMetrics;
  readonly health: FakeHealth;
}

/** A context good enough for `create` of this package's plug-ins; `instances` answers every slot of a kind. */
export function fakeContext(instances: Partial<{ [K in PluginKind]: PluginInstance<K> }> = {}): FakeContext {
  const missing = (): never => {
    throw new Error('not in this fake');
  };
  return {
    path: 'frontend',
    log: new FakeLog(),
    clock: realClock,
    random: seeded(1),
    metrics: new FakeMetrics(),
    health: new FakeHealth(),
    codec: { encode: missing, decode: missing },
    admin: { get: () => () => undefined, list: () => [], handle: missing },
    signal: new AbortController().signal,
    baseDir: '/',
    scopes: [],
    get: missing,
    find: () => undefined,
    all: () => [],
    instance: (slot) => (instances[slot.kind] ?? missing()) as PluginInstance<typeof slot.kind>,
  };
}
