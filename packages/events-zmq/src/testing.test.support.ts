import { deserialize, serialize } from 'node:v8';
import type { Codec, Discovery, DiscoveryWatcher, Health, Logger, PlainData, Registration } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import type { EventMetrics } from './metrics.ts';
import { zmqEvents } from './plugin.ts';
import { ZmqEvents } from './zmq-events.ts';
import type { ZmqEventsConfig } from './zmq-events.ts';

/** Stands for the codec of core, which a plug-in does not see. */
export const testCodec: Codec = {
  encode: (value) => serialize(value),
  // A copy: what is decoded owns its memory.
  decode: (bytes) => deserialize(Uint8Array.from(bytes)) as PlainData,
};

export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}
export function recordingLogger(lines: LogLine[] = []): Logger & { readonly lines: LogLine[] } {
  const line = (level: string) => (message: string, fields: Readonly<Record<string, unknown>> = {}) => void lines.push({ level, message, fields });
  const log = { lines, debug: line('debug'), info: line('info'), warn: line('warn'), error: line('error'), isEnabled: () => true, child: (): Logger => log };
  return log;
}

export type Counts = Record<'published' | 'delivered' | 'dropped' | 'gaps' | 'replayed' | 'lost' | 'refused', number>;
export function countingMetrics(): EventMetrics & { readonly counts: Counts } {
  const counts: Counts = { published: 0, delivered: 0, dropped: 0, gaps: 0, replayed: 0, lost: 0, refused: 0 };
  const counter = (name: keyof Counts): { inc(by?: number): void } => ({ inc: (by = 1) => void (counts[name] += by) });
  const names = Object.keys(counts) as (keyof Counts)[];
  const made = Object.fromEntries(names.map((name) => [name, counter(name)])) as unknown as EventMetrics;
  return { ...made, counts, collect: () => () => undefined };
}

export const silentHealth: Health = { set: () => undefined, remove: () => undefined, report: () => ({ state: 'ready', components: {} }) };

/** Discovery of one process; `mirror` is told of everything, for other processes. */
export class FakeDiscovery implements Discovery {
  readonly supports = { processes: false } as const;
  readonly entries = new Map<string, PlainData>();
  readonly #watchers = new Set<DiscoveryWatcher>();
  readonly #mirror: (key: string, value: PlainData) => void;

  constructor(mirror: (key: string, value: PlainData) => void = () => undefined) {
    this.#mirror = mirror;
  }

  async register(key: string, value: PlainData): Promise<Registration> {
    this.put(key, value);
    this.#mirror(key, value);
    return {
      update: async () => undefined,
      close: async () => {
        this.remove(key);
        this.#mirror(key, null);
      },
    };
  }

  async watch(_prefix: string, watcher: DiscoveryWatcher): Promise<{ close(): void }> {
    this.#watchers.add(watcher);
    for (const [key, value] of this.entries) watcher.put({ key, value });
    watcher.synced?.();
    return { close: () => void this.#watchers.delete(watcher) };
  }

  put(key: string, value: PlainData): void {
    this.entries.set(key, value);
    for (const watcher of this.#watchers) watcher.put({ key, value });
  }

  remove(key: string): void {
    this.entries.delete(key);
    for (const watcher of this.#watchers) watcher.removed(key);
  }
}

/** The defaults of the plug-in's own schema. */
export function defaults(config: Partial<ZmqEventsConfig> = {}): ZmqEventsConfig {
  const properties = zmqEvents.configSchema['properties'] as Record<string, { readonly default?: unknown }>;
  const values = Object.entries(properties).filter(([, schema]) => schema.default !== undefined);
  return { ...(Object.fromEntries(values.map(([name, schema]) => [name, schema.default])) as unknown as ZmqEventsConfig), ...config };
}

export interface TestPlane extends ZmqEvents {
  readonly counts: Counts;
  readonly lines: readonly LogLine[];
}

export async function startPlane(discovery: Discovery, config: Partial<ZmqEventsConfig> = {}, load?: () => Promise<unknown>): Promise<TestPlane> {
  const metrics = countingMetrics();
  const log = recordingLogger();
  const plane = new ZmqEvents({ config: defaults(config), discovery, clock: realClock, codec: testCodec, log, health: silentHealth, metrics, ...(load === undefined ? {} : { load }) });
  await plane.start();
  return Object.assign(plane, { counts: metrics.counts, lines: log.lines });
}

/** Fails with `what` when it does not come true within `waitMs`. */
export async function until(what: string, isTrue: () => boolean, waitMs = 20_000): Promise<void> {
  const giveUpAt = performance.now() + waitMs;
  while (!isTrue()) {
    if (performance.now() > giveUpAt) throw new Error(`did not happen: ${what}`);
    await new Promise((resolve) => void setTimeout(resolve, 5));
  }
}
