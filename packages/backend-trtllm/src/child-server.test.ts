import { createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import type { Clock, Timer } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { ChildServer, freePort } from './child-server.ts';
import { log, logged } from './testing.test.support.ts';

const started: ChildServer[] = [];
afterEach(() => Promise.all(started.splice(0).map((server) => server.stop())));

/** A process that says `ready` and lives on. */
async function open(script: string, more: { readonly stopTimeoutMs?: number; readonly stopped?: () => void; readonly port?: number; readonly restartDelayMs?: number; readonly clock?: Clock } = {}): Promise<ChildServer> {
  const port = more.port ?? (await freePort('127.0.0.1'));
  const server = new ChildServer({
    command: [process.execPath, '-e', `${script}; console.log('ready'); setInterval(() => {}, 1000)`],
    env: {}, host: '127.0.0.1', restarts: 1, restartDelayMs: 10, stopTimeoutMs: 20_000, clock: realClock, log, ...more, port,
  });
  started.push(server);
  return server;
}

const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};
const eventually = (read: () => unknown) => expect.poll(read, { timeout: 20_000 });
const ready = (): Promise<void> => eventually(() => logged).toContain('trtllm-serve: ready');

describe('the end of a server that is ours', () => {
  it('is one end for all who stop at once, and for those who come later', async () => {
    let told = 0;
    const server = await open('', { stopped: () => void told++ });
    await server.start();
    await ready();
    const pid = server.pid as number;
    await Promise.all([server.stop(), server.stop(), server.stop()]);
    await server.stop();
    expect([isAlive(pid), server.pid, server.problem]).toEqual([false, undefined, undefined]);
    expect(told).toBeGreaterThan(0);
    expect(logged).not.toContain('ended by itself');
  }, 30_000);

  it('is by force for one that ignores SIGTERM', async () => {
    const server = await open("process.on('SIGTERM', () => console.log('not now'))", { stopTimeoutMs: 300 });
    await server.start();
    await ready();
    const pid = server.pid as number;
    await Promise.all([server.stop(), server.stop()]);
    expect(isAlive(pid)).toBe(false);
    expect(logged).toContain('trtllm-serve: not now');
  }, 30_000);

  it('is the end between two of its lives too: the next does not begin', async () => {
    const restartDelayMs = 30_000;
    const pauses = new Set<Timer>(); // those before a restart, and not cleared
    const clock: Clock = {
      nowMs: () => realClock.nowMs(),
      wallMs: () => realClock.wallMs(),
      sleep: (ms, signal) => realClock.sleep(ms, signal),
      defer: (run) => realClock.defer(run),
      setTimer: (ms, run) => {
        const timer = realClock.setTimer(ms, run);
        if (ms === restartDelayMs) pauses.add(timer);
        return timer;
      },
      clearTimer: (timer) => {
        pauses.delete(timer);
        realClock.clearTimer(timer);
      },
    };
    const server = await open('', { restartDelayMs, clock });
    await server.start();
    await ready();
    server.served();
    process.kill(server.pid as number, 'SIGKILL');
    await eventually(() => pauses.size).toBe(1);
    expect(server.problem?.code).toBe('TRTLLM_EXITED');
    await Promise.all([server.stop(), server.stop()]);
    expect([pauses.size, server.pid]).toEqual([0, undefined]);
  }, 30_000);
});

it('a port that is taken is told of before anything starts', async () => {
  const holder = createServer();
  await new Promise<void>((resolve) => void holder.listen(0, '127.0.0.1', resolve));
  const { port } = holder.address() as { port: number };
  const server = await open('', { port });
  await expect(server.start()).rejects.toMatchObject({ code: 'TRTLLM_PORT_TAKEN' });
  expect(server.pid).toBeUndefined();
  await new Promise((resolve) => holder.close(resolve));
}, 30_000);
