import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger, TransportHost } from '@armature/contracts';
import { localityKey, startTicks } from '../native/process.ts';
import { ControlPage } from './control-page.ts';
import { LocalEndpoint } from './local-endpoint.ts';
import type { Mover } from './pieces.ts';
import type { Turns } from './turns.ts';

/** Fields that the same-host transports have in common, as in their schemas. */
export interface LocalTransportConfig {
  readonly token?: string;
  readonly inlineBytes?: number;
  readonly turnBudgetMs?: number;
  readonly connectTimeoutMs?: number;
}

export interface LocalTransportOptions extends LocalTransportConfig {
  readonly clock: Clock;
  readonly log: Logger;
}

export const DEFAULT_TURN_BUDGET_MS = 0.5;

export const localConfigProperties = {
  token: { type: 'string', description: 'Shared secret of all agents that may connect; proved by HMAC, never sent. Empty = every process of this user.', default: '', 'x-secret': true },
  inlineBytes: { type: 'integer', minimum: 0, description: 'Transfers up to this many bytes are copied inside post; longer ones in turns of the event loop.', default: 262144 },
  turnBudgetMs: { type: 'number', exclusiveMinimum: 0, description: 'Milliseconds of copying after which the event loop is given back.', default: DEFAULT_TURN_BUDGET_MS },
  connectTimeoutMs: { type: 'integer', minimum: 1, description: 'Milliseconds until a connection must be authenticated.', default: 5000 },
} as const;

/** Listens on an abstract Unix socket, which the kernel removes with the process. Throws `TRANSFER_LISTEN_FAILED`. */
export async function openLocalEndpoint(host: TransportHost, mover: Mover, turns: Turns, options: LocalTransportOptions): Promise<LocalEndpoint> {
  const { clock, log, token = '', connectTimeoutMs = 5000, inlineBytes = 256 << 10 } = options;
  const socket = `armature-${randomBytes(16).toString('hex')}`;
  const server = net.createServer();
  const page = new ControlPage('armature-control');
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => {
        reject(new ArmatureError('TRANSFER_LISTEN_FAILED', `cannot listen on an abstract socket: ${error.message}`, { hint: 'check the limit of open files, or use the tcp transport', cause: error }));
      });
      server.listen({ path: `\0${socket}` }, resolve);
    });
  } catch (error) {
    page.close();
    throw error;
  }
  return new LocalEndpoint({
    host,
    mover,
    turns,
    server,
    page,
    inlineBytes,
    locality: localityKey(),
    facts: { socket, pid: process.pid, startTicks: startTicks(process.pid) ?? 0, page: page.fd },
    settings: { clock, log, token, connectTimeoutMs, randomBytes },
  });
}
