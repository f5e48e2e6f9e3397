import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Clock, Timer } from '@armature/contracts';
import { isProcessGone, processIdentity } from '@armature/core';
import type { ProcessIdentity } from '@armature/core';

export interface WorkerProcessOptions {
  /** `POOL/INDEX`. */
  readonly worker: string;
  /** Command line after node. */
  readonly args: readonly string[];
  readonly cwd: string;
  readonly logFile: string;
  /** Between asking it to end and ending it. */
  readonly stopMs: number;
  readonly clock: Clock;
  /** The process is another one, or there is none any more. */
  readonly changed: () => void;
}

const POLL_MS = 200;
const [FIRST_RESTART_MS, MAX_RESTART_MS] = [500, 30_000];
/** One that has run so long starts with the first delay again. */
const SETTLED_MS = 60_000;
const SAID_LINES = 3;

/**
 * One worker as a process of its own, which outlives this one: in its own session, its output in a file. It is watched by its identity, be it
 * a child or adopted from the life before; one that ends unasked starts again, ever later.
 */
export class WorkerProcess {
  readonly worker: string;
  readonly #options: WorkerProcessOptions;
  #process: ProcessIdentity | undefined = undefined;
  #startedMs = 0;
  #stoppedMs: number | undefined = undefined;
  #delayMs = FIRST_RESTART_MS;
  #ends = 0;
  #timer: Timer | undefined = undefined;
  #isLeft = false;

  constructor(options: WorkerProcessOptions) {
    this.worker = options.worker;
    this.#options = options;
  }

  get process(): ProcessIdentity | undefined {
    return this.#process;
  }

  get isStopping(): boolean {
    return this.#stoppedMs !== undefined;
  }

  /** Times it has ended unasked since it ran well. */
  get ends(): number {
    return this.#ends;
  }

  /** The last lines of its log. */
  get lastWords(): string {
    try {
      return readFileSync(this.#options.logFile, 'utf8').trimEnd().split('\n').slice(-SAID_LINES).join(' | ').slice(-500);
    } catch {
      return '';
    }
  }

  adopt(process: ProcessIdentity): void {
    this.#process = process;
    this.#startedMs = this.#options.clock.nowMs();
    this.#watch();
  }

  start(): void {
    const { args, cwd, logFile, clock, changed } = this.#options;
    this.#timer = undefined;
    mkdirSync(dirname(logFile), { recursive: true });
    const log = openSync(logFile, 'a');
    try {
      const child = spawn(process.execPath, [...args], { cwd, stdio: ['ignore', log, log], detached: true });
      child.on('error', () => undefined); // it has no pid, and counts as ended
      child.unref();
      this.#process = child.pid === undefined ? undefined : processIdentity(child.pid);
    } finally {
      closeSync(log);
    }
    this.#startedMs = clock.nowMs();
    changed();
    this.#watch();
  }

  /** SIGTERM: it drains; SIGKILL after `stopMs`. */
  stop(): void {
    if (this.#stoppedMs !== undefined) return;
    this.#stoppedMs = this.#options.clock.nowMs();
    if (this.#process === undefined) this.#ended();
    else this.#signal('SIGTERM');
  }

  kill(): void {
    this.#signal('SIGKILL');
  }

  /** It is watched no more, and runs on. */
  leave(): void {
    this.#isLeft = true;
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
  }

  #watch(): void {
    if (this.#isLeft) return;
    this.#timer = this.#options.clock.setTimer(POLL_MS, () => this.#look());
  }

  #look(): void {
    const { clock, stopMs } = this.#options;
    if (this.#process === undefined || isEnded(this.#process)) {
      this.#ended();
      return;
    }
    if (this.#stoppedMs !== undefined && clock.nowMs() - this.#stoppedMs > stopMs) this.#signal('SIGKILL');
    if (this.#ends > 0 && clock.nowMs() - this.#startedMs > SETTLED_MS) {
      this.#ends = 0;
      this.#delayMs = FIRST_RESTART_MS;
    }
    this.#watch();
  }

  #ended(): void {
    const { clock, changed } = this.#options;
    if (this.#timer !== undefined) clock.clearTimer(this.#timer);
    this.#process = undefined;
    if (this.#stoppedMs === undefined && !this.#isLeft) {
      this.#ends++;
      this.#timer = clock.setTimer(this.#delayMs, () => this.start());
      this.#delayMs = Math.min(MAX_RESTART_MS, this.#delayMs * 2);
    }
    changed();
  }

  #signal(signal: NodeJS.Signals): void {
    try {
      if (this.#process !== undefined && !isEnded(this.#process)) process.kill(this.#process.pid, signal);
    } catch {
      // It has ended between the two lines: the next look finds that.
    }
  }
}

/** One of another boot (or another container) is none of this host. Where the system does not tell when a process began, its number alone has to do. */
export function isEnded(other: ProcessIdentity): boolean {
  const here = processIdentity();
  if (other.host !== here.host) return true;
  if (other.startTicks !== 0) return isProcessGone(other, here);
  try {
    process.kill(other.pid, 0);
    return false;
  } catch {
    return true;
  }
}
