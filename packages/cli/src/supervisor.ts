import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import cluster from 'node:cluster';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { DeploymentSummary } from '@armature/contracts';
import { ExitCode } from './exit-codes.ts';

/** One child: its name in the logs, and its command line. */
export interface ChildPlan {
  readonly name: string;
  readonly isFrontend: boolean;
  readonly args: readonly string[];
}

export interface SupervisorOptions {
  readonly plans: readonly ChildPlan[];
  /** How long children may take to end before they are killed. */
  readonly stopMs: number;
  /** Every child has been ready once. */
  readonly ready: (summaries: ReadonlyMap<string, DeploymentSummary>) => void;
  /** Default: the `armature` that runs. */
  readonly bin?: string;
  readonly out?: (line: string) => void;
}

const FIRST_RESTART_MS = 500;
const MAX_RESTART_MS = 30_000;
/** A child that has run this long starts with the first delay again. */
const SETTLED_MS = 60_000;
/** What no restart mends. */
const HOPELESS: ReadonlySet<number | null> = new Set([ExitCode.Usage, ExitCode.Config, ExitCode.Plugin, ExitCode.Model]);

class Child {
  readonly plan: ChildPlan;
  process: ChildProcess | undefined = undefined;
  startedAtMs = 0;
  delayMs = FIRST_RESTART_MS;
  restarts = 0;
  summary: DeploymentSummary | undefined = undefined;
  timer: NodeJS.Timeout | undefined = undefined;
  /** Was asked to end. */
  isTold = false;

  constructor(plan: ChildPlan) {
    this.plan = plan;
  }
}

/** Starts children, prefixes their output, starts them again when they end, stops them in order. A leaf: real processes and timers. */
export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #children: readonly Child[];
  readonly #bin: string;
  readonly #width: number;
  readonly #out: (line: string) => void;
  #isStopping = false;
  #isReady = false;
  #exitCode: number = ExitCode.Ok;
  #ended: () => void = () => undefined;
  #killTimer: NodeJS.Timeout | undefined = undefined;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#bin = options.bin ?? fileURLToPath(new URL('../bin/armature.js', import.meta.url));
    this.#children = options.plans.map((plan) => new Child(plan));
    this.#width = Math.max(...options.plans.map(({ name }) => name.length));
    this.#out = options.out ?? ((line) => void process.stdout.write(`${line}\n`));
  }

  get isStopping(): boolean {
    return this.#isStopping;
  }

  /** Resolves with the exit code once every child has ended after `stop` (or a failure that no restart mends). */
  run(): Promise<number> {
    if (this.#children.some(({ plan }) => plan.isFrontend)) {
      cluster.schedulingPolicy = cluster.SCHED_NONE; // the kernel spreads connections, not this process
    }
    return new Promise((resolve) => {
      this.#ended = () => {
        clearTimeout(this.#killTimer);
        resolve(this.#exitCode);
      };
      for (const child of this.#children) this.#start(child);
    });
  }

  /** Frontends end first: no new requests come, what runs is answered. Then the others. */
  stop(): void {
    if (this.#isStopping) return;
    this.#isStopping = true;
    for (const child of this.#children) clearTimeout(child.timer);
    this.#killTimer = setTimeout(() => this.kill(), this.#options.stopMs);
    this.#stopNext();
  }

  kill(): void {
    for (const { process: running } of this.#children) running?.kill('SIGKILL');
  }

  #stopNext(): void {
    const running = this.#children.filter((child) => child.process !== undefined);
    const frontends = running.filter(({ plan }) => plan.isFrontend);
    for (const child of frontends.length > 0 ? frontends : running) {
      if (child.isTold) continue; // a second signal would cut short what it finishes
      child.isTold = true;
      child.process?.kill('SIGTERM');
    }
    if (running.length === 0) this.#ended();
  }

  #start(child: Child): void {
    const { name, args, isFrontend } = child.plan;
    child.startedAtMs = performance.now();
    const running = isFrontend ? this.#fork(args) : spawn(process.execPath, [this.#bin, ...args], { stdio: ['ignore', 'pipe', 'pipe', 'ipc'], detached: true });
    child.process = running;
    this.#say(name, `started, pid ${running.pid ?? '?'}`);
    for (const stream of [running.stdout, running.stderr]) {
      if (stream !== null) createInterface({ input: stream, crlfDelay: Infinity }).on('line', (line) => this.#say(name, line));
    }
    running.on('message', (message: { type?: string; summary?: DeploymentSummary }) => {
      if (message.type === 'ready' && message.summary !== undefined) this.#childReady(child, message.summary);
    });
    running.once('error', (error) => this.#say(name, `cannot be started: ${error.message}`));
    running.once('exit', (code, signal) => this.#exited(child, code, signal));
  }

  #fork(args: readonly string[]): ChildProcess {
    // Its own process group, as the others: Ctrl-C comes to the supervisor alone, which stops the parts in order.
    const settings = { exec: this.#bin, args: [...args], silent: true, detached: true };
    cluster.setupPrimary(settings);
    return cluster.fork().process;
  }

  #childReady(child: Child, summary: DeploymentSummary): void {
    child.summary = summary;
    if (this.#isReady || this.#children.some((other) => other.summary === undefined)) return;
    this.#isReady = true;
    this.#options.ready(new Map(this.#children.map((other) => [other.plan.name, other.summary as DeploymentSummary])));
  }

  #exited(child: Child, code: number | null, signal: NodeJS.Signals | null): void {
    child.process = undefined;
    const { name } = child.plan;
    const how = signal === null ? `exit code ${code}` : `signal ${signal}`;
    if (this.#isStopping) {
      this.#say(name, `ended (${how})`);
      this.#stopNext();
      return;
    }
    if (child.summary === undefined && HOPELESS.has(code)) {
      this.#say(name, `ended (${how}) before it was ready; no restart mends that, stopping the rest`);
      this.#exitCode = code ?? ExitCode.Internal;
      this.stop();
      return;
    }
    if (performance.now() - child.startedAtMs >= SETTLED_MS) child.delayMs = FIRST_RESTART_MS;
    child.restarts++;
    this.#say(name, `ended (${how}); starts again in ${child.delayMs / 1000} s (restart ${child.restarts})`);
    child.timer = setTimeout(() => this.#start(child), child.delayMs);
    child.delayMs = Math.min(MAX_RESTART_MS, child.delayMs * 2);
  }

  #say(name: string, line: string): void {
    this.#out(`${name.padEnd(this.#width)} | ${line}`);
  }
}
