import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { ArmatureError } from '@armature/contracts';
import type { Clock, ErrorData, Logger, Timer } from '@armature/contracts';
import { whyTaken } from './ports.ts';

export interface ListenPort {
  readonly host: string;
  readonly port: number;
  /** What to do when it is taken. */
  readonly hint: string;
}

export interface VllmProcessOptions {
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Where it is going to listen; looked at before it is started. */
  readonly ports: readonly ListenPort[];
  readonly restarts: number;
  readonly restartDelayMs: number;
  readonly stopTimeoutMs: number;
  readonly clock: Clock;
  readonly log: Logger;
}

const KEPT_LINES = 400;
const MAX_LINE_CHARS = 2000;
const MAX_DELAY_MS = 60_000;
/** Served for so long: the next restart is the first again. */
const FORGIVEN_MS = 600_000;
/** For the pipes of a server that has ended: somebody outside its group may hold them. */
const LAST_WORDS_MS = 1000;

/**
 * One `vllm serve` and its children, in a process group of its own; gone when this process is, however it dies (`WATCHED`). What ends before it has served
 * stays ended, with vLLM's own reason: the same flags would end the same way. What ends later is started again, with growing pauses.
 */
export class VllmProcess {
  readonly #options: VllmProcessOptions;
  readonly #lines: string[];
  #child: ChildProcess | undefined;
  #hasServed: boolean;
  #servedAtMs: number;
  #restarts: number;
  #problem: ErrorData | undefined;
  #timer: Timer | undefined;
  #isStopping: boolean;
  /** Resolves with the end of the child that is being stopped; one for all who wait. */
  #gone: Promise<void> | undefined;
  #onGone: (() => void) | undefined;

  constructor(options: VllmProcessOptions) {
    this.#options = options;
    this.#lines = [];
    this.#child = undefined;
    this.#hasServed = false;
    this.#servedAtMs = 0;
    this.#restarts = 0;
    this.#problem = undefined;
    this.#timer = undefined;
    this.#isStopping = false;
    this.#gone = undefined;
    this.#onGone = undefined;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Why it does not serve; undefined while it runs. */
  get problem(): ErrorData | undefined {
    return this.#problem;
  }

  /** Throws `VLLM_PORT_TAKEN`. */
  async start(): Promise<void> {
    for (const { host, port, hint } of this.#options.ports) {
      const reason = await whyTaken(host, port);
      if (reason !== undefined) throw new ArmatureError('VLLM_PORT_TAKEN', `vLLM cannot listen on ${host}:${port}: ${reason}`, { hint: `end what listens there (a vLLM left over from before?), or ${hint}` });
    }
    if (!this.#isStopping) this.#spawn();
  }

  /** It answers: from now on it is started again when it ends. */
  served(): void {
    if (this.#child === undefined || this.#problem !== undefined) return;
    if (!this.#hasServed) this.#servedAtMs = this.#options.clock.nowMs();
    this.#hasServed = true;
  }

  /** SIGTERM to the group, SIGKILL by the deadline; resolves when it is gone. Idempotent. */
  async stop(): Promise<void> {
    const { clock, stopTimeoutMs } = this.#options;
    this.#isStopping = true;
    if (this.#timer !== undefined) clock.clearTimer(this.#timer);
    this.#timer = undefined;
    const child = this.#child;
    if (child === undefined) return;
    if (this.#gone !== undefined) return this.#gone;
    const gone = new Promise<void>((resolve) => (this.#onGone = resolve));
    this.#gone = gone;
    signalGroup(child, 'SIGTERM');
    const timer = clock.setTimer(stopTimeoutMs, () => signalGroup(child, 'SIGKILL'));
    await gone;
    clock.clearTimer(timer);
  }

  #spawn(): void {
    const { command, env, log, clock } = this.#options;
    this.#timer = undefined;
    this.#lines.length = 0;
    this.#problem = undefined;
    // $0 is the shell's name, the command comes as its arguments.
    const child = spawn('/bin/sh', ['-c', WATCHED, 'armature-vllm', ...command], { detached: true, stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } });
    this.#child = child;
    child.stdin.on('error', () => undefined); // it may be gone already
    this.#read(child.stdout, child);
    this.#read(child.stderr, child);
    child.once('error', (error) => this.#ended(child, `could not be started (${error.message})`));
    child.once('exit', (code, signal) => {
      const how = signal === null ? `ended with code ${code}` : `was killed by ${signal}`;
      signalGroup(child, 'SIGKILL'); // its engine cores and ranks, and the watcher
      const timer = clock.setTimer(LAST_WORDS_MS, () => this.#ended(child, how));
      child.once('close', () => {
        clock.clearTimer(timer);
        this.#ended(child, how);
      });
    });
    log.info('vLLM started', { pid: child.pid, command: withoutSecrets(command).join(' ') });
  }

  #read(stream: NodeJS.ReadableStream, child: ChildProcess): void {
    let rest = '';
    const line = (text: string): void => {
      const clean = text.trimEnd().slice(0, MAX_LINE_CHARS);
      if (clean === '') return;
      this.#lines.push(clean);
      if (this.#lines.length > KEPT_LINES) this.#lines.shift();
      this.#options.log.info(`vllm: ${clean}`, { pid: child.pid });
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
    const reason = reasonIn(this.#lines);
    this.#problem = hadServed
      ? { code: 'VLLM_EXITED', message: `vLLM ${how}: ${reason}`, hint: 'this is what it said last; its whole output is in the log', retryable: true }
      : { code: 'VLLM_START_FAILED', message: `vLLM ${how} before it served: ${reason}`, hint: 'this is what it said; its whole output is in the log, its flags in engine.config.serve' };
    log.error('vLLM ended by itself', { code: this.#problem.code, how, reason });
    if (!hadServed && this.#restarts === 0) return;
    if (hadServed && clock.nowMs() - this.#servedAtMs >= FORGIVEN_MS) this.#restarts = 0;
    if (this.#restarts >= restarts) return log.error('vLLM is not started again', { code: this.#problem.code, restarts });
    const delayMs = Math.min(MAX_DELAY_MS, restartDelayMs * 2 ** this.#restarts++);
    this.#hasServed = false;
    log.info('vLLM is started again', { delayMs, restart: this.#restarts });
    this.#timer = clock.setTimer(delayMs, () => this.#spawn());
  }
}

const SECONDHAND = /Engine core initialization failed|See root cause above|EngineDeadError/;

/** A warning may quote an error. */
const HARMLESS = /^(\([^)]*\)\s*)?(WARNING|INFO|DEBUG) /;

/** vLLM's own reason: the first error of a traceback that is not about another one, else the last line. */
export function reasonIn(lines: readonly string[]): string {
  const errors = lines.filter((line) => !HARMLESS.test(line) && /\b\w*(Error|Exception)\b: |\berror: |address already in use/i.test(line));
  const found = errors.find((line) => !SECONDHAND.test(line)) ?? errors[0] ?? lines.at(-1);
  // `(EngineCore pid=7) ERROR 11-23 14:02:11 [core.py:946] ValueError: …` says it again before each line.
  return found === undefined ? 'it said nothing' : found.replace(/^(\([^)]*\)\s*)?((ERROR|CRITICAL) [\d-]+ [\d:.]+ \[[^\]]*\]\s*)?/, '').trim();
}

/** What follows a flag that names a key or a token is nobody's business. */
function withoutSecrets(command: readonly string[]): string[] {
  const secret = /^--[\w.-]*(key|token|secret|password)$/i;
  return command.map((word, i) => (secret.test(command[i - 1] ?? '') ? '***' : word.replace(/^(--[\w.-]*(?:key|token|secret|password)=).*/i, '$1***')));
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
