import { randomUUID } from 'node:crypto';
import { resolve } from 'node:path';
import { definePlugin } from '@armature/contracts';
import type { JsonSchema } from '@armature/contracts';
import { tlsMaterial } from '@armature/nixel';
import type { TlsConfig } from '@armature/nixel';
import { MemoryBridge } from './bridge.ts';
import { TcpRequestPlane } from './tcp-request-plane.ts';

interface TcpRequestConfig {
  readonly host: string;
  readonly port: number;
  readonly advertiseHost: string;
  readonly token: string;
  readonly connect: readonly string[];
  readonly bridge: boolean;
  readonly maxFrameBytes: number;
  readonly highWaterBytes: number;
  readonly pingIntervalMs: number;
  readonly pingDeadlineMs: number;
  readonly connectTimeoutMs: number;
  readonly tls: TlsConfig;
}

const configSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    host: { type: 'string', minLength: 1, default: '127.0.0.1', description: 'Address to listen on. Anything but loopback should come with a token.' },
    port: { type: 'integer', minimum: 0, maximum: 65_535, default: 0, description: 'Port to listen on; 0 = any free one.' },
    advertiseHost: { type: 'string', default: '', description: 'Host name or address that other processes dial; empty = host.' },
    token: { type: 'string', default: '', 'x-secret': true, description: 'Shared secret that every connecting process must show. Empty = none.' },
    connect: { type: 'array', items: { type: 'string' }, default: [], description: 'Processes to stay connected to, as host:port. With `bridge` they see this process and it sees them.' },
    bridge: { type: 'boolean', default: true, description: 'Carry registrations and events over the connections when discovery and events live in memory.' },
    maxFrameBytes: { type: 'integer', minimum: 65_536, maximum: 1_073_741_824, default: 67_108_864, description: 'Largest message, in bytes; longer ones end their stream or connection.' },
    highWaterBytes: { type: 'integer', minimum: 1024, default: 1_048_576, description: 'Unsent bytes of one stream above which senders are told to slow down; at 8 times that the stream fails.' },
    pingIntervalMs: { type: 'integer', minimum: 1, default: 5000, description: 'Milliseconds between keep-alive pings.' },
    pingDeadlineMs: { type: 'integer', minimum: 1, default: 15_000, description: 'Milliseconds of silence after which a connection is given up.' },
    connectTimeoutMs: { type: 'integer', minimum: 1, default: 5000, description: 'Milliseconds until a new connection must be ready.' },
    tls: {
      type: 'object',
      additionalProperties: false,
      default: {},
      description: 'TLS 1.3 on every connection; on when certFile is given, and then processes without it are not reached.',
      properties: {
        certFile: { type: 'string', default: '', description: "PEM file of this host's certificate (with intermediates)." },
        keyFile: { type: 'string', default: '', description: 'PEM file of its private key.' },
        caFile: { type: 'string', default: '', description: 'PEM file of the authorities that sign peers; empty = those of Node.' },
        serverName: { type: 'string', default: '', description: "Name that peers' certificates carry; empty = the address dialled." },
        mutual: { type: 'boolean', default: true, description: 'Whether diallers must show a certificate of these authorities too.' },
      },
    },
  },
};

/** Request streams between processes and hosts. */
export const tcpRequestPlane = definePlugin<'request-plane', TcpRequestConfig>({
  kind: 'request-plane',
  contract: 'v1',
  name: 'tcp',
  description: 'Request streams between processes over TCP; with memory discovery and events it carries those too.',
  configSchema,
  requires: [
    { kind: 'discovery', optional: true },
    { kind: 'event-plane', optional: true },
  ],
  create: (config, context) => {
    const { clock, codec, log } = context;
    const { bridge: wantsBridge, tls: files, ...rest } = config;
    const inBase = (file: string | undefined): string => (file === undefined || file === '' ? '' : resolve(context.baseDir, file));
    const tls = tlsMaterial({ ...files, certFile: inBase(files.certFile), keyFile: inBase(files.keyFile), caFile: inBase(files.caFile) }, { prefix: 'PLANE', what: 'the tcp request plane' });
    const discovery = context.find('discovery');
    const events = context.find('event-plane');
    const bridge = wantsBridge
      ? new MemoryBridge({ discovery: discovery?.supports.processes === false ? discovery : undefined, events: events?.supports.processes === false ? events : undefined, log })
      : undefined;
    return new TcpRequestPlane({ ...rest, tls, bridge, clock, codec, log, node: randomUUID() });
  },
});
