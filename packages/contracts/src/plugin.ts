import { ArmatureError } from './errors.ts';
import type { DeploymentContext, PlainData, PluginContext } from './context.ts';
import type { Deployment } from './deployment.ts';
import type { DisaggregationPolicy } from './disaggregation-policy.ts';
import type { Discovery } from './discovery.ts';
import type { EngineBackend } from './engine-backend.ts';
import type { EventPlane } from './event-plane.ts';
import type { Frontend } from './frontend.ts';
import type { HttpServer } from './http-server.ts';
import type { KvPolicy } from './kv-policy.ts';
import type { KvTierBackend } from './kv-tier.ts';
import type { PlannerPolicy, ScalingConnector } from './planner.ts';
import type { Preprocessor } from './preprocessor.ts';
import type { RequestPlane } from './request-plane.ts';
import type { RouterFilter, RouterPicker, RouterScorer } from './router-pieces.ts';
import type { RouterPolicy } from './router-policy.ts';
import type { TransferTransport } from './transfer-transport.ts';

const MARK = Symbol.for('armature/plugin');

/** One row per kind and contract version. Outsiders add rows by declaration merging. */
export interface PluginKinds {
  deployment: { v1: Deployment };
  'http-server': { v1: HttpServer };
  frontend: { v1: Frontend };
  preprocessor: { v1: Preprocessor };
  'engine-backend': { v1: EngineBackend };
  'router-policy': { v1: RouterPolicy };
  'router-filter': { v1: RouterFilter };
  'router-scorer': { v1: RouterScorer };
  'router-picker': { v1: RouterPicker };
  'disaggregation-policy': { v1: DisaggregationPolicy };
  'kv-tier': { v1: KvTierBackend };
  'kv-policy': { v1: KvPolicy };
  'planner-policy': { v1: PlannerPolicy };
  'scaling-connector': { v1: ScalingConnector };
  'transfer-transport': { v1: TransferTransport };
  discovery: { v1: Discovery };
  'event-plane': { v1: EventPlane };
  'request-plane': { v1: RequestPlane };
}

export type PluginKind = keyof PluginKinds & string;
/** The instance type of a kind at its current contract version. */
export type PluginInstance<K extends PluginKind> = PluginKinds[K]['v1'];

/**
 * Life of an instance: created → start → (serving) → drain → close. All optional; a missing step is skipped.
 * `close` is idempotent and may follow `create` directly.
 */
export interface Lifecycle {
  start?(): Promise<void> | void;
  /** Finish what is running, accept nothing new; return when idle or at the deadline. */
  drain?(deadlineMs: number): Promise<void> | void;
  close?(): Promise<void> | void;
}

/** JSON Schema (draft 2020-12) as data. Extra words: `x-kind` (a plug-in slot), `x-scope` (a nested container), `x-secret` (masked). */
export type JsonSchema = Readonly<Record<string, unknown>>;

export interface PluginRequirement {
  readonly kind: PluginKind;
  readonly optional?: boolean;
}

/**
 * Reports one configuration problem. `path`: keys and indices from the plug-in's own `config` downwards; the host adds file, line and
 * column. `message` says what was found, `hint` what to do; `code` defaults to `CONFIG_CHECK_FAILED`.
 */
export type ConfigReport = (problem: {
  readonly path: readonly (string | number)[];
  readonly message: string;
  readonly hint?: string;
  readonly code?: string;
}) => void;

export interface PluginDescriptor<K extends PluginKind = PluginKind, Config = unknown> {
  readonly kind: K;
  /** Contract version this plug-in implements. */
  readonly contract: keyof PluginKinds[K] & string;
  /** What `use:` says; unique within the kind. */
  readonly name: string;
  readonly description: string;
  /** Schema of `config:`; every field has a description and, unless required, a default. */
  readonly configSchema: JsonSchema;
  /** Kinds whose instances `context.get` may return; decides the order of creation. */
  readonly requires?: readonly PluginRequirement[];
  /**
   * What JSON Schema cannot say: names that must be unique, fields that must agree. Called with the effective config (slots resolved to
   * `PluginSlot`) after it has passed the schema, before anything is created. Must not throw; reports every problem it finds.
   */
  check?(config: Config, report: ConfigReport): void;
  /** What the configuration around it may know before anything is created, for its own checks (`PluginSlot.facts`). Must not throw. */
  facts?(config: Config): Readonly<Record<string, PlainData>>;
  /** `config` is validated and has its defaults. Must not start work: no sockets, timers or threads before `start`. */
  create(config: Config, context: K extends 'deployment' ? DeploymentContext : PluginContext): PluginInstance<K> | Promise<PluginInstance<K>>;
}

/** Checks the shape of a descriptor, marks it for the loader (`Symbol.for`, so that package copies do not matter) and freezes it. */
export function definePlugin<K extends PluginKind, Config>(descriptor: PluginDescriptor<K, Config>): PluginDescriptor<K, Config> {
  for (const field of ['kind', 'contract', 'name', 'description'] as const) {
    if (typeof descriptor[field] !== 'string' || descriptor[field] === '') {
      throw new ArmatureError('PLUGIN_DESCRIPTOR_INVALID', `plug-in descriptor has no ${field}`, { hint: `give definePlugin a non-empty string \`${field}\`` });
    }
  }
  if (typeof descriptor.create !== 'function' || typeof descriptor.configSchema !== 'object') {
    throw new ArmatureError('PLUGIN_DESCRIPTOR_INVALID', `plug-in "${descriptor.name}" needs create() and configSchema`, {
      hint: 'see packages/contracts/README.md for the shape',
    });
  }
  return Object.freeze({ ...descriptor, [MARK]: true });
}

/** True for values made by any copy of `definePlugin`. */
export function isPlugin(value: unknown): value is PluginDescriptor {
  return typeof value === 'object' && value !== null && (value as { [MARK]?: unknown })[MARK] === true;
}
