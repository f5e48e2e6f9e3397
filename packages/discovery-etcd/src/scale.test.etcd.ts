import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { EtcdServer } from './etcd-server.test.support.ts';
import { freshNamespace, sleep, until } from './fixtures.test.support.ts';

const PROCESS = fileURLToPath(new URL('../dist/bench-process.test.support.js', import.meta.url));
const WORKERS = 1000;
const OWNERS = 4;
const WATCHERS = 8;

let server: EtcdServer;
const children: ChildProcess[] = [];
beforeEach(async () => void (server = await EtcdServer.make()));
afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  await server.remove();
});

class Part {
  readonly #child: ChildProcess;
  readonly #answers: unknown[] = [];
  constructor(...words: string[]) {
    this.#child = fork(PROCESS, words, { execArgv: [] });
    children.push(this.#child);
    this.#child.on('message', (answer) => void this.#answers.push(answer));
  }
  async answer<T>(what: string): Promise<T> {
    await until(what, () => this.#answers.length > 0, 120_000);
    return this.#answers.shift() as T;
  }
  go(): void {
    this.#child.send('go');
  }
}

const quantile = (sorted: readonly number[], q: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] as number;

/** Join-to-visible: from the call of `register` to the call of the watcher's `put`, over all workers and watchers. */
async function measure(name: string, pauseMs: number): Promise<number> {
  const namespace = freshNamespace();
  const each = WORKERS / OWNERS;
  const watchers = Array.from({ length: WATCHERS }, () => new Part('watcher', server.endpoint, namespace));
  const owners = Array.from({ length: OWNERS }, (_, i) => new Part('workers', server.endpoint, namespace, String(each), String(i * each), String(pauseMs)));
  for (const part of [...watchers, ...owners]) expect(await part.answer('ready')).toBe('ready');
  for (const owner of owners) owner.go();
  const joined = new Map<string, number>();
  let ownersCpuMs = 0;
  for (const owner of owners) {
    const { asked, cpuMs } = await owner.answer<{ asked: [string, number][]; cpuMs: number }>('registered');
    for (const [key, at] of asked) joined.set(key, at);
    ownersCpuMs += cpuMs;
  }
  await sleep(1000);
  const delays: number[] = [];
  let watchersCpuMs = 0;
  for (const watcher of watchers) {
    watcher.go();
    const { seen, cpuMs } = await watcher.answer<{ seen: [string, number][]; cpuMs: number }>('seen');
    expect(new Set(seen.map(([key]) => key)).size).toBe(WORKERS);
    for (const [key, at] of seen) delays.push(at - (joined.get(key) as number));
    watchersCpuMs += cpuMs;
  }
  delays.sort((a, b) => a - b);
  const [p50, p99] = [quantile(delays, 0.5), quantile(delays, 0.99)];
  console.log(`${name}: ${WORKERS} workers by ${OWNERS} processes, ${WATCHERS} watchers: join to visible p50 ${p50.toFixed(0)} ms, p99 ${p99.toFixed(0)} ms; CPU owners ${(ownersCpuMs / WORKERS).toFixed(2)} ms per worker, watchers ${((watchersCpuMs * 1000) / WORKERS / WATCHERS).toFixed(0)} µs per entry`);
  return p99;
}

it('1,000 workers that join within some seconds are seen by 8 watchers', async () => {
  expect(await measure('spread (100 joins/s per process)', 10)).toBeGreaterThan(0);
});

it('1,000 workers that join at once are seen by 8 watchers', async () => {
  expect(await measure('all at once', 0)).toBeGreaterThan(0);
  expect(/found (\d+) leases/.exec(await server.ctl('lease', 'list'))?.[1]).toBe(String(OWNERS)); // one per process, not one per worker
});
