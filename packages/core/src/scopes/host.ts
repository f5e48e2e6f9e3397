import type { Clock, PluginInstance, PluginKind } from '@armature/contracts';
import type { DependencyContainer } from 'tsyringe';
import type { ConfigGraph } from '../config/graph.ts';

export type Overrides = Partial<{ [K in PluginKind]: PluginInstance<K> }>;

/** Longest time of one step of one instance. */
export interface LifecycleDeadlines {
  readonly createMs: number;
  readonly startMs: number;
  /** How much longer than its own deadline a drain may take before it is given up. */
  readonly graceMs: number;
  readonly closeMs: number;
}

export interface ScopeIdentity {
  /** `process`, or the word of `x-scope`. */
  readonly kind: string;
  readonly name: string;
}

/** What all scopes of one process share. */
export interface ScopeHost {
  readonly graph: ConfigGraph;
  readonly clock: Clock;
  readonly baseDir: string;
  readonly deadlines: LifecycleDeadlines;
  readonly signal: AbortSignal;
  overridesFor(scope: ScopeIdentity): Overrides;
  readonly configureScope: ((container: DependencyContainer, scope: ScopeIdentity) => void) | undefined;
}
