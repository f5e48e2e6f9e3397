import cluster from 'node:cluster';
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { ArmatureError } from '@armature/contracts';
import type { HttpHandler, HttpListener, HttpListenOptions, HttpServer } from '@armature/contracts';
import { NodeExchange } from './node-exchange.ts';

/** Config of the `node` http-server. */
export interface NodeServerConfig {
  readonly keepAliveTimeoutMs: number;
  readonly headersTimeoutMs: number;
  readonly bodyTimeoutMs: number;
  readonly maxConnections: number;
  readonly maxHeaderBytes: number;
  readonly slowReaderTimeoutMs: number;
}

export const NODE_SERVER_DEFAULTS: NodeServerConfig = {
  keepAliveTimeoutMs: 75_000,
  headersTimeoutMs: 15_000,
  bodyTimeoutMs: 60_000,
  maxConnections: 0,
  maxHeaderBytes: 16_384,
  slowReaderTimeoutMs: 30_000,
};

/** What is known of one connection: the answers that have not ended, to abort when it closes. */
export interface Connection {
  readonly live: Set<NodeExchange>;
  /** After the end of an answer: how long the client may read nothing of what is left. */
  readonly slowReaderTimeoutMs: number;
}

const EMPTY = new Uint8Array(0);

/** http-server over node:http; streams are framed here (one write per chunk), not by node. */
export class NodeHttpServer implements HttpServer {
  readonly name = 'node';
  readonly #config: NodeServerConfig;
  readonly #listeners = new Set<NodeListener>();

  constructor(config: NodeServerConfig = NODE_SERVER_DEFAULTS) {
    this.#config = config;
  }

  async listen(options: HttpListenOptions, handler: HttpHandler): Promise<HttpListener> {
    const listener = new NodeListener(this.#config, options, handler);
    await listener.open();
    this.#listeners.add(listener);
    return listener;
  }

  async close(): Promise<void> {
    const open = [...this.#listeners];
    this.#listeners.clear();
    await Promise.all(open.map((listener) => listener.close(0)));
  }
}

/** SO_REUSEPORT by `listen` came with Node 23.1. */
function canReusePort(): boolean {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  return major > 23 || (major === 23 && minor >= 1);
}

class NodeListener implements HttpListener {
  readonly #server: Server;
  readonly #config: NodeServerConfig;
  readonly #options: HttpListenOptions;
  readonly #handler: HttpHandler;
  readonly #connections = new WeakMap<Socket, Connection>();
  readonly #live = new Set<NodeExchange>();
  #closing: Promise<void> | undefined = undefined;
  #whenIdle: (() => void) | undefined = undefined;
  #port = 0;

  constructor(config: NodeServerConfig, options: HttpListenOptions, handler: HttpHandler) {
    this.#config = config;
    this.#options = options;
    this.#handler = handler;
    const server = createServer({
      keepAliveTimeout: config.keepAliveTimeoutMs,
      headersTimeout: config.headersTimeoutMs,
      requestTimeout: config.bodyTimeoutMs,
      maxHeaderSize: config.maxHeaderBytes,
      connectionsCheckingInterval: Math.max(50, Math.min(5000, Math.floor(config.headersTimeoutMs / 2))),
      noDelay: true,
    });
    this.#server = server;
    if (config.maxConnections > 0) server.maxConnections = config.maxConnections;
    server.on('connection', (socket: Socket) => this.#opened(socket));
    server.on('request', (request: IncomingMessage, response: ServerResponse) => this.#receive(request, response, false));
    server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => this.#receive(request, response, true));
    server.on('clientError', answerMalformed);
  }

  get host(): string {
    return this.#options.host;
  }
  get port(): number {
    return this.#port;
  }

  async open(): Promise<void> {
    const { host, port, shared = false } = this.#options;
    if (shared && !cluster.isWorker && !canReusePort()) {
      const hint = 'start the processes with `armature up`, use `server: { use: uws }`, or run Node 23.1 or newer';
      throw new ArmatureError('HTTP_SHARING_UNSUPPORTED', `Node ${process.versions.node} cannot share port ${port} between processes that were started apart`, { hint });
    }
    const place = { host, port, exclusive: !shared, ...(shared && !cluster.isWorker ? { reusePort: true } : {}) };
    return new Promise((resolve, reject) => {
      const onError = (error: NodeJS.ErrnoException): void => reject(listenError(error, host, port));
      this.#server.once('error', onError);
      this.#server.listen(place, () => {
        this.#server.off('error', onError);
        this.#port = (this.#server.address() as AddressInfo).port;
        resolve();
      });
    });
  }

  close(deadlineMs: number): Promise<void> {
    this.#closing ??= this.#close(deadlineMs);
    return this.#closing;
  }

  async #close(deadlineMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const exchange of this.#live) exchange.closeAfter();
    this.#server.closeIdleConnections();
    if (this.#live.size > 0 && deadlineMs > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, deadlineMs);
        this.#whenIdle = () => {
          clearTimeout(timer);
          // The last answers may still be in the sockets' buffers: let them leave.
          setImmediate(resolve);
        };
      });
    }
    for (const exchange of this.#live) exchange.abort();
    this.#server.closeIdleConnections();
    const linger = setTimeout(() => this.#server.closeAllConnections(), deadlineMs > 0 ? 100 : 0);
    await closed;
    clearTimeout(linger);
  }

  #opened(socket: Socket): void {
    const connection: Connection = { live: new Set(), slowReaderTimeoutMs: this.#config.slowReaderTimeoutMs };
    this.#connections.set(socket, connection);
    socket.on('close', () => {
      for (const exchange of connection.live) exchange.abort();
    });
  }

  #receive(request: IncomingMessage, response: ServerResponse, expectsContinue: boolean): void {
    const limit = this.#options.maxBodyBytes;
    const declared = request.headers['content-length'];
    if (declared !== undefined && Number(declared) > limit) return this.#refuse(request, response);
    if (expectsContinue) response.writeContinue();
    if (declared === '0' || (declared === undefined && request.headers['transfer-encoding'] === undefined)) {
      return this.#dispatch(request, response, EMPTY);
    }
    let first: Buffer | undefined;
    let more: Buffer[] | undefined;
    let size = 0;
    request.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > limit) {
        request.removeAllListeners('data');
        request.removeAllListeners('end');
        return this.#refuse(request, response);
      }
      if (first === undefined) first = chunk;
      else (more ??= [first]).push(chunk);
    });
    request.on('end', () => this.#dispatch(request, response, more === undefined ? (first ?? EMPTY) : Buffer.concat(more, size)));
    request.on('error', () => undefined);
  }

  #dispatch(request: IncomingMessage, response: ServerResponse, body: Uint8Array): void {
    const connection = this.#connections.get(request.socket);
    if (connection === undefined || request.socket.destroyed) return;
    const exchange = new NodeExchange(request, response, body, connection, this.#ended);
    this.#live.add(exchange);
    if (this.#closing !== undefined) exchange.closeAfter();
    this.#handler.request(exchange);
  }

  readonly #ended = (exchange: NodeExchange): void => {
    this.#live.delete(exchange);
    if (this.#closing === undefined) return;
    setImmediate(() => this.#server.closeIdleConnections());
    if (this.#live.size === 0) this.#whenIdle?.();
  };

  /** Answers at once and throws the rest of the body away, up to a bound, so that the client reads the answer and not a reset. */
  #refuse(request: IncomingMessage, response: ServerResponse): void {
    const reply = this.#handler.tooLarge(this.#options.maxBodyBytes);
    const bytes = Buffer.from(reply.body);
    response.writeHead(reply.status, { ...reply.headers, 'content-length': bytes.length });
    response.end(bytes);
    const socket = request.socket;
    let left = this.#options.maxBodyBytes + 1_048_576;
    const timer = setTimeout(() => socket.destroy(), 5000);
    request.on('data', (chunk: Buffer) => {
      left -= chunk.length;
      if (left < 0) socket.destroy();
    });
    request.on('error', () => undefined);
    request.on('close', () => clearTimeout(timer));
    request.resume();
  }
}

function listenError(error: NodeJS.ErrnoException, host: string, port: number): ArmatureError {
  if (error.code === 'EADDRINUSE') {
    return new ArmatureError('HTTP_PORT_IN_USE', `${host}:${port} is in use by another program`, { hint: 'choose another port, or 0 for any free one', cause: error });
  }
  return new ArmatureError('HTTP_LISTEN_FAILED', `cannot listen on ${host}:${port}: ${error.code ?? error.message}`, {
    hint: 'host must be an address of this machine, and ports below 1024 need privileges',
    cause: error,
  });
}

/** Requests node's parser refused: there is no exchange, so the envelope is written by hand. */
function answerMalformed(error: NodeJS.ErrnoException, socket: Socket): void {
  if (socket.destroyed || !socket.writable || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  let status = '400 Bad Request';
  let code = 'malformed_http';
  if (error.code === 'HPE_HEADER_OVERFLOW') [status, code] = ['431 Request Header Fields Too Large', 'headers_too_large'];
  else if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT') [status, code] = ['408 Request Timeout', 'request_timeout'];
  const body = `{"error":{"message":"${status.slice(4)}","type":"invalid_request_error","param":null,"code":"${code}"}}`;
  socket.end(`HTTP/1.1 ${status}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\nx-request-id: req_${randomUUID()}\r\nconnection: close\r\n\r\n${body}`);
}
