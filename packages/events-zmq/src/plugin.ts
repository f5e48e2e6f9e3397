import { definePlugin } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import { eventMetrics } from './metrics.ts';
import { ZmqEvents } from './zmq-events.ts';
import type { ZmqEventsConfig } from './zmq-events.ts';

const key = { type: 'string', pattern: '^[0-9a-zA-Z.\\-:+=^!/*?&<>()\\[\\]{}@%$#]{40}$' } as const;
const int = (minimum: number, fallback: number, description: string): Readonly<Record<string, unknown>> => ({ type: 'integer', minimum, default: fallback, description });

/** `events: { use: zmq }`. */
export const zmqEvents: PluginDescriptor<'event-plane', ZmqEventsConfig> = definePlugin<'event-plane', ZmqEventsConfig>({
  kind: 'event-plane',
  contract: 'v1',
  name: 'zmq',
  description: 'Events between processes over ZeroMQ, without a broker; missed events are replayed by their publisher.',
  requires: [{ kind: 'discovery' }],
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      host: { type: 'string', minLength: 1, default: '127.0.0.1', description: 'Address to listen on; 0.0.0.0 = all, then say `advertise`.' },
      port: { type: 'integer', minimum: 0, maximum: 65_535, default: 0, description: 'Port to listen on; 0 = a free one, announced in discovery.' },
      advertise: { type: 'string', default: '', description: 'Host name or address that other processes reach this one by; empty = `host`.' },
      bufferEvents: int(1, 65_536, 'Undelivered events of one subscriber, in events; a fuller buffer loses its oldest.'),
      replayEvents: int(1, 16_384, 'Events that this process keeps for subscribers that missed them.'),
      replayBytes: int(65_536, 33_554_432, 'Bytes of events that this process keeps for subscribers that missed them.'),
      replayTimeoutMs: int(10, 1_000, 'Milliseconds to wait for an answer to a replay request.'),
      replayAttempts: int(1, 3, 'How often a replay is asked for; then later events are delivered and the gap is counted.'),
      heldBytes: int(65_536, 8_388_608, 'Bytes of live events of one publisher kept while its replay is under way.'),
      joinOverlapMs: int(0, 1_000, 'A new subscription also gets events published up to so many milliseconds before it: covers the way of the request.'),
      sendHighWaterMark: int(1, 1_000, 'Messages on the way to one subscriber; what does not fit it asks for later.'),
      heartbeatMs: int(10, 1_000, 'Milliseconds between heartbeats; a connection silent for three is cut and made again.'),
      curve: {
        type: 'object',
        additionalProperties: false,
        required: ['publicKey', 'secretKey'],
        description: 'Encrypts and authenticates by CURVE: the same pair of keys for all processes of the cluster, made by `curveKeyPair()` of zeromq (README). Left out: neither.',
        properties: {
          publicKey: { ...key, description: 'Public key of the cluster, 40 characters of Z85.' },
          secretKey: { ...key, 'x-secret': true, description: 'Secret key of the cluster, 40 characters of Z85.' },
          acceptedKeys: { type: 'array', items: { ...key, description: 'A public key, 40 characters of Z85.' }, default: [], description: 'Further public keys that may connect, while keys are changed.' },
        },
      },
    },
  },
  check: (config, report) => {
    if (config.advertise === '' && ['0.0.0.0', '::', '*'].includes(config.host)) {
      report({ path: ['advertise'], message: `listens on ${config.host}, which nobody can connect to by that name`, hint: 'set `advertise` to a name or address of this host' });
    }
  },
  create: (config, context) => {
    const { clock, codec, log, health, metrics } = context;
    return new ZmqEvents({ config, discovery: context.get('discovery'), clock, codec, log, health, metrics: eventMetrics(metrics) });
  },
});
