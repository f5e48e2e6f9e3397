import type { Lifecycle } from './plugin.ts';

export type HttpHeaders = Readonly<Record<string, string>>;

/** One request and its answer. All methods are safe after the client has gone (they do nothing). */
export interface HttpExchange {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  /** Without `?`, '' when absent. */
  readonly query: string;
  /** Header value by lower-case name, '' when absent. */
  header(name: string): string;
  /** The whole body; borrowed until the handler returns. */
  readonly body: Uint8Array;
  /** Complete answer. `content-length` is set by the server. */
  respond(status: number, headers: HttpHeaders, body: string | Uint8Array): void;
  /** Begins a streamed answer; the head leaves at once. */
  stream(status: number, headers: HttpHeaders): void;
  /** One write of a stream. Returns bytes not yet accepted by the socket, for backpressure. */
  write(chunk: string): number;
  /** Ends a stream, with a last chunk. */
  end(chunk?: string): void;
  /** Called once if the client goes away before the answer has ended. Set it in the handler, synchronously. */
  onAbort(callback: () => void): void;
  /** Closes the connection without a proper end (a client too slow to read). */
  destroy(): void;
}

export interface HttpListenOptions {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  /** Larger bodies are answered by `tooLarge` before they are read whole. */
  readonly maxBodyBytes: number;
  /** Other processes may listen on the same port; the system spreads connections over them. Default: the port is this process' own. */
  readonly shared?: boolean;
}

export interface HttpHandler {
  request(exchange: HttpExchange): void;
  /** Answer for a body over the limit: status, headers, body. */
  tooLarge(limitBytes: number): { status: number; headers: HttpHeaders; body: string };
}

export interface HttpListener {
  readonly host: string;
  readonly port: number;
  /** Stops accepting, waits for answers in flight up to the deadline, then closes what is left. Idempotent. */
  close(deadlineMs: number): Promise<void>;
}

export interface HttpServer extends Lifecycle {
  readonly name: string;
  /** Throws `HTTP_PORT_IN_USE`, `HTTP_LISTEN_FAILED`, `HTTP_SHARING_UNSUPPORTED`. */
  listen(options: HttpListenOptions, handler: HttpHandler): Promise<HttpListener>;
}
