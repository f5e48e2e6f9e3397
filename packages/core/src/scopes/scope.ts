import { ArmatureError } from '@armature/contracts';
import type { Lifecycle, PluginInstance, PluginKind, PluginSlot, Scope, ScopeOptions } from '@armature/contracts';
import type { DependencyContainer } from 'tsyringe';
import { creationOrder } from '../config/requirements.ts';
import type { ResolvedSlot, ScopeNode } from '../config/graph.ts';
import { BoundContext } from './context.ts';
import { runStep } from './deadline.ts';
import type { ScopeHost } from './host.ts';
import { CoreToken, kindToken } from './tokens.ts';

/** One instance that this scope made and therefore ends. */
interface Live {
  readonly label: string;
  readonly instance: Lifecycle;
  isStarted: boolean;
}

type State = 'created' | 'started' | 'closed';

/** A container with the instances of one place of the configuration, and their life. */
export class ContainerScope implements Scope {
  readonly kind: string;
  readonly name: string;
  readonly facts: NonNullable<ScopeOptions['facts']>;
  readonly parent: ContainerScope | undefined;
  readonly container: DependencyContainer;
  readonly host: ScopeHost;
  readonly #node: ScopeNode;
  readonly #live: Live[] = [];
  readonly #bySlot = new Map<PluginSlot, object>();
  readonly #children: ContainerScope[] = [];
  #state: State = 'created';
  /** The create or start that runs now; close waits for it, so that nothing comes to life behind its back. */
  #current: Promise<unknown> | undefined = undefined;
  #closing: Promise<void> | undefined = undefined;

  constructor(host: ScopeHost, node: ScopeNode, options: ScopeOptions, place: { readonly parent: ContainerScope | undefined; readonly container: DependencyContainer }) {
    this.host = host;
    this.#node = node;
    this.kind = options.kind;
    this.name = options.name;
    this.facts = options.facts ?? {};
    this.parent = place.parent;
    this.container = place.container;
    host.configureScope?.(this.container, { kind: this.kind, name: this.name });
    for (const [kind, instance] of Object.entries({ ...host.overridesFor(this), ...options.overrides })) {
      if (instance !== undefined) this.container.register(kindToken(kind), { useValue: instance });
    }
  }

  /** `model demo / worker a/0`, '' for the process. */
  get path(): string {
    const outer = this.parent?.path ?? '';
    if (this.parent === undefined) return '';
    return `${outer === '' ? '' : `${outer} / `}${this.kind} ${this.name}`;
  }

  /** Creates every instance of the node. A failure closes what exists. */
  async create(): Promise<void> {
    const order = creationOrder(this.#node.slots, () => undefined) ?? [];
    try {
      for (const resolved of order) {
        this.#refuseWhenClosed('create');
        await this.#run(this.#createInstance(resolved));
      }
    } catch (error) {
      throw await this.#closeAfter(error);
    }
  }

  instance<K extends PluginKind>(slot: PluginSlot<K>): PluginInstance<K> {
    const found = this.#bySlot.get(slot) ?? this.parent?.findSlot(slot);
    if (found !== undefined) return found as PluginInstance<K>;
    throw new ArmatureError('PLUGIN_SLOT_UNKNOWN', `there is no instance for ${slot.path ?? 'this slot'} in ${this.path === '' ? 'the process' : this.path}`, {
      hint: 'ask the scope that was opened for the place where the slot stands',
    });
  }

  /** Instance of a slot in this scope or an outer one. */
  findSlot(slot: PluginSlot): object | undefined {
    return this.#bySlot.get(slot) ?? this.parent?.findSlot(slot);
  }

  find<K extends PluginKind>(kind: K): PluginInstance<K> | undefined {
    return this.all(kind)[0];
  }

  /** Instances of the nearest scope that has any, `except` one that asks for its own kind. */
  all<K extends PluginKind>(kind: K, except?: object): readonly PluginInstance<K>[] {
    const token = kindToken(kind);
    if (this.container.isRegistered(token)) {
      const found = this.container.resolveAll<PluginInstance<K>>(token).filter((instance) => instance !== except);
      if (found.length > 0) return found;
    }
    return this.parent?.all(kind, except) ?? [];
  }

  async openScope(node: object, options: ScopeOptions): Promise<ContainerScope> {
    this.#refuseWhenClosed('openScope');
    if (this.#children.some((child) => child.kind === options.kind && child.name === options.name)) {
      throw new ArmatureError('SCOPE_DUPLICATE', `${options.kind} "${options.name}" is open already`, { hint: 'close it first, or give the new one another name' });
    }
    const found = this.host.graph.scopeNode(node);
    const child = new ContainerScope(this.host, found, options, { parent: this, container: this.container.createChildContainer() });
    this.#children.push(child);
    await child.create();
    return child;
  }

  async start(): Promise<void> {
    this.#refuseWhenClosed('start');
    if (this.#state === 'started') return;
    this.#state = 'started';
    try {
      for (const live of [...this.#live]) {
        this.#refuseWhenClosed('start');
        live.isStarted = true;
        const what = `start of ${live.label}`;
        const step = runStep({ clock: this.host.clock, deadlineMs: this.host.deadlines.startMs, what, run: () => live.instance.start?.() });
        await this.#run(step).catch((error: unknown) => {
          throw pluginFailure(error, 'PLUGIN_START_FAILED', what);
        });
      }
    } catch (error) {
      throw await this.#closeAfter(error);
    }
  }

  close(deadlineMs: number): Promise<void> {
    this.#closing ??= this.#close(deadlineMs);
    return this.#closing;
  }

  async #close(deadlineMs: number): Promise<void> {
    const errors: unknown[] = [];
    const untilMs = this.host.clock.nowMs() + deadlineMs;
    this.#state = 'closed';
    await this.#settle(deadlineMs);
    await this.closeChildren(untilMs, errors);
    await this.drainInstances(untilMs, errors);
    await this.closeInstances(errors);
    this.parent?.forget(this);
    if (errors.length > 0) throw new AggregateError(errors, `${errors.length} step(s) failed while ${this.path === '' ? 'the process' : this.path} was closed`);
  }

  /** Children in reverse order of opening. */
  async closeChildren(untilMs: number, errors: unknown[]): Promise<void> {
    for (const child of this.#children.toReversed()) {
      await child.close(Math.max(0, untilMs - this.host.clock.nowMs())).catch((error: unknown) => void errors.push(...flatten(error)));
    }
  }

  /** What was started finishes its work, in reverse order of start. */
  async drainInstances(untilMs: number, errors: unknown[]): Promise<void> {
    for (const live of this.#live.toReversed()) {
      if (!live.isStarted || live.instance.drain === undefined) continue;
      live.isStarted = false; // once
      const leftMs = Math.max(0, untilMs - this.host.clock.nowMs());
      await this.#step(errors, `drain of ${live.label}`, leftMs + this.host.deadlines.graceMs, () => live.instance.drain?.(leftMs));
    }
  }

  /** Everything created is closed, in reverse order of creation; each has its own deadline, so that one that hangs does not keep the rest open. */
  async closeInstances(errors: unknown[]): Promise<void> {
    for (const live of this.#live.toReversed()) {
      if (live.instance.close === undefined) continue;
      await this.#step(errors, `close of ${live.label}`, this.host.deadlines.closeMs, () => live.instance.close?.());
    }
    this.#live.length = 0;
  }

  /** Takes over an instance that was made elsewhere (the deployment itself). */
  adopt(label: string, instance: Lifecycle): void {
    this.#live.push({ label, instance, isStarted: false });
  }

  forget(child: ContainerScope): void {
    const index = this.#children.indexOf(child);
    if (index >= 0) this.#children.splice(index, 1);
  }

  async #createInstance(resolved: ResolvedSlot): Promise<void> {
    const { slot, descriptor } = resolved;
    const given = this.#override(slot.kind);
    const isOwn = this.#node.slots.includes(resolved);
    if (given !== undefined && isOwn) {
      // Whoever gave it starts and ends it.
      this.#bySlot.set(slot, given);
      return;
    }
    const label = `${slot.path} (${slot.kind} "${slot.use}")${this.path === '' ? '' : ` of ${this.path}`}`;
    const context = new BoundContext(this, resolved);
    const instance = await runStep<Lifecycle>({
      clock: this.host.clock,
      deadlineMs: this.host.deadlines.createMs,
      what: `create of ${label}`,
      run: () => descriptor.create(resolved.config, context as never) as Lifecycle | Promise<Lifecycle>,
      late: (value) => void Promise.resolve(value?.close?.()).catch(() => undefined),
    }).catch((error: unknown) => {
      throw pluginFailure(error, 'PLUGIN_CREATE_FAILED', `create of ${label}`);
    });
    if (typeof instance !== 'object' || instance === null) {
      throw new ArmatureError('PLUGIN_INVALID', `create of ${label} returned ${instance === null ? 'null' : typeof instance}, not an instance`, { hint: 'this is a bug of the plug-in' });
    }
    context.bind(instance);
    this.#bySlot.set(slot, instance);
    this.#live.push({ label, instance, isStarted: false });
    // Slots of a plug-in's own config belong to that plug-in alone; others find instances of the scope's own slots by kind.
    if (isOwn) this.container.register(kindToken(slot.kind), { useValue: instance });
  }

  #override(kind: string): object | undefined {
    const token = kindToken(kind);
    if (!this.container.isRegistered(token)) return undefined;
    const first = this.container.resolveAll<object>(token)[0];
    return this.#live.some((live) => live.instance === first) ? undefined : first;
  }

  async #step(errors: unknown[], what: string, deadlineMs: number, run: () => void | Promise<void>): Promise<void> {
    try {
      await runStep({ clock: this.host.clock, deadlineMs, what, run });
    } catch (error) {
      const known = ArmatureError.from(error, 'LIFECYCLE_STEP_FAILED');
      this.container.resolve<BoundContext['log']>(CoreToken.log).error('lifecycle step failed', { step: what, code: known.code, error: known.message });
      errors.push(known.code === 'LIFECYCLE_STEP_FAILED' ? new ArmatureError('LIFECYCLE_STEP_FAILED', `${what} failed: ${known.message}`, { cause: error, hint: 'see the cause' }) : known);
    }
  }

  async #run(step: Promise<unknown>): Promise<void> {
    this.#current = step;
    await step;
  }

  /** Lets a running create or start come to its end, within the deadline. Its failure is reported where it was awaited. */
  async #settle(deadlineMs: number): Promise<void> {
    const current = this.#current;
    if (current === undefined) return;
    const run = (): Promise<void> => current.then(() => undefined, () => undefined);
    await runStep({ clock: this.host.clock, deadlineMs: deadlineMs + this.host.deadlines.graceMs, what: 'running step', run }).catch(() => undefined);
  }

  /** Nothing half-starts: closes what exists, then hands the reason back. What goes wrong on the way is in the log. */
  async #closeAfter(reason: unknown): Promise<unknown> {
    await this.close(0).catch(() => undefined);
    return reason;
  }

  #refuseWhenClosed(what: string): void {
    const place = this.path === '' ? 'the process' : this.path;
    if (this.#state === 'closed') throw new ArmatureError('SCOPE_CLOSED', `${what} was called on ${place}, which is closed`, { hint: 'open a new scope' });
    if (this.host.signal.aborted) throw new ArmatureError('SCOPE_CLOSED', `${what} was called on ${place} while the process closes`, { hint: 'stop when context.signal is aborted' });
  }
}

/** What a plug-in threw, by the plug-in's name. Errors with a code of their own keep it. */
function pluginFailure(error: unknown, code: 'PLUGIN_CREATE_FAILED' | 'PLUGIN_START_FAILED', what: string): ArmatureError {
  if (ArmatureError.is(error)) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new ArmatureError(code, `${what} failed: ${reason}`, { cause: error, hint: 'this plug-in threw an error without a code: report it to its author, with the cause in the log' });
}

export function flatten(error: unknown): unknown[] {
  return error instanceof AggregateError ? (error.errors as unknown[]).flatMap(flatten) : [error];
}
