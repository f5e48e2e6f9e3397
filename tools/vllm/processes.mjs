// Child processes of `npm run test:vllm`: each leads a process group, writes its log to a file, and is gone when the run ends.
import { spawn } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { pause, until } from './check.mjs';

const living = new Set();
process.on('exit', () => {
  for (const child of living) child.signal('SIGKILL');
});
// Without a handler a signal ends this process without `exit`, and they would stay.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => process.exit(1));

export async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export class Child {
  exitCode = undefined;

  constructor({ name, command, args, env, logFile }) {
    this.name = name;
    this.logFile = logFile;
    const log = openSync(logFile, 'w');
    this.process = spawn(command, args, { env, detached: true, stdio: ['ignore', log, log] });
    closeSync(log);
    living.add(this);
    this.ended = new Promise((resolve) => {
      const end = (code) => {
        this.exitCode = code ?? -1;
        living.delete(this);
        resolve(this.exitCode);
      };
      this.process.once('error', () => end(-1));
      this.process.once('exit', end);
    });
  }

  get pid() {
    return this.process.pid;
  }

  get output() {
    return readFileSync(this.logFile, 'utf8');
  }

  /** To the whole group: vLLM's engine is a child of its HTTP server. */
  signal(signal) {
    if (this.pid === undefined) return;
    try {
      process.kill(-this.pid, signal);
    } catch {
      // gone already
    }
  }

  async stop(signal = 'SIGTERM', timeoutMs = 20_000) {
    this.signal(signal);
    await Promise.race([this.ended, pause(timeoutMs)]);
    this.signal('SIGKILL');
    await this.ended;
  }

  /** Waits until `isReady`; an end before that throws with the last lines of the log. */
  async ready(isReady, timeoutMs) {
    try {
      await until(`${this.name} is ready`, async () => {
        if (this.exitCode !== undefined) throw new Error(`${this.name} ended with ${this.exitCode}`);
        return isReady();
      }, timeoutMs);
    } catch (error) {
      throw new Error(`${error.message}\n${this.output.split('\n').slice(-40).join('\n')}`, { cause: error });
    }
  }
}

/** CPU time of a process in milliseconds: all of it to the nanosecond (live threads), and its parts in ticks of 10 ms. */
export function cpuMs(pid) {
  let nanoseconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) nanoseconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
  const words = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ');
  return { all: nanoseconds / 1e6, user: Number(words[11]) * 10, system: Number(words[12]) * 10 };
}
