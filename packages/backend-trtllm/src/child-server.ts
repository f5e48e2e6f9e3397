import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createServer } from 'node:net';
import { ArmatureError } from '@armature/contracts';
import type { Clock, ErrorData, Logger, Timer } from '@armature/contracts';

export interface ChildServerOptions {
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly host: string;
  readonly port: number;
  /** Starts again in a row after it ended by itself. One that ends before it has served is not started again. */
  readonly restarts: number;
  /** Before the first of them; doubled each time. */
  readonly restartDelayMs: number;
  readonly stopTimeoutMs: number;
  /** When it has been stopped and is gone. Idempotent. */
  readonly stopped?: () => void;
  readonly clock: Clock;
  readonly log: Logger;
}

const KEPT_LINES = 40;
const MAX_LINE_CHARS = 2000;
/** A server that ran so long has not failed at start: its restarts count anew. */
const STABLE_MS = 60_000;
const MAX_DELAY_MS = 60_000;
const LAST_WORDS_MS = 1000;

/**
 * One server process and its children: started in a process group of its own, started again with growing pauses when it ends by itself, and gone
 * when this process is, however it dies (`WATCHED`).
 */
export class ChildServer {
  readonly #options: ChildServerOptions;
  readonly #lines: string[];
  #child: ChildProcess | undefined;
  #isStopping: boolean;
  #hasServed: boolean;
  #restarts: number;
  #servedAtMs: number;
  #restartTimer: Timer | undefined;
  #problem: ErrorData | undefined;
  /** Resolves with the end of the child that is being stopped; one for all who wait. */
  #gone: Promise<void> | undefined;
  #onGone: (() => void) | undefined;

  constructor(options: ChildServerOptions) {
    this.#options = options;
    this.#lines = [];
    this.#child = undefined;
    this.#isStopping = false;
    this.#hasServed = false;
    this.#restarts = 0;
    this.#servedAtMs = 0;
    this.#restartTimer = undefined;
    this.#problem = undefined;
    this.#gone = undefined;
    this.#onGone = undefined;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Why it does not serve, with its own last words; undefined: it does, or begins to for the first time. */
  get problem(): ErrorData | undefined {
    return this.#problem;
  }

  /** Throws `TRTLLM_PORT_TAKEN`. That it could not be started, or ended, is a `problem`. */
  async start(): Promise<void> {
    const { host, port } = this.#options;
    const reason = await whyTaken(host, port);
    if (reason !== undefined) throw new ArmatureError('TRTLLM_PORT_TAKEN', `trtllm-serve cannot listen on ${host}:${port}: ${reason}`, { hint: 'set engine.config.serve.port to a free one, or to 0' });
    if (!this.#isStopping) this.#spawn();
  }

  /** It answers: the next end is one to recover from. */
  served(): void {
    if (this.#child === undefined || this.#hasServed) return;
    this.#hasServed = true;
    this.#servedAtMs = this.#options.clock.nowMs();
    this.#problem = undefined;
  }

  /** SIGTERM to the whole group, SIGKILL after `stopTimeoutMs`. Resolves when it is gone. Idempotent. */
  async stop(): Promise<void> {
    const { clock, stopTimeoutMs } = this.#options;
    this.#isStopping = true;
    if (this.#restartTimer !== undefined) clock.clearTimer(this.#restartTimer);
    this.#restartTimer = undefined;
    const child = this.#child;
    if (child === undefined) {
      this.#options.stopped?.();
      return;
    }
    if (this.#gone !== undefined) return this.#gone;
    const gone = new Promise<void>((resolve) => (this.#onGone = resolve));
    this.#gone = gone;
    signalGroup(child, 'SIGTERM');
    const timer = clock.setTimer(stopTimeoutMs, () => signalGroup(child, 'SIGKILL'));
    await gone;
    clock.clearTimer(timer);
    this.#options.stopped?.();
  }

  #spawn(): void {
    this.#restartTimer = undefined;
    const { command, env, clock, log } = this.#options;
    this.#lines.length = 0;
    // $0 is the shell's name, the command comes as its arguments.
    const child = spawn('/bin/sh', ['-c', WATCHED, 'armature-engine', ...command], { detached: true, stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } });
    this.#child = child;
    child.stdin.on('error', () => undefined); // it may be gone already
    for (const stream of [child.stdout, child.stderr]) this.#read(stream);
    child.once('error', (error) => this.#ended(child, `could not be started (${error.message})`));
    child.once('exit', (code, signal) => {
      const how = signal === null ? `ended with code ${code}` : `was killed by ${signal}`;
      signalGroup(child, 'SIGKILL'); // its ranks and launchers, and the watcher
      // `close`: its last words are read. Somebody outside the group may hold the pipes.
      const timer = clock.setTimer(LAST_WORDS_MS, () => this.#ended(child, how));
      child.once('close', () => {
        clock.clearTimer(timer);
        this.#ended(child, how);
      });
    });
    log.info('trtllm-serve started', { pid: child.pid, command: command.join(' ') });
  }

  /** The last error among its last lines, else its last line. */
  #lastWords(): string {
    const from = this.#lines.findLastIndex((line) => /\b\w*(error|exception)\b|\b(failed|fatal|abort|refus|cannot|not found|unrecognized|invalid|no such)/i.test(line));
    return from < 0 ? (this.#lines.at(-1) ?? 'it said nothing') : this.#lines.slice(from, from + 3).join(' | ');
  }

  #read(stream: NodeJS.ReadableStream): void {
    let rest = '';
    const line = (text: string): void => {
      const clean = text.trimEnd().slice(0, MAX_LINE_CHARS);
      if (clean === '') return;
      this.#lines.push(clean);
      if (this.#lines.length > KEPT_LINES) this.#lines.shift();
      this.#options.log.info(`trtllm-serve: ${clean}`, { pid: this.pid });
    };
    stream.setEncoding('utf8');
    stream.on('data', (chunk: string) => {
      const parts = (rest + chunk).split('\n');
      rest = (parts.pop() ?? '').slice(-MAX_LINE_CHARS);
      for (const part of parts) line(part);
    });
    stream.on('end', () => line(rest));
    stream.on('error', () => undefined);
  }

  #ended(child: ChildProcess, how: string): void {
    if (this.#child !== child) return;
    const { clock, log, restarts, restartDelayMs } = this.#options;
    this.#child = undefined;
    this.#onGone?.();
    if (this.#isStopping) return;
    const hadServed = this.#hasServed;
    this.#hasServed = false;
    const said = this.#lastWords();
    this.#problem = hadServed
      ? { code: 'TRTLLM_EXITED', message: `trtllm-serve ${how}: ${said}`, hint: 'this is what it said last; its whole output is in the log', retryable: true }
      : { code: 'TRTLLM_START_FAILED', message: `trtllm-serve ${how} before it served: ${said}`, hint: 'this is what it said; its whole output is in the log, its options in engine.config.serve' };
    log.error('trtllm-serve ended by itself', { code: this.#problem.code, how, said });
    if (!hadServed && this.#restarts === 0) return;
    if (hadServed && clock.nowMs() - this.#servedAtMs >= STABLE_MS) this.#restarts = 0;
    if (this.#restarts >= restarts) return log.error('trtllm-serve is not started again', { code: this.#problem.code, restarts });
    const delayMs = Math.min(MAX_DELAY_MS, restartDelayMs * 2 ** this.#restarts++);
    log.info('trtllm-serve is started again', { delayMs, restart: this.#restarts });
    this.#restartTimer = clock.setTimer(delayMs, () => this.#spawn());
  }
}

/**
 * Becomes the command, beside a watcher in the same group that waits for the end of the standard input we hold: the kernel closes it when we die, kill -9
 * included, and the watcher ends the group.
 */
const WATCHED = 'exec 3<&0; ( trap "" TERM INT; read -r _ <&3; kill -TERM 0; sleep 2; kill -KILL 0 ) >/dev/null 2>&1 & exec "$@" 3<&- </dev/null';

function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // the group is empty
  }
}

/** The system's reason why nobody can listen there now; undefined: it is free. */
function whyTaken(host: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    probe.listen(port, host, () => probe.close(() => resolve(undefined)));
  });
}

/** A port that nobody listens on now. */
export function freePort(host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, host, () => {
      const address = probe.address();
      probe.close(() => (typeof address === 'object' && address !== null ? resolve(address.port) : reject(new Error('no port'))));
    });
  });
}
