import { ArmatureError } from '@armature/contracts';
import type {
  AdminRoutes,
  Clock,
  Codec,
  DeploymentContext,
  Health,
  Logger,
  Metrics,
  PlainData,
  PluginContext,
  PluginInstance,
  PluginKind,
  PluginSlot,
  Random,
  Scope,
  ScopeOptions,
} from '@armature/contracts';
import type { ResolvedSlot } from '../config/graph.ts';
import type { ContainerScope } from './scope.ts';
import { CoreToken } from './tokens.ts';

/** What one plug-in instance may touch. Services are resolved here, once, from the scope's container. */
export class BoundContext implements PluginContext {
  readonly path: string;
  readonly log: Logger;
  readonly clock: Clock;
  readonly random: Random;
  readonly metrics: Metrics;
  readonly health: Health;
  readonly codec: Codec;
  readonly admin: AdminRoutes;
  readonly signal: AbortSignal;
  readonly baseDir: string;
  readonly scopes: PluginContext['scopes'];
  readonly #scope: ContainerScope;
  readonly #resolved: Pick<ResolvedSlot, 'descriptor' | 'inner'>;
  #self: object | undefined = undefined;

  constructor(scope: ContainerScope, resolved: Pick<ResolvedSlot, 'descriptor' | 'inner'> & { readonly slot: Pick<PluginSlot, 'path' | 'use' | 'kind'> }) {
    const { container, host } = scope;
    const { slot } = resolved;
    this.#scope = scope;
    this.#resolved = resolved;
    this.path = slot.path;
    this.scopes = enclosing(scope);
    const scopeFields = Object.fromEntries(this.scopes.map(({ kind, name }) => [kind, name]));
    this.log = container.resolve<Logger>(CoreToken.log).child({ plugin: `${slot.kind}/${slot.use}`, ...scopeFields });
    this.clock = container.resolve<Clock>(CoreToken.clock);
    this.random = container.resolve<Random>(CoreToken.random).fork(`${scope.path}:${slot.path}`);
    this.metrics = container.resolve<Metrics>(CoreToken.metrics);
    this.health = container.resolve<Health>(CoreToken.health);
    this.codec = container.resolve<Codec>(CoreToken.codec);
    this.admin = container.resolve<AdminRoutes>(CoreToken.admin);
    this.signal = host.signal;
    this.baseDir = host.baseDir;
  }

  /** The instance this context was made for; it is never its own provider. */
  bind(instance: object): void {
    this.#self = instance;
  }

  get<K extends PluginKind>(kind: K): PluginInstance<K> {
    const found = this.find(kind);
    if (found !== undefined) return found;
    throw new ArmatureError('PLUGIN_REQUIREMENT_MISSING', `${this.#name()} asks for a ${kind}, and neither its scope nor an outer one has one`, {
      hint: `configure a ${kind}`,
    });
  }

  find<K extends PluginKind>(kind: K): PluginInstance<K> | undefined {
    return this.all(kind)[0];
  }

  all<K extends PluginKind>(kind: K): readonly PluginInstance<K>[] {
    const { descriptor } = this.#resolved;
    if (descriptor.kind !== 'deployment' && descriptor.requires?.some((required) => required.kind === kind) !== true) {
      throw new ArmatureError('PLUGIN_REQUIREMENT_UNDECLARED', `${this.#name()} asks for a ${kind} that its descriptor does not require`, {
        hint: `add { kind: '${kind}' } to requires: the order of creation depends on it`,
      });
    }
    return this.#scope.all(kind, this.#self);
  }

  instance<K extends PluginKind>(slot: PluginSlot<K>): PluginInstance<K> {
    const isOwn = this.#resolved.descriptor.kind === 'deployment' || this.#resolved.inner.some((inner) => inner.slot === slot);
    if (isOwn) return this.#scope.instance(slot);
    throw new ArmatureError('PLUGIN_SLOT_UNKNOWN', `${this.#name()} asks for the instance of a slot that is not in its own config`, {
      hint: 'pass the slot object found in the config given to create',
    });
  }

  #name(): string {
    const { kind, name } = this.#resolved.descriptor;
    return `${kind} "${name}"${this.path === '' ? '' : ` at ${this.path}`}`;
  }
}

/** What the deployment gets more. */
export class RootContext extends BoundContext implements DeploymentContext {
  readonly #process: ContainerScope;

  constructor(process: ContainerScope) {
    const root = process.host.graph.root;
    super(process, { descriptor: root as never, inner: [], slot: { path: '', use: root.name, kind: 'deployment' } });
    this.#process = process;
  }

  openScope(node: object, options: ScopeOptions): Promise<Scope> {
    return this.#process.openScope(node, options);
  }

  effectiveConfig(): PlainData {
    return this.#process.host.graph.masked();
  }
}

function enclosing(scope: ContainerScope): PluginContext['scopes'] {
  const scopes: PluginContext['scopes'][number][] = [];
  for (let at: ContainerScope | undefined = scope; at?.parent !== undefined; at = at.parent) scopes.push({ kind: at.kind, name: at.name, facts: at.facts });
  return scopes;
}
