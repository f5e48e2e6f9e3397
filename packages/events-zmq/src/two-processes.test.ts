import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { PlainData } from '@armature/contracts';
import { afterEach, describe, expect, it } from 'vitest';
import type { ProcessCommand, ProcessReport } from './events-process.test.support.ts';
import { FakeDiscovery, startPlane, until } from './testing.test.support.ts';
import type { TestPlane } from './testing.test.support.ts';
import type { ZmqEventsConfig } from './zmq-events.ts';

const PROCESS = fileURLToPath(new URL('../dist/events-process.test.support.js', import.meta.url));

class Peer {
  readonly child: ChildProcess;
  key = '';
  value: PlainData = null;
  readonly #answers: ((answer: unknown) => void)[] = [];

  static async start(discovery: FakeDiscovery, config: Partial<ZmqEventsConfig>, isToldAtOnce = true): Promise<Peer> {
    const peer = new Peer(config);
    await peer.ready;
    if (isToldAtOnce) discovery.put(peer.key, peer.value);
    for (const [key, value] of discovery.entries) if (key !== peer.key) await peer.ask({ do: 'entry', key, value });
    return peer;
  }

  readonly ready: Promise<void>;
  private constructor(config: Partial<ZmqEventsConfig>) {
    this.child = fork(PROCESS, [JSON.stringify(config)], { execArgv: [] });
    this.ready = new Promise((resolve, reject) => {
      this.child.once('exit', (code) => reject(new Error(`the process ended with ${code}`)));
      this.child.on('message', (message: { announced?: { key: string; value: PlainData } | null; answer?: unknown }) => {
        if (message.announced === null) resolve();
        else if (message.announced !== undefined) ({ key: this.key, value: this.value } = message.announced);
        else this.#answers.shift()?.(message.answer);
      });
    });
  }

  ask(command: ProcessCommand): Promise<unknown> {
    return new Promise((resolve) => {
      this.#answers.push(resolve);
      this.child.send(command);
    });
  }
  report(): Promise<ProcessReport> {
    return this.ask({ do: 'report' }) as Promise<ProcessReport>;
  }
  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill('SIGKILL');
    await once(this.child, 'exit');
  }
}

const open: (TestPlane | Peer)[] = [];
const keep = <T extends TestPlane | Peer>(one: T): T => {
  open.push(one);
  return one;
};
afterEach(async () => {
  for (const one of open.splice(0)) await (one instanceof Peer ? one.kill() : one.close());
});

describe('two processes', () => {
  it('a publisher killed and started again on the same port is a new publisher: all of both is received, nothing twice', async () => {
    const discovery = new FakeDiscovery();
    const plane = keep(await startPlane(discovery));
    const seen: number[] = [];
    plane.subscribe('kv/', (_subject, payload) => void seen.push((payload as { n: number }).n));
    const first = keep(await Peer.start(discovery, {}));
    await first.ask({ do: 'publish', subject: 'kv/a', from: 0, to: 200 });
    await until('200 events', () => seen.length === 200);
    const { address } = first.value as { address: string };
    await first.kill();

    const second = keep(await Peer.start(discovery, { port: Number(address.split(':').at(-1)) }, false));
    // The old connection reaches it before discovery speaks of it: its frames are refused there, and replayed when it is known.
    await second.ask({ do: 'publish', subject: 'kv/a', from: 1000, to: 1100 });
    discovery.remove(first.key);
    discovery.put(second.key, second.value);
    await until('events of the new one', () => seen.length >= 300);
    await second.ask({ do: 'publish', subject: 'kv/a', from: 1100, to: 1200 });
    await until('400 events', () => seen.length >= 400);
    expect(seen).toEqual([...Array.from({ length: 200 }, (_, n) => n), ...Array.from({ length: 200 }, (_, n) => 1000 + n)]);
    expect(plane.counts.lost).toBe(0);
  }, 60_000);

  it('a subscriber stopped for seconds: the publisher goes on within its bounds, the newest events arrive, what is lost is counted', async () => {
    const discovery = new FakeDiscovery();
    const replayBytes = 4 << 20;
    const plane = keep(await startPlane(discovery, { replayBytes, sendHighWaterMark: 500 }));
    const peer = keep(await Peer.start(discovery, { sendHighWaterMark: 500 }));
    await peer.ask({ do: 'subscribe', prefix: 'kv/' });
    const filler = new Uint8Array(4096);
    let n = 0;
    const publish = (): void => plane.publish('kv/a', { n: n++, filler });
    publish();
    while ((await peer.report()).received < 1) await new Promise((resolve) => void setTimeout(resolve, 10));

    const before = process.memoryUsage();
    peer.child.kill('SIGSTOP');
    let peak = 0;
    let slowestMs = 0;
    for (let batch = 0; batch < 200; batch++) {
      const startedMs = performance.now();
      for (let i = 0; i < 200; i++) publish();
      slowestMs = Math.max(slowestMs, performance.now() - startedMs);
      await new Promise((resolve) => void setTimeout(resolve, 10));
      const { arrayBuffers, external } = process.memoryUsage();
      peak = Math.max(peak, arrayBuffers + external - before.arrayBuffers - before.external);
    }
    peer.child.kill('SIGCONT');
    let report = await peer.report();
    const giveUpAt = performance.now() + 30_000;
    while (report.newest < n - 1 && performance.now() < giveUpAt) {
      await new Promise((resolve) => void setTimeout(resolve, 20));
      report = await peer.report();
    }
    console.log(`stopped subscriber: ${n} published, ${report.received} received (${report.counts.replayed} replayed), ${report.counts.lost} lost; publisher's buffers grew by ${peak >> 20} MiB at most, peer's peak ${report.peakRssBytes >> 20} MiB`);
    expect(report.newest).toBe(n - 1);
    expect(report.isOrdered).toBe(true);
    expect(report.counts.lost).toBeGreaterThan(0);
    expect(report.received + report.counts.lost).toBe(n);
    // 160 MiB were published; the replay buffer, 500 messages on the way, and garbage not yet collected are far less.
    expect(peak).toBeLessThan(120 << 20);
  }, 120_000);
});
