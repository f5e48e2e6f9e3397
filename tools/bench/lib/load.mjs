import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { cpuUs } from './processes.mjs';

const DEADLINE_MS = 180_000;

function message(child, type) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => finish(reject, new Error(`no "${type}" from ${child.spawnfile} within ${DEADLINE_MS} ms`)), DEADLINE_MS);
    const onMessage = (received) => {
      if (received.type === 'failed') finish(reject, new Error(received.message));
      else if (received.type === type) finish(resolve, received);
    };
    const onExit = (code) => finish(reject, new Error(`process ended with ${code} before "${type}"`));
    const finish = (settle, value) => {
      clearTimeout(timer);
      child.off('message', onMessage);
      child.off('exit', onExit);
      settle(value);
    };
    child.on('message', onMessage);
    child.on('exit', onExit);
  });
}

const file = (name) => fileURLToPath(new URL(name, import.meta.url));

/** A load generator process. */
export class Load {
  #child = fork(file('load-process.mjs'), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], execArgv: [] });

  /** Runs a job; `cpu[name]` = microseconds of CPU per request of each process in `pids`. */
  async run(job, pids = {}) {
    const ready = message(this.#child, 'ready');
    this.#child.send(job);
    await ready;
    const before = Object.fromEntries(Object.entries(pids).map(([name, pid]) => [name, cpuUs(pid)]));
    const result = message(this.#child, 'result');
    this.#child.send('go');
    const report = await result;
    const requests = report.ok + report.failed;
    const cpu = Object.fromEntries(Object.entries(pids).map(([name, pid]) => [name, (cpuUs(pid) - before[name]) / requests]));
    return { ...report, requests, cpu };
  }

  close() {
    this.#child.kill();
  }
}

/** Starts the server of recorded answers; `{port, pid, close}`. */
export async function startEcho(recordingFile) {
  const child = fork(file('echo-server.mjs'), [recordingFile], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], execArgv: [] });
  const { port } = await message(child, 'listening');
  return { port, pid: child.pid, close: () => child.kill() };
}
