import { definePlugin } from '@armature/contracts';
import { MemoryTransport } from './memory-transport.ts';
import { TcpTransport } from './tcp/tcp-transport.ts';
import type { TcpTransportConfig } from './tcp/tcp-transport.ts';

export const memoryTransport = definePlugin({
  kind: 'transfer-transport',
  contract: 'v1',
  name: 'memory',
  description: 'Copies KV blocks between workers of one process.',
  configSchema: { type: 'object', additionalProperties: false, properties: {} },
  create: (_config: unknown, context) => new MemoryTransport({ clock: context.clock }),
});

export const tcpTransport = definePlugin({
  kind: 'transfer-transport',
  contract: 'v1',
  name: 'tcp',
  description: 'Moves KV blocks between any two hosts over TCP; received straight into the target memory.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      host: { type: 'string', description: 'Address to listen on. Anything but loopback should come with a token.', default: '127.0.0.1' },
      port: { type: 'integer', minimum: 0, maximum: 65535, description: 'Port to listen on; 0 = any free one (each worker listens on its own).', default: 0 },
      advertiseHost: { type: 'string', description: 'Address that peers connect to; empty = host.', default: '' },
      token: { type: 'string', description: 'Shared secret of all agents that may connect; proved by HMAC, never sent. Empty = no authentication.', default: '', 'x-secret': true },
      streams: { type: 'integer', minimum: 1, maximum: 16, description: 'Connections per peer.', default: 2 },
      splitBytes: { type: 'integer', minimum: 65536, description: 'Transfers are spread over streams in parts of at least this many bytes.', default: 33554432 },
      connectTimeoutMs: { type: 'integer', minimum: 1, description: 'Milliseconds until a connection must be authenticated.', default: 5000 },
      cancelGraceMs: { type: 'integer', minimum: 1, description: 'Milliseconds a cancelled transfer waits for the peer before its connection is cut.', default: 1000 },
      tls: {
        type: 'object',
        additionalProperties: false,
        description: 'TLS 1.3 on every connection; on when certFile is given, and then peers without it are not reached. Payload is copied once more.',
        default: {},
        properties: {
          certFile: { type: 'string', description: 'PEM file of this host\'s certificate (with intermediates).', default: '' },
          keyFile: { type: 'string', description: 'PEM file of its private key.', default: '' },
          caFile: { type: 'string', description: 'PEM file of the authorities that sign peers; empty = those of Node.', default: '' },
          serverName: { type: 'string', description: 'Name that owners\' certificates carry; empty = the address connected to.', default: '' },
          mutual: { type: 'boolean', description: 'Whether initiators must show a certificate of these authorities too.', default: true },
        },
      },
    },
  },
  create: (config: TcpTransportConfig, context) => new TcpTransport({ ...config, clock: context.clock, log: context.log }),
});
