import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));
const bin = `${root}packages/cli/bin/armature.js`;

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A real `armature` process, built packages and all. */
export class ArmatureProcess {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  #stdout = '';
  #stderr = '';

  constructor(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    this.child = spawn(process.execPath, [bin, ...args], { cwd: root, env: { ...process.env, ...env }, stdio: ['pipe', 'pipe', 'pipe'] });
    this.child.stdout?.on('data', (chunk: Buffer) => (this.#stdout += chunk.toString()));
    this.child.stderr?.on('data', (chunk: Buffer) => (this.#stderr += chunk.toString()));
    this.ended = new Promise((resolve) => {
      this.child.on('close', (code, signal) => resolve({ code, signal, stdout: this.#stdout, stderr: this.#stderr }));
    });
  }

  get output(): string {
    return this.#stdout + this.#stderr;
  }

  /** Resolves when the output contains `text`; rejects when the process ends or `timeoutMs` pass first. */
  async until(text: string | RegExp, timeoutMs = 30_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    let hasEnded = false;
    void this.ended.then(() => (hasEnded = true));
    for (;;) {
      if (typeof text === 'string' ? this.output.includes(text) : text.test(this.output)) return;
      if (hasEnded || Date.now() > deadline) throw new Error(`armature never said ${String(text)}:\n${this.output}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async stop(signal: NodeJS.Signals = 'SIGINT', timeoutMs = 15_000): Promise<Ended> {
    this.child.kill(signal);
    const timer = setTimeout(() => this.child.kill('SIGKILL'), timeoutMs);
    const ended = await this.ended;
    clearTimeout(timer);
    return ended;
  }
}

/** Runs a command to its end. */
export async function armature(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ended> {
  const process = new ArmatureProcess(args, env);
  process.child.stdin?.end();
  const timer = setTimeout(() => process.child.kill('SIGKILL'), 60_000);
  const ended = await process.ended;
  clearTimeout(timer);
  return ended;
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise<void>((resolve) => server.close(() => resolve()));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
