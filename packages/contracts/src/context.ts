import type { PluginInstance, PluginKind } from './plugin.ts';

/** Plain data: what can cross a plane. Typed arrays are columns; functions, signals and class instances are not allowed. */
export type PlainData =
  | undefined
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | readonly PlainData[]
  | { readonly [key: string]: PlainData };

/** Opaque handle of a running timer. */
export type Timer = object;

/**
 * The only source of time. Real in production, virtual in the simulator and in tests.
 * Callbacks run on the event loop, one at a time, in order of due time and then of registration.
 */
export interface Clock {
  /** Monotonic milliseconds (fractional) since an arbitrary start. For durations and deadlines. */
  nowMs(): number;
  /** Milliseconds since the Unix epoch. For people and protocols only. */
  wallMs(): number;
  /** Calls back once after at least `delayMs`. */
  setTimer(delayMs: number, callback: () => void): Timer;
  /** Like `setTimer`, for what looks again and again: under virtual time it does not make time pass by itself. Absent: `setTimer` is as good. */
  setBackgroundTimer?(delayMs: number, callback: () => void): Timer;
  /** Stops a timer; a fired or cleared one is ignored. */
  clearTimer(timer: Timer): void;
  /** Calls back after the current turn of the event loop (setImmediate): the place where a tick's output is gathered and flushed. */
  defer(callback: () => void): void;
  /** Resolves after `delayMs`; rejects with `signal.reason` when aborted first. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>;
}

/** A seeded source of randomness. Not for secrets. */
export interface Random {
  /** Uniform in [0, 1). */
  next(): number;
  /** Uniform integer in [0, bound). */
  below(bound: number): number;
  /** Uniform 32 unsigned bits. */
  u32(): number;
  /** An independent source derived from this one's seed and `label`; does not advance this one. */
  fork(label: string): Random;
}

export type LogFields = Readonly<Record<string, unknown>>;

/** Structured log. Levels: error = needs a person; warn = degraded or wrong input; info = life events; debug = per request. */
export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  child(fields: LogFields): Logger;
  /** Ask before building costly fields. */
  isEnabled(level: 'debug' | 'info' | 'warn' | 'error'): boolean;
}

export interface MetricSpec {
  /** Full Prometheus name, `armature_…`, with the unit last (`_seconds`, `_bytes`, `_total`). */
  readonly name: string;
  readonly help: string;
  /** Bounded label sets only. */
  readonly labelNames?: readonly string[];
}
export interface Counter {
  inc(by?: number): void;
}
export interface Gauge {
  set(value: number): void;
  add(by: number): void;
}
export interface Histogram {
  observe(value: number): void;
}
/** A metric with labels; `with` returns a bound child to keep (resolve at boot, not per request). */
export interface Family<M> {
  with(...labelValues: string[]): M;
}
/** Registering the same name twice returns the same family. */
export interface Metrics {
  counter(spec: MetricSpec): Family<Counter>;
  gauge(spec: MetricSpec): Family<Gauge>;
  histogram(spec: MetricSpec & { readonly buckets?: readonly number[] }): Family<Histogram>;
  /** Called before every scrape, to set gauges from live state. Returns the un-register function. */
  onCollect(callback: () => void): () => void;
}

export type HealthState = 'starting' | 'ready' | 'degraded' | 'draining' | 'failed';
export interface Health {
  /** Reports one component; `reason` says what is wrong and what to do. */
  set(component: string, state: HealthState, reason?: string): void;
  /** Forgets a component (a worker that left). */
  remove(component: string): void;
  /** Worst state of all, with every component. */
  report(): { readonly state: HealthState; readonly components: Readonly<Record<string, { state: HealthState; reason?: string }>> };
}

/** Plain data ⇄ bytes (MessagePack with typed arrays as extension 0x74). One codec for all planes. */
export interface Codec {
  encode(value: PlainData): Uint8Array;
  /** Throws `CODEC_INVALID`. */
  decode(bytes: Uint8Array): PlainData;
}

export interface AdminRequest {
  readonly path: string;
  /** Values of `:name` parts of the pattern. */
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
}
/** An object is answered as JSON with status 200; `undefined` as 404; a string as text/plain. */
export type AdminHandler = (request: AdminRequest) => unknown;
/** Routes of the admin listener. Read-only (GET) by contract. */
export interface AdminRoutes {
  /** `pattern` such as `/decisions/:requestId`. Returns the un-register function. */
  get(pattern: string, description: string, handler: AdminHandler): () => void;
  list(): readonly { readonly pattern: string; readonly description: string }[];
  handle(path: string, query: URLSearchParams): Promise<{ status: number; contentType: string; body: string }>;
}

/**
 * A place in the configuration where a plug-in is named (`use:`), after resolution. Opaque to plug-ins:
 * hand it to `context.instance` (nested slots) or read `use` for messages.
 */
export interface PluginSlot<K extends PluginKind = PluginKind> {
  readonly kind: K;
  readonly use: string;
  /** Where in the file: `models[0].router`. */
  readonly path: string;
  /** What its descriptor says of this configuration (`PluginDescriptor.facts`). */
  readonly facts?: Readonly<Record<string, PlainData>>;
}

/** What a plug-in may touch. Everything is a plain reference to be kept; nothing is resolved per request. */
export interface PluginContext {
  /** Config path of this instance, for example `models[0].router`. */
  readonly path: string;
  readonly log: Logger;
  readonly clock: Clock;
  readonly random: Random;
  readonly metrics: Metrics;
  readonly health: Health;
  readonly codec: Codec;
  readonly admin: AdminRoutes;
  /** Aborted when the process begins to close. */
  readonly signal: AbortSignal;
  /** Folder of the configuration file: relative paths in config are relative to it. */
  readonly baseDir: string;
  /** The enclosing scopes, innermost first: `{ kind: 'worker', name: 'prefill/0' }, { kind: 'model', name: 'demo' }`, with what the deployment said of them. */
  readonly scopes: readonly { readonly kind: string; readonly name: string; readonly facts: Readonly<Record<string, PlainData>> }[];
  /** The nearest instance of a kind named in `requires`. Throws `PLUGIN_REQUIREMENT_UNDECLARED` or `PLUGIN_REQUIREMENT_MISSING`. */
  get<K extends PluginKind>(kind: K): PluginInstance<K>;
  /** Like `get`, `undefined` when there is none. */
  find<K extends PluginKind>(kind: K): PluginInstance<K> | undefined;
  /** All instances of the nearest scope that has any, in config order. */
  all<K extends PluginKind>(kind: K): readonly PluginInstance<K>[];
  /** The instance in a slot of this plug-in's own config. */
  instance<K extends PluginKind>(slot: PluginSlot<K>): PluginInstance<K>;
}

/** A nested container: process ⊃ model ⊃ worker. Opened by the deployment only. */
export interface Scope {
  readonly kind: string;
  readonly name: string;
  /** Instance in a slot of this scope's config node. */
  instance<K extends PluginKind>(slot: PluginSlot<K>): PluginInstance<K>;
  find<K extends PluginKind>(kind: K): PluginInstance<K> | undefined;
  openScope(node: object, options: ScopeOptions): Promise<Scope>;
  /** Starts its instances in the order of `requires`. On failure everything already started is closed again. */
  start(): Promise<void>;
  /** Drains, then closes, children first and in reverse order of start; failures are collected in one AggregateError. */
  close(deadlineMs: number): Promise<void>;
}

export interface ScopeOptions {
  /** `model` or `worker`, as marked by `x-scope` in the schema. */
  readonly kind: string;
  readonly name: string;
  /** What the plug-ins inside may know of their scope (`context.scopes[i].facts`), for example `ModelFacts`. */
  readonly facts?: Readonly<Record<string, PlainData>>;
  /** Instances that replace what the config says, by kind (tests, simulator). */
  readonly overrides?: Partial<{ [K in PluginKind]: PluginInstance<K> }>;
}

/** What only a `deployment` gets: it decides which scopes exist. */
export interface DeploymentContext extends PluginContext {
  /** Creates (does not start) the instances of every slot below `node`, an object of the effective config marked `x-scope`. */
  openScope(node: object, options: ScopeOptions): Promise<Scope>;
  /** Effective configuration with secrets masked, for the admin listener. */
  effectiveConfig(): PlainData;
}
