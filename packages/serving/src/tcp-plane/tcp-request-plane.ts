import net from 'node:net';
import tls from 'node:tls';
import { ArmatureError } from '@armature/contracts';
import type { ErrorData, PlainData, PlaneStream, RequestPlane, ServedEndpoint, StreamHandler, StreamOpen, StreamSink, Timer } from '@armature/contracts';
import { connectTls } from '@armature/nixel';
import type { TlsMaterial } from '@armature/nixel';
import { Connection } from './connection.ts';
import type { ConnectionOptions, ConnectionOwner } from './connection.ts';
import { TcpStream } from './stream.ts';

/** Hears of connections; forwards discovery and events over them. */
export interface PlaneBridge {
  start(): Promise<void>;
  ready(connection: Connection): void;
  control(connection: Connection, type: number, body: PlainData): void;
  closed(connection: Connection): void;
  close(): Promise<void>;
}

export interface TcpRequestPlaneOptions extends ConnectionOptions {
  readonly host: string;
  readonly port: number;
  /** What peers dial; '' = host. */
  readonly advertiseHost: string;
  /** Processes to stay connected to, as `host:port`. */
  readonly connect: readonly string[];
  readonly bridge: PlaneBridge | undefined;
  /** Every connection is encrypted, and its ends know each other by certificate. */
  readonly tls?: TlsMaterial | undefined;
}

interface Endpoint {
  readonly name: string;
  readonly handler: StreamHandler;
  readonly streams: Set<TcpStream>;
}

const SCHEME = 'tcp://';
const ADDRESS = /^tcp:\/\/(\[[0-9a-f:]+\]|[^/:]+):(\d{1,5})\/(.+)$/i;
const PEER = /^(?:tcp:\/\/)?(\[[0-9a-f:]+\]|[^/:]+):(\d{1,5})$/i;
const FIRST_RETRY_MS = 50;
const MAX_RETRY_MS = 2000;
const MAX_CONNECTIONS = 4096;
const DRAIN_MS = 1000;

/**
 * Request streams between processes: one connection per pair of processes, streams multiplexed over it, all frames of a tick in one
 * write. Frame format: docs/reference/request-plane.md.
 */
export class TcpRequestPlane implements RequestPlane, ConnectionOwner {
  readonly supports = { processes: true } as const;
  readonly #options: TcpRequestPlaneOptions;
  readonly #endpoints = new Map<string, Endpoint>();
  readonly #connections = new Set<Connection>();
  /** Live connections by what dials them. */
  readonly #byAddress = new Map<string, Connection>();
  readonly #retries = new Set<Timer>();
  readonly #server: net.Server;
  #port = 0;
  #listening: Promise<void> | undefined = undefined;
  #closing: Promise<void> | undefined = undefined;

  constructor(options: TcpRequestPlaneOptions) {
    this.#options = options;
    const accept = (socket: net.Socket): void => this.#accepted(socket);
    this.#server = options.tls === undefined ? net.createServer(accept) : tls.createServer({ ...options.tls.server, handshakeTimeout: options.connectTimeoutMs }, accept);
    this.#server.on('tlsClientError', (error: Error) => options.log.warn('request-plane connection refused', { code: 'PLANE_TLS_FAILED', reason: error.message }));
    for (const peer of options.connect) {
      if (!PEER.test(peer)) throw new ArmatureError('CONFIG_INVALID', `requests.config.connect names "${peer}"`, { hint: 'write host:port, for example 127.0.0.1:7400' });
    }
  }

  /** Listens, dials `connect`. Throws `PLANE_LISTEN_FAILED`. */
  async start(): Promise<void> {
    await this.#listen();
    await this.#options.bridge?.start();
    for (const peer of this.#options.connect) this.#keep(peer.replace(SCHEME, ''), FIRST_RETRY_MS);
  }

  /** Connections and streams open now; for tests. */
  counts(): { readonly connections: number; readonly streams: number; readonly writes: number } {
    let streams = 0;
    let writes = 0;
    for (const connection of this.#connections) {
      streams += connection.openStreams;
      writes += connection.writes;
    }
    return { connections: this.#connections.size, streams, writes };
  }

  /** `host:port` that peers dial. */
  address(): string {
    return this.#port === 0 ? '' : `${this.#options.advertiseHost || this.#options.host}:${this.#port}`;
  }

  async serve(name: string, handler: StreamHandler): Promise<ServedEndpoint> {
    if (this.#closing !== undefined) throw new ArmatureError('PLANE_CLOSED', `"${name}" was served after the request plane was closed`, { hint: 'serve before close' });
    if (this.#endpoints.has(name)) throw new ArmatureError('PLANE_ENDPOINT_TAKEN', `the endpoint "${name}" is served already`, { hint: 'give this endpoint another name' });
    const endpoint: Endpoint = { name, handler, streams: new Set() };
    this.#endpoints.set(name, endpoint);
    await this.#listen();
    return { address: `${SCHEME}${this.address()}/${name}`, close: () => this.#closeEndpoint(endpoint) };
  }

  open(address: string, open: StreamOpen, sink: StreamSink): PlaneStream {
    const parts = ADDRESS.exec(address);
    if (parts === null || Number(parts[2]) > 65_535 || this.#closing !== undefined) return this.#unreachable(address, open, sink);
    return this.#connection(`${parts[1]}:${parts[2]}`).open(parts[3]!, open, sink);
  }

  accept(name: string, open: StreamOpen, stream: TcpStream): StreamSink {
    const endpoint = this.#endpoints.get(name);
    if (endpoint === undefined) {
      throw new ArmatureError('PLANE_UNREACHABLE', `nothing is served as "${name}" at ${this.address()}`, { hint: 'the worker has gone', retryable: true });
    }
    const sink = endpoint.handler(open, stream);
    if (stream.isEnded) return sink;
    endpoint.streams.add(stream);
    return {
      message: (message) => sink.message(message),
      closed: (error) => {
        endpoint.streams.delete(stream);
        sink.closed(error);
      },
    };
  }

  ready(connection: Connection): void {
    if (!this.#byAddress.has(connection.address)) this.#byAddress.set(connection.address, connection);
    this.#options.log.debug('request-plane connection ready', { peer: connection.address, node: connection.node });
    // A process that dials itself has nothing to tell itself.
    if (connection.node !== this.#options.node) this.#options.bridge?.ready(connection);
  }

  control(connection: Connection, type: number, body: PlainData): void {
    this.#options.bridge?.control(connection, type, body);
  }

  leaving(connection: Connection): void {
    if (this.#byAddress.get(connection.address) === connection) this.#byAddress.delete(connection.address);
  }

  closed(connection: Connection): void {
    this.#connections.delete(connection);
    this.leaving(connection);
    this.#options.bridge?.closed(connection);
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    for (const timer of this.#retries) this.#options.clock.clearTimer(timer);
    this.#retries.clear();
    await this.#options.bridge?.close();
    await Promise.all([...this.#endpoints.values()].map((endpoint) => this.#closeEndpoint(endpoint)));
    await this.#listening?.catch(() => undefined);
    const gone = new Promise<void>((resolve) => {
      if (this.#server.listening) this.#server.close(() => resolve());
      else resolve();
    });
    for (const connection of this.#connections) connection.finish();
    // A peer that does not close its side is cut.
    const cut = this.#options.clock.setTimer(DRAIN_MS, () => this.#destroyAll());
    await gone;
    await this.#untilEmpty();
    this.#options.clock.clearTimer(cut);
  }

  #untilEmpty(): Promise<void> {
    return new Promise((resolve) => {
      const look = (): void => {
        if (this.#connections.size === 0) resolve();
        else this.#options.clock.setTimer(1, look);
      };
      look();
    });
  }

  #destroyAll(): void {
    for (const connection of this.#connections) connection.destroy();
  }

  #listen(): Promise<void> {
    return (this.#listening ??= new Promise((resolve, reject) => {
      const { host, port } = this.#options;
      this.#server.once('error', (error) => {
        reject(new ArmatureError('PLANE_LISTEN_FAILED', `cannot listen on ${host}:${port}: ${error.message}`, { hint: 'choose another requests.config.port, or 0 for any', cause: error }));
      });
      this.#server.listen({ host, port, exclusive: true }, () => {
        this.#port = (this.#server.address() as net.AddressInfo).port;
        resolve();
      });
    }));
  }

  #accepted(socket: net.Socket): void {
    if (this.#connections.size >= MAX_CONNECTIONS || this.#closing !== undefined) {
      socket.destroy();
      return;
    }
    this.#connections.add(new Connection(socket, `${socket.remoteAddress}:${socket.remotePort}`, false, this, this.#options));
  }

  #connection(address: string): Connection {
    const known = this.#byAddress.get(address);
    if (known !== undefined) return known;
    const at = address.lastIndexOf(':');
    const place = { host: address.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(address.slice(at + 1)) };
    const { tls: material } = this.#options;
    const socket = material === undefined ? net.connect({ ...place, noDelay: true }) : connectTls(place, material);
    const connection = new Connection(socket, address, true, this, this.#options);
    this.#connections.add(connection);
    this.#byAddress.set(address, connection);
    return connection;
  }

  /** Stays connected to a configured peer: looks again after every delay, dials when there is no connection. */
  #keep(peer: string, delayMs: number): void {
    if (this.#closing !== undefined) return;
    const connection = this.#connection(peer);
    const nextMs = connection.isReady ? FIRST_RETRY_MS : Math.min(MAX_RETRY_MS, delayMs * 2);
    const timer = this.#options.clock.setTimer(connection.isReady ? FIRST_RETRY_MS * 4 : delayMs, () => {
      this.#retries.delete(timer);
      this.#keep(peer, nextMs);
    });
    this.#retries.add(timer);
  }

  #unreachable(address: string, open: StreamOpen, sink: StreamSink): PlaneStream {
    const { clock, log } = this.#options;
    const link = { clock, log, highWaterBytes: 0, maxStreamBytes: 0, sendMessage: () => undefined, sendClose: () => undefined, forget: () => undefined };
    const stream = new TcpStream(link, 0, open.method, sink);
    stream.abort({ code: 'PLANE_UNREACHABLE', message: `the tcp request plane cannot reach "${address}"`, hint: 'addresses look like tcp://HOST:PORT/NAME', retryable: true });
    return stream;
  }

  #closeEndpoint(endpoint: Endpoint): Promise<void> {
    if (this.#endpoints.get(endpoint.name) === endpoint) this.#endpoints.delete(endpoint.name);
    const error: ErrorData = { code: 'PLANE_DISCONNECTED', message: `the endpoint "${endpoint.name}" was closed`, hint: 'send the request elsewhere', retryable: true };
    for (const stream of [...endpoint.streams]) stream.close(error);
    return Promise.resolve();
  }
}
