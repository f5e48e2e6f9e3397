import { resolve } from 'node:path';
import { definePlugin } from '@armature/contracts';
import type { Counter, Metrics, PluginDescriptor } from '@armature/contracts';
import { NatsEvents } from './nats-events.ts';
import type { NatsEventMetrics, NatsEventsConfig } from './nats-events.ts';

const int = (minimum: number, fallback: number, description: string): Readonly<Record<string, unknown>> => ({ type: 'integer', minimum, default: fallback, description });
const file = (description: string): Readonly<Record<string, unknown>> => ({ type: 'string', minLength: 1, description });

/** `events: { use: nats }`. */
export const natsEvents: PluginDescriptor<'event-plane', NatsEventsConfig> = definePlugin<'event-plane', NatsEventsConfig>({
  kind: 'event-plane',
  contract: 'v1',
  name: 'nats',
  description: 'Events between processes by way of a NATS server.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      servers: {
        type: 'array',
        minItems: 1,
        items: { type: 'string', minLength: 1, description: 'nats://host:port or tls://host:port.' },
        default: ['nats://127.0.0.1:4222'],
        description: 'Servers of one NATS cluster; the next is tried when one goes.',
      },
      subjectRoot: { type: 'string', pattern: '^[A-Za-z0-9_-]+$', default: 'armature', description: 'First token of all subjects; Armature clusters that share a server take different ones.' },
      user: { type: 'string', description: 'User name.' },
      password: { type: 'string', 'x-secret': true, description: 'Password of `user`.' },
      token: { type: 'string', 'x-secret': true, description: 'Authentication token.' },
      nkeySeed: { type: 'string', 'x-secret': true, description: 'Seed of an NKey (SU…).' },
      credentialsFile: file('A .creds file with JWT and seed.'),
      tls: {
        type: 'object',
        additionalProperties: false,
        description: 'TLS; an empty object = with the certificate authorities of this host.',
        properties: { caFile: file('Certificate authority that signed the server.'), certFile: file('Certificate of this client.'), keyFile: file('Private key of this client.') },
      },
      startTimeoutMs: int(1, 10_000, 'Milliseconds to wait for the first connection; then the start fails.'),
      pingMs: int(100, 2_000, 'Milliseconds between checks of the connection; two without an answer end it.'),
      reconnectMs: int(1, 100, 'Milliseconds before the first attempt to connect again; doubled each time.'),
      maxReconnectMs: int(1, 2_000, 'Milliseconds between attempts at most.'),
      bufferEvents: int(1, 65_536, 'Undelivered events of one subscriber, in events; a fuller buffer loses its oldest.'),
      outboxBytes: int(1_024, 8_388_608, 'Bytes of events kept while the server is away or slow; a fuller outbox loses its oldest.'),
      windowBytes: int(1_024, 4_194_304, 'Bytes sent that the server has not confirmed to have read.'),
      drainTimeoutMs: int(1, 3_000, 'Milliseconds that closing waits for events on their way to the server.'),
    },
  },
  check: ({ user, password, token, nkeySeed, credentialsFile }, report) => {
    const ways = [user, token, nkeySeed, credentialsFile].filter((way) => way !== undefined);
    if (ways.length > 1) report({ path: [], message: 'more than one way to authenticate', hint: 'keep one of `user`, `token`, `nkeySeed`, `credentialsFile`' });
    if ((user === undefined) !== (password === undefined)) report({ path: [user === undefined ? 'password' : 'user'], message: '`user` and `password` go together', hint: 'give both or none' });
  },
  create: (config, context) => {
    const { clock, random, codec, log, health, metrics, baseDir } = context;
    return new NatsEvents({ config: absolute(config, baseDir), clock, random: random.fork('events-nats'), codec, log, health, metrics: natsEventMetrics(metrics) });
  },
});

export function natsEventMetrics(metrics: Metrics): NatsEventMetrics {
  const counter = (name: string, help: string): Counter => metrics.counter({ name: `armature_events_${name}_total`, help, labelNames: ['plane'] }).with('nats');
  return {
    published: counter('published', 'Events published by this process.'),
    delivered: counter('delivered', 'Events given to subscribers of this process.'),
    dropped: counter('dropped', 'Events that slow subscribers lost.'),
    outboxDropped: counter('outbox_dropped', 'Events lost because the server was away or slow.'),
    refused: counter('refused', 'Events and subscriptions that were refused.'),
    reconnects: counter('reconnects', 'Connections made again; what was published meanwhile by others is lost.'),
  };
}

function absolute(config: NatsEventsConfig, baseDir: string): NatsEventsConfig {
  const { credentialsFile, tls } = config;
  const files = Object.entries(tls ?? {}).map(([name, path]) => [name, resolve(baseDir, path as string)]);
  return {
    ...config,
    ...(credentialsFile === undefined ? {} : { credentialsFile: resolve(baseDir, credentialsFile) }),
    ...(tls === undefined ? {} : { tls: Object.fromEntries(files) as NonNullable<NatsEventsConfig['tls']> }),
  };
}
