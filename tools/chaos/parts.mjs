// The processes of `npm run test:chaos`: each part on its host, started again after what was done to it.
import { spawn } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { createInterface } from 'node:readline';

const RESTART_MS = 500;

/** Stands for a host of network namespaces where they cannot be made. */
export class LocalHost {
  name = 'local';
  address = '127.0.0.1';
  processes = new Set();

  spawn(command, args, options = {}) {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true, ...options });
    this.processes.add(child);
    child.once('exit', () => this.processes.delete(child));
    child.output = '';
    for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => (child.output += chunk));
    return child;
  }
}

/** One `armature serve --only …`, over several lives. */
export class Part {
  lives = 0;
  /** What its lives that ended have said. */
  past = '';
  /** A fault holds it now. */
  isHeld = false;
  child = undefined;
  #timer = undefined;
  #isOver = false;

  constructor({ name, host, command, env, onLine }) {
    Object.assign(this, { name, host, command, env, onLine });
  }

  start() {
    this.lives++;
    const child = this.host.spawn(process.execPath, this.command, { env: this.env });
    this.child = child;
    if (this.onLine !== undefined) createInterface({ input: child.stderr }).on('line', this.onLine);
    child.once('exit', (code, signal) => {
      this.past += child.output;
      this.lastEnd = signal ?? code;
      if (!this.#isOver) this.#timer = setTimeout(() => this.start(), RESTART_MS);
    });
  }

  get isReady() {
    return this.child.exitCode === null && this.child.signalCode === null && this.child.output.includes('Ctrl-C stops');
  }

  get output() {
    return this.past + (this.child.exitCode === null && this.child.signalCode === null ? this.child.output : '');
  }

  signal(name) {
    this.child.kill(name);
  }

  end() {
    this.#isOver = true;
    clearTimeout(this.#timer);
  }

  /** What the kernel says that it holds, or undefined while it is not there. */
  resources() {
    try {
      const status = readFileSync(`/proc/${this.child.pid}/status`, 'utf8');
      return { life: this.lives, rssMb: Number(/VmRSS:\s+(\d+)/.exec(status)[1]) / 1024, handles: readdirSync(`/proc/${this.child.pid}/fd`).length };
    } catch {
      return undefined;
    }
  }
}
