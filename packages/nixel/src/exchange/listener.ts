import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger, Timer } from '@armature/contracts';
import type { Agent } from '../agent.ts';
import { silentLog } from '../defaults.ts';
import { realClock } from '../leaves/real-clock.ts';
import { decodeMetadata } from '../metadata.ts';
import { decodeHello, helloProof, NONCE_BYTES, proves, welcomeProof } from '../tcp/handshake.ts';
import type { Hello } from '../tcp/handshake.ts';
import { decodeSelection, encodeError, exchangeInvalid, limitOf, message, MessageReader, MessageType } from './messages.ts';

/** Stands where a transfer's handshake has the peer's incarnation: a proof made for one is none for the other. */
export const EXCHANGE_PURPOSE = 'metadata-exchange';

/** What an exchange needs of an agent. */
export type MetadataParty = Pick<Agent, 'name' | 'incarnation' | 'metadata' | 'addPeer' | 'removePeer' | 'invalidateSegments' | 'peerIncarnation'>;

export interface MetadataListenerOptions {
  readonly agent: MetadataParty;
  /** Default: real time. */
  readonly clock?: Clock;
  /** Default: silent. */
  readonly log?: Logger;
  /** Default 127.0.0.1. Anything else should come with a token. */
  readonly host?: string;
  /** Default 0: any free port, see `address`. */
  readonly port?: number;
  /** Shared secret of all that may ask; proved by HMAC over nonces of both sides, never sent. Default: none. */
  readonly token?: string;
  /** To authenticate, and between messages. Default 5 s. */
  readonly timeoutMs?: number;
  /** More are closed at once. Default 256. */
  readonly maxConnections?: number;
}

/** Listens. Throws `TRANSFER_LISTEN_FAILED`. */
export async function listenForMetadata(options: MetadataListenerOptions): Promise<MetadataListener> {
  const server = net.createServer();
  const host = options.host ?? '127.0.0.1';
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(new ArmatureError('TRANSFER_LISTEN_FAILED', `cannot listen on ${host}:${options.port ?? 0}: ${error.message}`, { hint: 'choose another port, or 0 for any', cause: error }));
    });
    server.listen({ host, port: options.port ?? 0 }, resolve);
  });
  return new MetadataListener(options, server);
}

/** Answers peers that fetch this agent's metadata, push theirs, or take theirs back. */
export class MetadataListener {
  readonly address: { readonly host: string; readonly port: number };
  /** Messages served, and connections refused by code. */
  readonly counters: { fetched: number; pushed: number; invalidated: number; readonly refused: Map<string, number> } = { fetched: 0, pushed: 0, invalidated: 0, refused: new Map() };
  readonly #options: MetadataListenerOptions;
  readonly #log: Logger;
  readonly #server: net.Server;
  readonly #connections = new Set<Connection>();
  #closing: Promise<void> | undefined = undefined;

  constructor(options: MetadataListenerOptions, server: net.Server) {
    this.#options = options;
    this.#log = options.log ?? silentLog;
    this.#server = server;
    const { address, port } = server.address() as net.AddressInfo;
    this.address = { host: address, port };
    if (options.token === undefined && !/^(127\.|::1$)/.test(address)) this.#log.warn('metadata listener without a token', { host: address, port });
    server.on('connection', (socket) => this.#accept(socket));
  }

  /** Cuts what is open. Idempotent. */
  close(): Promise<void> {
    return (this.#closing ??= new Promise((resolve) => {
      this.#server.close(() => resolve());
      for (const connection of this.#connections) connection.destroy();
    }));
  }

  #accept(socket: net.Socket): void {
    if (this.#connections.size >= (this.#options.maxConnections ?? 256) || this.#closing !== undefined) {
      socket.destroy();
      return;
    }
    const connection = new Connection(socket, this.#options, {
      served: (what) => void this.counters[what]++,
      refused: (error) => {
        this.counters.refused.set(error.code, (this.counters.refused.get(error.code) ?? 0) + 1);
        this.#log.warn('metadata exchange refused', { code: error.code, reason: error.message });
      },
    });
    this.#connections.add(connection);
    socket.on('close', () => this.#connections.delete(connection));
  }
}

interface ConnectionReport {
  served(what: 'fetched' | 'pushed' | 'invalidated'): void;
  refused(error: ArmatureError): void;
}

const MAX_UNREAD_BYTES = 4 << 20;

class Connection {
  readonly #socket: net.Socket;
  readonly #options: MetadataListenerOptions;
  readonly #clock: Clock;
  readonly #report: ConnectionReport;
  readonly #challenge: Buffer;
  readonly #reader: MessageReader;
  #hello: Hello | undefined = undefined;
  #timer: Timer | undefined = undefined;

  constructor(socket: net.Socket, options: MetadataListenerOptions, report: ConnectionReport) {
    this.#socket = socket;
    this.#options = options;
    this.#clock = options.clock ?? realClock;
    this.#report = report;
    this.#challenge = randomBytes(NONCE_BYTES);
    this.#reader = new MessageReader((type) => limitOf(type, 'client', this.#hello !== undefined), (type, body) => this.#message(type, body));
    socket.setNoDelay(true);
    socket.on('data', (chunk) => this.#received(chunk));
    socket.on('error', () => undefined);
    socket.on('close', () => this.#clear());
    this.#wait();
    socket.write(message(MessageType.Challenge, this.#challenge));
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #received(chunk: Buffer): void {
    try {
      this.#reader.push(chunk);
      if (this.#socket.writableLength > MAX_UNREAD_BYTES) throw exchangeInvalid('requests without reading the answers');
    } catch (thrown) {
      const error = ArmatureError.from(thrown, 'TRANSFER_INTERNAL');
      this.#report.refused(error);
      this.#socket.removeAllListeners('data').resume();
      this.#socket.end(message(MessageType.Error, encodeError(error)));
    }
  }

  #message(type: number, body: Buffer): void {
    this.#wait();
    const { agent } = this.#options;
    switch (type) {
      case MessageType.Hello:
        return this.#authenticate(body);
      case MessageType.Fetch: {
        const segments = decodeSelection(body);
        this.#report.served('fetched');
        this.#socket.write(message(MessageType.Metadata, agent.metadata(segments === undefined ? {} : { segments })));
        return;
      }
      case MessageType.Push:
        this.#push(body);
        break;
      default:
        this.#invalidate(decodeSelection(body));
    }
    this.#socket.write(message(MessageType.Ack));
  }

  #authenticate(body: Buffer): void {
    const hello = decodeHello(body);
    const { token = '' } = this.#options;
    if (hello.peerIncarnation !== EXCHANGE_PURPOSE || !proves(hello.proof, helloProof(token, this.#challenge, hello))) {
      throw new ArmatureError('TRANSFER_AUTH_FAILED', `"${hello.name.slice(0, 64)}" did not prove the shared token`, { hint: 'give all agents that meet the same token' });
    }
    this.#hello = hello;
    this.#socket.write(message(MessageType.Welcome, welcomeProof(token, this.#challenge, hello.nonce)));
  }

  /** An agent speaks for itself only. */
  #push(body: Buffer): void {
    const { name, incarnation } = decodeMetadata(body);
    const hello = this.#hello!;
    if (name !== hello.name || incarnation !== hello.incarnation) throw exchangeInvalid(`metadata of "${name.slice(0, 64)}" as "${hello.name.slice(0, 64)}"`);
    this.#options.agent.addPeer(body);
    this.#report.served('pushed');
  }

  /** Of an earlier life: that one is forgotten already. */
  #invalidate(segments: readonly number[] | undefined): void {
    const { agent } = this.#options;
    const { name, incarnation } = this.#hello!;
    this.#report.served('invalidated');
    if (agent.peerIncarnation(name) !== incarnation) return;
    if (segments === undefined) agent.removePeer(name);
    else agent.invalidateSegments(name, segments);
  }

  #wait(): void {
    this.#clear();
    this.#timer = this.#clock.setTimer(this.#options.timeoutMs ?? 5000, () => this.#socket.destroy());
  }

  #clear(): void {
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }
}
