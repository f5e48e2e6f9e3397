import 'reflect-metadata';
import { randomBytes } from 'node:crypto';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Deployment, Health, Logger, Random } from '@armature/contracts';
import { container as globalContainer, instanceCachingFactory } from 'tsyringe';
import type { DependencyContainer } from 'tsyringe';
import { loadConfig } from './config/load.ts';
import type { ConfigOptions } from './config/load.ts';
import type { ConfigGraph } from './config/graph.ts';
import { AdminRouteTable } from './leaves/admin-routes.ts';
import { HealthRegistry } from './leaves/health.ts';
import { PinoLogger } from './leaves/logger.ts';
import type { LogLevel } from './leaves/logger.ts';
import { PrometheusMetrics } from './leaves/metrics.ts';
import { MsgpackCodec } from './leaves/msgpack-codec.ts';
import { SeededRandom } from './leaves/seeded-random.ts';
import { SystemClock } from './leaves/system-clock.ts';
import { RootContext } from './scopes/context.ts';
import { runStep } from './scopes/deadline.ts';
import type { LifecycleDeadlines, Overrides, ScopeHost, ScopeIdentity } from './scopes/host.ts';
import { ContainerScope, flatten } from './scopes/scope.ts';
import { CoreToken } from './scopes/tokens.ts';

export interface BootOptions extends Omit<ConfigOptions, 'givenKinds'> {
  /** Default: the clock of the machine. */
  readonly clock?: Clock;
  /** A source, or a seed. Default: seeded by the machine. */
  readonly random?: Random | number | string;
  /** Default: pino on standard error, by the `log` section and ARMATURE_LOG_LEVEL, ARMATURE_LOG_FORMAT. */
  readonly logger?: Logger;
  /** Default process metrics (CPU, memory, event loop); off for simulations that boot often. Default true. */
  readonly processMetrics?: boolean;
  readonly deadlines?: Partial<LifecycleDeadlines>;
  /**
   * Instances that replace what the configuration says, by kind: for the process scope, or by scope. The giver starts and ends them.
   */
  readonly overrides?: Overrides | ((scope: ScopeIdentity) => Overrides | undefined);
  /** Called for each new container before anything is created in it: register another clock, logger or kind there. */
  readonly configureScope?: (container: DependencyContainer, scope: ScopeIdentity) => void;
}

const DEFAULT_DEADLINES: LifecycleDeadlines = { createMs: 120_000, startMs: 900_000, graceMs: 2_000, closeMs: 10_000 };
const DEFAULT_CLOSE_MS = 30_000;

/** A booted process: everything created, nothing started. */
export interface App {
  readonly deployment: Deployment;
  readonly config: ConfigGraph;
  readonly baseDir: string;
  /** The process container; scopes opened by the deployment are its children. */
  readonly containers: DependencyContainer;
  readonly clock: Clock;
  readonly log: Logger;
  readonly health: Health;
  readonly metrics: PrometheusMetrics;
  readonly admin: AdminRouteTable;
  /** Starts in the order of `requires`, the deployment last. On failure everything is closed again and the reason thrown. */
  start(): Promise<void>;
  /** Drains, then closes, in reverse order. Idempotent. Throws one AggregateError with everything that failed. */
  close(deadlineMs?: number): Promise<void>;
}

/** Reads the configuration, loads plug-ins, opens the process container and creates its instances and the deployment. */
export async function boot(options: BootOptions): Promise<App> {
  const processOverrides = overridesOf(options, { kind: 'process', name: 'process' });
  const { graph, baseDir } = await loadConfig({ ...options, givenKinds: new Set(Object.keys(processOverrides)) });
  const container = globalContainer.createChildContainer();
  registerServices(container, options, graph);
  const abort = new AbortController();
  const host: ScopeHost = {
    graph,
    clock: container.resolve<Clock>(CoreToken.clock),
    baseDir,
    deadlines: { ...DEFAULT_DEADLINES, ...options.deadlines },
    signal: abort.signal,
    overridesFor: (scope) => overridesOf(options, scope),
    configureScope: options.configureScope,
  };
  const scope = new ContainerScope(host, graph.processScope, { kind: 'process', name: 'process' }, { parent: undefined, container });
  container.resolve<Logger>(CoreToken.log).debug('configuration', { file: graph.file, config: graph.masked() });
  await scope.create();
  const app = new RunningApp(scope, abort);
  await app.createDeployment();
  return app;
}

function overridesOf(options: BootOptions, scope: ScopeIdentity): Overrides {
  if (typeof options.overrides === 'function') return options.overrides(scope) ?? {};
  return scope.kind === 'process' ? (options.overrides ?? {}) : {};
}

/** Core's own classes, made on first use; an option replaces one by a value. */
function registerServices(container: DependencyContainer, options: BootOptions, graph: ConfigGraph): void {
  const register = <T>(token: symbol, value: T | undefined, create: (container: DependencyContainer) => T): void => {
    if (value !== undefined) container.register(token, { useValue: value });
    else container.register(token, { useFactory: instanceCachingFactory(create) });
  };
  const random = typeof options.random === 'object' ? options.random : undefined;
  const seed = typeof options.random === 'object' ? undefined : options.random;
  register(CoreToken.clock, options.clock, () => new SystemClock());
  register<Random>(CoreToken.random, random, () => new SeededRandom(seed ?? randomBytes(16).toString('hex')));
  register<Logger>(CoreToken.log, options.logger, (scope) => createLogger(scope.resolve<Clock>(CoreToken.clock), options, graph));
  register(CoreToken.metrics, undefined, () => new PrometheusMetrics({ defaultMetrics: options.processMetrics !== false }));
  register(CoreToken.health, undefined, () => new HealthRegistry());
  register(CoreToken.codec, undefined, () => new MsgpackCodec());
  register(CoreToken.admin, undefined, (scope) => new AdminRouteTable(scope.resolve<Logger>(CoreToken.log)));
}

function createLogger(clock: Clock, options: BootOptions, graph: ConfigGraph): Logger {
  const env = options.env ?? process.env;
  const level = env['ARMATURE_LOG_LEVEL'] ?? graph.core.log.level;
  const format = env['ARMATURE_LOG_FORMAT'] ?? graph.core.log.format;
  const known = ['debug', 'info', 'warn', 'error', 'silent'];
  const log = new PinoLogger({ level: (known.includes(level) ? level : 'info') as LogLevel, format: format === 'pretty' ? 'pretty' : 'json', clock });
  log.output.hide(graph.secretValues());
  return log;
}

class RunningApp implements App {
  readonly config: ConfigGraph;
  readonly baseDir: string;
  readonly containers: DependencyContainer;
  readonly clock: Clock;
  readonly log: Logger;
  readonly health: Health;
  readonly metrics: PrometheusMetrics;
  readonly admin: AdminRouteTable;
  readonly #scope: ContainerScope;
  readonly #abort: AbortController;
  #deployment: Deployment | undefined = undefined;
  #starting: Promise<void> | undefined = undefined;
  #closing: Promise<void> | undefined = undefined;
  #isDeploymentStarted = false;
  /** The start of the deployment, while it runs. */
  #current: Promise<void> | undefined = undefined;

  constructor(scope: ContainerScope, abort: AbortController) {
    const { container, host } = scope;
    this.#scope = scope;
    this.#abort = abort;
    this.config = host.graph;
    this.baseDir = host.baseDir;
    this.containers = container;
    this.clock = host.clock;
    this.log = container.resolve<Logger>(CoreToken.log);
    this.health = container.resolve<Health>(CoreToken.health);
    this.metrics = container.resolve<PrometheusMetrics>(CoreToken.metrics);
    this.admin = container.resolve<AdminRouteTable>(CoreToken.admin);
    this.admin.get('/metrics', 'Prometheus metrics of this process.', () => this.metrics.text());
    this.admin.get('/health', 'State of every component.', () => this.health.report());
  }

  get deployment(): Deployment {
    if (this.#deployment !== undefined) return this.#deployment;
    throw new ArmatureError('APP_CLOSED', 'this process has no deployment: its creation failed', { hint: 'boot again' });
  }

  async createDeployment(): Promise<void> {
    const { host } = this.#scope;
    const root = host.graph.root;
    const context = new RootContext(this.#scope);
    try {
      this.#deployment = await runStep<Deployment>({
        clock: host.clock,
        deadlineMs: host.deadlines.createMs,
        what: `create of deployment "${root.name}"`,
        run: () => root.create(host.graph.config, context),
        late: (value) => void Promise.resolve(value.close?.()).catch(() => undefined),
      });
    } catch (error) {
      throw await this.#closeAfter(error);
    }
  }

  start(): Promise<void> {
    this.#starting ??= this.#start();
    return this.#starting;
  }

  async #start(): Promise<void> {
    const { host } = this.#scope;
    this.#refuseWhenClosing();
    try {
      await this.#scope.start();
      this.#refuseWhenClosing();
      this.#isDeploymentStarted = true;
      this.#current = runStep({ clock: host.clock, deadlineMs: host.deadlines.startMs, what: `start of deployment "${host.graph.root.name}"`, run: () => this.deployment.start() });
      await this.#current;
      this.#refuseWhenClosing();
    } catch (error) {
      throw await this.#closeAfter(error);
    }
  }

  close(deadlineMs = DEFAULT_CLOSE_MS): Promise<void> {
    this.#closing ??= this.#close(deadlineMs);
    return this.#closing;
  }

  /**
   * The deployment and the process's own instances drain first, while everything below still runs; then the deployment closes (and
   * with it the scopes it opened), then scopes it left open, then the instances.
   */
  async #close(deadlineMs: number): Promise<void> {
    const { host } = this.#scope;
    const { closeMs, graceMs } = host.deadlines;
    const errors: unknown[] = [];
    const untilMs = host.clock.nowMs() + deadlineMs;
    const leftMs = (): number => Math.max(0, untilMs - host.clock.nowMs());
    this.#abort.abort(new ArmatureError('PROCESS_CLOSING', 'this process is closing', { retryable: true }));
    const deployment = this.#deployment;
    const current = this.#current;
    if (current !== undefined) {
      // A start that still runs ends first: it sees the signal, and a scope that closes under it.
      const run = (): Promise<void> => current.then(() => undefined, () => undefined);
      await runStep({ clock: host.clock, deadlineMs: leftMs() + graceMs, what: 'start', run }).catch(() => undefined);
    }
    if (this.#isDeploymentStarted) await this.#step(errors, 'drain', leftMs() + graceMs, () => deployment?.drain?.(leftMs()));
    await this.#scope.drainInstances(untilMs, errors);
    await this.#step(errors, 'close', leftMs() + closeMs, () => deployment?.close?.());
    await this.#scope.close(leftMs()).catch((error: unknown) => void errors.push(...flatten(error)));
    if (errors.length > 0) throw new AggregateError(errors, `${errors.length} step(s) failed while the process was closed`);
  }

  async #step(errors: unknown[], what: string, deadlineMs: number, run: () => void | Promise<void>): Promise<void> {
    try {
      await runStep({ clock: this.clock, deadlineMs, what: `${what} of the deployment`, run });
    } catch (error) {
      for (const cause of flatten(error)) {
        const known = ArmatureError.from(cause, 'LIFECYCLE_STEP_FAILED');
        this.log.error('lifecycle step failed', { step: `${what} of the deployment`, code: known.code, error: known.message });
        errors.push(known);
      }
    }
  }

  #refuseWhenClosing(): void {
    if (this.#closing !== undefined) throw new ArmatureError('APP_CLOSED', 'the process was closed before it had started', { hint: 'boot again' });
  }

  /** What goes wrong while closing is in the log; the reason is what its caller can act on. */
  async #closeAfter(reason: unknown): Promise<unknown> {
    await this.close(0).catch(() => undefined);
    return reason;
  }
}
