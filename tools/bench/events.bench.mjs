import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { findNatsServer } from '../test-nats.mjs';

export const description = 'event planes: publisher and subscriber in one process, over loopback for zmq and nats, beside the memory plane in the same run';
export const packages = ['core', 'events-zmq', 'events-nats'];

const EVENTS = 40_000;
const BATCH = 100;
const ROUNDS = 3;

/** CPU of this process only: that of nats-server is not in it. */
export async function run({ log }) {
  const parts = await import('@armature/core');
  const { ManualMetrics, base } = stand(parts);
  const makers = { memory: () => memory(parts, base), zmq: () => zmq(base, ManualMetrics), nats: undefined };
  const server = await natsServer(log);
  if (server !== undefined) makers.nats = () => nats(base, ManualMetrics, server.url);
  const best = {};
  try {
    for (let round = 0; round < ROUNDS; round++) {
      for (const [name, make] of Object.entries(makers)) {
        if (make === undefined) continue;
        for (const size of [100, 4096]) {
          const pair = await make();
          const result = await measure(pair, size);
          const key = `${name}, ${size} B`;
          if (best[key] === undefined || result.cpuUs < best[key].cpuUs) best[key] = result;
          for (const plane of pair.planes) await plane.close?.();
        }
      }
    }
  } finally {
    server?.child.kill();
  }
  return Object.entries(best).flatMap(([name, { cpuUs, perSecond }]) => [
    { name: `${name}: CPU per event, both ends`, value: cpuUs, unit: 'us' },
    { name: `${name}: events per second (wall)`, value: perSecond, unit: '/s' },
  ]);
}

async function measure({ publisher, subscriber, ready }, size) {
  const seen = { events: 0 };
  subscriber.subscribe('bench/', () => void seen.events++);
  await ready();
  const payload = { eventId: 1, body: new Uint8Array(Math.max(0, size - 30)) };
  while (seen.events === 0) {
    publisher.publish('bench/a', payload);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await new Promise((resolve) => setTimeout(resolve, 100));
  seen.events = 0;
  const cpu = process.cpuUsage();
  const started = performance.now();
  for (let sent = 0; sent < EVENTS; sent += BATCH) {
    for (let i = 0; i < BATCH; i++) publisher.publish('bench/a', payload);
    // As a worker does: a step's events, then the event loop. Not further ahead than a buffer.
    do await new Promise((resolve) => setImmediate(resolve));
    while (sent - seen.events > 800 && performance.now() - started < 60_000);
  }
  while (seen.events < EVENTS && performance.now() - started < 60_000) await new Promise((resolve) => setImmediate(resolve));
  const wallMs = performance.now() - started;
  const { user, system } = process.cpuUsage(cpu);
  if (seen.events < EVENTS) throw new Error(`${seen.events} of ${EVENTS} events arrived`);
  return { cpuUs: (user + system) / EVENTS, perSecond: Math.round(EVENTS / (wallMs / 1000)) };
}

function stand({ MsgpackCodec, SystemClock, PinoLogger, SeededRandom }) {
  const metric = { inc: () => undefined, set: () => undefined, add: () => undefined, observe: () => undefined };
  const ManualMetrics = { counter: () => ({ with: () => metric }), gauge: () => ({ with: () => metric }), histogram: () => ({ with: () => metric }), onCollect: () => () => undefined };
  const health = { set: () => undefined, remove: () => undefined, report: () => ({ state: 'ready', components: {} }) };
  return { ManualMetrics, base: { clock: new SystemClock(), codec: new MsgpackCodec(), log: new PinoLogger({ level: 'silent' }), health, random: new SeededRandom(1) } };
}

function defaults(descriptor) {
  return Object.fromEntries(Object.entries(descriptor.configSchema.properties).filter(([, schema]) => schema.default !== undefined).map(([name, schema]) => [name, schema.default]));
}

function memory({ MemoryEventPlane }, base) {
  const plane = new MemoryEventPlane({ ...base, encode: true, bufferEvents: 65_536 });
  return { publisher: plane, subscriber: plane, planes: [plane], ready: async () => undefined };
}

async function zmq(base, metrics) {
  const { ZmqEvents, eventMetrics, zmqEvents } = await import('@armature/events-zmq');
  const { MemoryDiscovery } = await import('@armature/core');
  const discovery = new MemoryDiscovery({ ...base, encode: true });
  const planes = [0, 1].map(() => new ZmqEvents({ ...base, config: defaults(zmqEvents), discovery, metrics: eventMetrics(metrics) }));
  for (const plane of planes) await plane.start();
  return { publisher: planes[0], subscriber: planes[1], planes, ready: async () => undefined };
}

async function nats(base, metrics, url) {
  const { NatsEvents, natsEventMetrics, natsEvents } = await import('@armature/events-nats');
  const planes = [0, 1].map(() => new NatsEvents({ ...base, config: { ...defaults(natsEvents), servers: [url] }, metrics: natsEventMetrics(metrics) }));
  for (const plane of planes) await plane.start();
  return { publisher: planes[0], subscriber: planes[1], planes, ready: () => planes[1].flush() };
}

async function natsServer(log) {
  const { binary, reason } = findNatsServer();
  if (binary === undefined) {
    log(`skipped nats: ${reason}`);
    return undefined;
  }
  const probe = net.createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address();
  probe.close();
  const child = spawn(binary, ['-a', '127.0.0.1', '-p', String(port)], { stdio: 'ignore' });
  return { child, url: `nats://127.0.0.1:${port}` };
}
