import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { connectNats } from './connect.ts';
import { createUser, serverConfig } from './server-config.test.support.ts';
import type { ProcessCommand, ProcessReport } from './events-process.test.support.ts';
import type { NatsEventsConfig } from './nats-events.ts';
import { NatsServer, newPlane, startPlane, until } from './testing.test.support.ts';

const PROCESS = fileURLToPath(new URL('../dist/events-process.test.support.js', import.meta.url));

class Peer {
  readonly child: ChildProcess;
  readonly #answers: ((answer: unknown) => void)[] = [];

  static async start(config: Partial<NatsEventsConfig>): Promise<Peer> {
    const peer = new Peer(config);
    await new Promise((resolve, reject) => {
      peer.#answers.push(resolve);
      peer.child.once('exit', (code) => reject(new Error(`the process ended with ${code}`)));
    });
    return peer;
  }
  private constructor(config: Partial<NatsEventsConfig>) {
    this.child = fork(PROCESS, [JSON.stringify(config)], { execArgv: [] });
    this.child.on('message', ({ answer }: { answer: unknown }) => this.#answers.shift()?.(answer));
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
  async close(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill('SIGKILL');
    await once(this.child, 'exit');
  }
}

const open: { close(): Promise<void> }[] = [];
const keep = <T extends { close(): Promise<void> }>(one: T): T => {
  open.unshift(one);
  return one;
};
async function server(...words: string[]): Promise<NatsServer> {
  const started = await NatsServer.start(...words);
  keep({ close: () => started.kill() });
  return started;
}
afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});
const pause = (ms: number): Promise<void> => new Promise((resolve) => void setTimeout(resolve, ms));

describe('the server goes', () => {
  it('killed and started again: degraded meanwhile, local events go on, what was published is sent afterwards in order', async () => {
    const nats = await server();
    const [publisher, subscriber] = [keep(await startPlane({ servers: [nats.url] })), keep(await startPlane({ servers: [nats.url] }))];
    const seen: number[] = [];
    const local: number[] = [];
    subscriber.subscribe('kv/', (_subject, payload) => void seen.push(payload as number));
    publisher.subscribe('kv/', (_subject, payload) => void local.push(payload as number));
    await subscriber.flush();
    publisher.publish('kv/a', 0);
    await until('the first event', () => seen.length === 1);
    await nats.kill();
    await until('degraded', () => publisher.states.at(-1) === 'degraded' && subscriber.states.at(-1) === 'degraded');
    for (let n = 1; n <= 100; n++) publisher.publish('kv/a', n);
    expect(local.length).toBe(101);
    expect(publisher.outboxBytes).toBeGreaterThan(0);
    await nats.start();
    await until('ready', () => publisher.states.at(-1) === 'ready' && subscriber.states.at(-1) === 'ready');
    await subscriber.flush();
    for (let n = 101; n <= 200; n++) publisher.publish('kv/a', n);
    await until('the newest event', () => seen.at(-1) === 200);
    // The publisher may be back before the subscriber: what it sent in between nobody got. What came is in order.
    expect(seen).toEqual([...new Set(seen)].sort((a, b) => a - b));
    expect(seen.slice(-100)).toEqual(Array.from({ length: 100 }, (_, i) => 101 + i));
    expect(publisher.counts).toMatchObject({ reconnects: 1, outboxDropped: 0 });
    expect(publisher.outboxBytes).toBe(0);
  });

  it('stopped (SIGSTOP): publishing goes on within its bounds, loses its oldest, and the newest arrive when it continues', async () => {
    const nats = await server();
    const bounds = { outboxBytes: 1 << 20, windowBytes: 1 << 20 };
    const publisher = keep(await startPlane({ servers: [nats.url], pingMs: 60_000, ...bounds }));
    const subscriber = keep(await startPlane({ servers: [nats.url], pingMs: 60_000 }));
    const seen: number[] = [];
    subscriber.subscribe('kv/', (_subject, payload) => void seen.push((payload as { n: number }).n));
    await subscriber.flush();
    const filler = new Uint8Array(4096);
    nats.signal('SIGSTOP');
    const before = process.memoryUsage().external;
    let peak = 0;
    for (let n = 0; n < 20_000; n++) {
      publisher.publish('kv/a', { n, filler });
      if (n % 500 === 0) await pause(5);
      peak = Math.max(peak, process.memoryUsage().external - before);
      expect(publisher.outboxBytes).toBeLessThanOrEqual(1 << 20);
    }
    nats.signal('SIGCONT');
    await until('the newest event', () => seen.at(-1) === 19_999);
    console.log(`stopped server: 20000 published, ${seen.length} received, ${publisher.counts.outboxDropped} lost; ${peak >> 20} MiB at most`);
    expect(publisher.counts.outboxDropped).toBeGreaterThan(10_000);
    expect(seen.length + publisher.counts.outboxDropped).toBe(20_000);
    expect(seen).toEqual([...new Set(seen)].sort((a, b) => a - b));
  });

  it('a client that gave up is replaced: subscriptions hold, degraded in between', async () => {
    const nats = await server();
    const made: Awaited<ReturnType<typeof connectNats>>[] = [];
    const plane = newPlane({ servers: [nats.url] }, async (...words) => {
      const connection = await connectNats(...words);
      made.push(connection);
      return connection;
    });
    keep(plane);
    const seen: unknown[] = [];
    plane.subscribe('kv/', (_subject, payload) => void seen.push(payload));
    await plane.start();
    await made[0]!.close();
    await until('a second connection', () => plane.states.join() === 'starting,ready,degraded,ready');
    await plane.flush();
    const publisher = keep(await startPlane({ servers: [nats.url] }));
    publisher.publish('kv/a', 'back');
    await until('the event', () => seen.length === 1);
    expect(made).toHaveLength(2);
    expect(plane.counts.reconnects).toBe(1);
  });

  it('not there at the start: a coded error within startTimeoutMs; there a little later: the start succeeds', async () => {
    const nats = await server();
    await nats.kill();
    await expect(startPlane({ servers: [nats.url], startTimeoutMs: 500 })).rejects.toMatchObject({ code: 'EVENTS_NATS_UNREACHABLE' });
    const starting = startPlane({ servers: [nats.url], startTimeoutMs: 30_000 });
    await pause(400);
    await nats.start();
    keep(await starting);
  });
});

describe('two processes', () => {
  it('a publisher killed and started again is heard again', async () => {
    const nats = await server();
    const plane = keep(await startPlane({ servers: [nats.url] }));
    const seen: number[] = [];
    plane.subscribe('kv/', (_subject, payload) => void seen.push((payload as { n: number }).n));
    await plane.flush();
    for (const from of [0, 1000]) {
      const peer = keep(await Peer.start({ servers: [nats.url] }));
      await peer.ask({ do: 'publish', subject: 'kv/a', from, to: from + 100 });
      await until('100 events', () => seen.at(-1) === from + 99);
      await peer.close();
    }
    expect(seen.length).toBe(200);
  });

  it('a subscriber stopped for seconds: the server cuts it off, it comes back by itself and hears the newest; its memory is bounded', async () => {
    const limits = serverConfig('max_pending: 8388608\nwrite_deadline: "1s"\n');
    const nats = await server('-c', limits.path);
    keep({ close: async () => limits.remove() });
    const plane = keep(await startPlane({ servers: [nats.url] }));
    const peer = keep(await Peer.start({ servers: [nats.url] }));
    await peer.ask({ do: 'subscribe', prefix: 'kv/' });
    const filler = new Uint8Array(16_384);
    let n = 0;
    peer.child.kill('SIGSTOP');
    // More than the server keeps for one client, for longer than it waits.
    for (let batch = 0; batch < 60; batch++) {
      for (let i = 0; i < 50; i++) plane.publish('kv/a', { n: n++, filler });
      await pause(50);
    }
    peer.child.kill('SIGCONT');
    let report = await peer.report();
    const giveUpAt = performance.now() + 60_000;
    while ((report.newest < n - 1 || report.counts.reconnects === 0) && performance.now() < giveUpAt) {
      plane.publish('kv/a', { n: n++ });
      await plane.flush();
      await pause(50);
      report = await peer.report();
    }
    console.log(`stopped subscriber: ${n} published, ${report.received} received, ${report.counts.reconnects} reconnects; its peak ${report.peakRssBytes >> 20} MiB`);
    expect(report.counts.reconnects).toBeGreaterThan(0);
    expect(report.isOrdered).toBe(true);
    expect(report.received).toBeLessThan(n);
  });
});

describe('who may come', () => {
  it('user and password, token, NKey: with them in, without them EVENTS_NATS_UNAUTHORIZED at once', async () => {
    const nkey = createUser();
    const guarded: [NatsServer, Partial<NatsEventsConfig>][] = [
      [await server('--user', 'u', '--pass', 'p'), { user: 'u', password: 'p' }],
      [await server('--auth', 't0ken'), { token: 't0ken' }],
      [await server('-c', nkey.serverConfig), { nkeySeed: nkey.seed }],
    ];
    keep({ close: async () => nkey.remove() });
    for (const [nats, secrets] of guarded) {
      keep(await startPlane({ servers: [nats.url], ...secrets }));
      const startedMs = performance.now();
      await expect(startPlane({ servers: [nats.url], startTimeoutMs: 60_000 })).rejects.toMatchObject({ code: 'EVENTS_NATS_UNAUTHORIZED' });
      expect(performance.now() - startedMs).toBeLessThan(50_000); // it did not wait for the timeout
    }
  });

  it('an event larger than the server takes is refused, logged and counted; the connection lives on', async () => {
    const nats = await server();
    const [publisher, subscriber] = [keep(await startPlane({ servers: [nats.url] })), keep(await startPlane({ servers: [nats.url] }))];
    const seen: unknown[] = [];
    subscriber.subscribe('kv/', (_subject, payload) => void seen.push(payload));
    await subscriber.flush();
    publisher.publish('kv/a', new Uint8Array(2 << 20));
    publisher.publish('kv/a', 'small');
    await until('the small one', () => seen.length === 1);
    expect(seen).toEqual(['small']);
    expect(publisher.counts).toMatchObject({ refused: 1, reconnects: 0 });
    expect(publisher.lines.filter(({ fields }) => fields['code'] === 'EVENTS_NATS_EVENT_TOO_LARGE')).toHaveLength(1);
  });

  it('closing sends what is on its way; subscriptions made before the start hold; other roots hear nothing', async () => {
    const nats = await server();
    const subscriber = newPlane({ servers: [nats.url] });
    const other = newPlane({ servers: [nats.url], subjectRoot: 'other' });
    const seen: number[] = [];
    const overheard: unknown[] = [];
    subscriber.subscribe('a b/c.d', (_subject, payload) => void seen.push(payload as number));
    subscriber.subscribe('', (_subject, payload) => void seen.push(payload as number));
    other.subscribe('', (_subject, payload) => void overheard.push(payload));
    for (const plane of [subscriber, other]) {
      await plane.start();
      await keep(plane).flush();
    }
    const publisher = await startPlane({ servers: [nats.url] });
    for (let n = 0; n < 1000; n++) publisher.publish('a b/c.d*>/ü', n);
    await publisher.close();
    await until('2000 deliveries', () => seen.length === 2000);
    expect(overheard).toEqual([]);
  });
});
