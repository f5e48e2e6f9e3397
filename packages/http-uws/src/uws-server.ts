import { createServer } from 'node:net';
import { ArmatureError } from '@armature/contracts';
import type { HttpHandler, HttpListener, HttpListenOptions, HttpServer } from '@armature/contracts';
import { UwsExchange } from './uws-exchange.ts';
import { available } from './uws-module.ts';
import type { ImportUws, UwsApp, UwsModule, UwsRequest, UwsResponse } from './uws-module.ts';

/** http-server over uWebSockets.js. */
export class UwsHttpServer implements HttpServer {
  readonly name = 'uws';
  readonly #load: ImportUws | undefined;
  readonly #listeners = new Set<UwsListener>();

  constructor(load?: ImportUws) {
    this.#load = load;
  }

  /** Throws `HTTP_UWS_UNAVAILABLE` where the library cannot be loaded; whoever asked then listens with another server. */
  async listen(options: HttpListenOptions, handler: HttpHandler): Promise<HttpListener> {
    const found = await available(this.#load);
    if (!found.available) throw found.error;
    const listener = new UwsListener(found.uws, options, handler);
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

class UwsListener implements HttpListener {
  readonly #uws: UwsModule;
  readonly #app: UwsApp;
  readonly #options: HttpListenOptions;
  readonly #handler: HttpHandler;
  readonly #live = new Set<UwsExchange>();
  #socket: object | undefined = undefined;
  #port = 0;
  #closing: Promise<void> | undefined = undefined;
  #whenIdle: (() => void) | undefined = undefined;

  constructor(uws: UwsModule, options: HttpListenOptions, handler: HttpHandler) {
    this.#uws = uws;
    this.#options = options;
    this.#handler = handler;
    this.#app = uws.App().any('/*', (response, request) => this.#receive(response, request));
  }

  get host(): string {
    return this.#options.host;
  }
  get port(): number {
    return this.#port;
  }

  async open(): Promise<void> {
    const { host, port, shared = false } = this.#options;
    const socket = await new Promise<object | false>((resolve) => {
      // Exclusive: without it a second process would silently share the port (SO_REUSEPORT).
      this.#app.listen(host, port, shared ? 0 : this.#uws.LIBUS_LISTEN_EXCLUSIVE_PORT, resolve);
    });
    if (socket === false) {
      this.#app.close();
      throw await reasonOf(host, port);
    }
    this.#socket = socket;
    this.#port = this.#uws.us_socket_local_port(socket);
  }

  close(deadlineMs: number): Promise<void> {
    this.#closing ??= this.#close(deadlineMs);
    return this.#closing;
  }

  async #close(deadlineMs: number): Promise<void> {
    if (this.#socket !== undefined) this.#uws.us_listen_socket_close(this.#socket);
    this.#socket = undefined;
    if (this.#live.size > 0 && deadlineMs > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, deadlineMs);
        this.#whenIdle = () => {
          clearTimeout(timer);
          // The last answers may still be in the sockets' buffers: let them leave.
          setTimeout(resolve, 10);
        };
      });
    }
    this.#app.close();
    for (const exchange of this.#live) exchange.aborted();
    // Closed sockets are freed at the end of the library's loop iteration.
    await new Promise((resolve) => setImmediate(resolve));
  }

  #receive(response: UwsResponse, request: UwsRequest): void {
    const limit = this.#options.maxBodyBytes;
    const declared = request.getHeader('content-length');
    const exchange = new UwsExchange(response, request, this.#ended);
    // First of all: without it the library ends the process when a handler returns unanswered.
    response.onAborted(() => exchange.aborted());
    this.#live.add(exchange);
    if (declared !== '' && Number(declared) > limit) return this.#refuse(exchange);
    // The library goes by the first of two lengths; a proxy before it may go by the last, and take the rest for another request.
    // Cut, not answered: after an answer the library would go on with that rest.
    if (exchange.header('content-length') !== declared) return exchange.destroy();
    let size = 0;
    let parts: Buffer[] | undefined;
    response.onData((chunk, isLast) => {
      if (!exchange.isOpen) return;
      size += chunk.byteLength;
      if (size > limit) return this.#refuse(exchange);
      if (isLast && parts === undefined) {
        // Borrowed memory: the contract lends the body for the handler's call only, and so does the library.
        exchange.body = new Uint8Array(chunk);
        return this.#handler.request(exchange);
      }
      // The library takes the chunk back when this returns.
      (parts ??= []).push(Buffer.from(chunk.slice(0)));
      if (!isLast) return;
      exchange.body = Buffer.concat(parts, size);
      this.#handler.request(exchange);
    });
  }

  #refuse(exchange: UwsExchange): void {
    const reply = this.#handler.tooLarge(this.#options.maxBodyBytes);
    exchange.answer(reply.status, reply.headers, reply.body, true);
  }

  readonly #ended = (exchange: UwsExchange): void => {
    this.#live.delete(exchange);
    if (this.#closing !== undefined && this.#live.size === 0) this.#whenIdle?.();
  };
}

/** The library says only that it failed; the system's own answer tells why. */
function reasonOf(host: string, port: number): Promise<ArmatureError> {
  return new Promise((resolve) => {
    const probe = createServer();
    const failed = (cause?: NodeJS.ErrnoException): void => {
      const why = cause?.code ?? 'unknown reason';
      resolve(
        new ArmatureError('HTTP_LISTEN_FAILED', `cannot listen on ${host}:${port}: ${why}`, {
          hint: 'host must be an address of this machine, and ports below 1024 need privileges',
          cause,
        }),
      );
    };
    probe.once('error', (cause: NodeJS.ErrnoException) => {
      if (cause.code !== 'EADDRINUSE') return failed(cause);
      resolve(new ArmatureError('HTTP_PORT_IN_USE', `${host}:${port} is in use by another program`, { hint: 'choose another port, or 0 for any free one', cause }));
    });
    probe.listen(port, host, () => probe.close(() => failed()));
  });
}
