// @hot
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { HttpExchange, HttpHeaders } from '@armature/contracts';
import type { Connection } from './node-server.ts';

const Phase = { Open: 0, Streaming: 1, Ended: 2 } as const;

/** One request over node:http. */
export class NodeExchange implements HttpExchange {
  readonly method: string;
  readonly path: string;
  readonly query: string;
  readonly body: Uint8Array;
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #connection: Connection;
  readonly #onEnded: (exchange: NodeExchange) => void;
  #phase: number = Phase.Open;
  /** The socket to frame chunks onto, or undefined where node must do it (HTTP/1.0, a pipelined answer not yet first in line). */
  #raw: Socket | undefined = undefined;
  #abort: (() => void) | undefined = undefined;

  constructor(request: IncomingMessage, response: ServerResponse, body: Uint8Array, connection: Connection, onEnded: (exchange: NodeExchange) => void) {
    const url = request.url ?? '/';
    const mark = url.indexOf('?');
    this.method = request.method ?? 'GET';
    this.path = mark < 0 ? url : url.slice(0, mark);
    this.query = mark < 0 ? '' : url.slice(mark + 1);
    this.body = body;
    this.#request = request;
    this.#response = response;
    this.#connection = connection;
    this.#onEnded = onEnded;
    connection.live.add(this);
  }

  header(name: string): string {
    const value = this.#request.headers[name];
    return typeof value === 'string' ? value : value === undefined ? '' : value.join(', ');
  }

  onAbort(callback: () => void): void {
    this.#abort = callback;
  }

  respond(status: number, headers: HttpHeaders, body: string | Uint8Array): void {
    if (this.#phase !== Phase.Open) return;
    this.#finish();
    const response = this.#response;
    const length = typeof body === 'string' ? Buffer.byteLength(body) : body.byteLength;
    response.writeHead(status, { ...headers, 'content-length': length });
    if (typeof body === 'string') response.end(body, length === body.length ? 'latin1' : 'utf8');
    else response.end(body);
    this.#limitReader();
  }

  stream(status: number, headers: HttpHeaders): void {
    if (this.#phase !== Phase.Open) return;
    this.#phase = Phase.Streaming;
    const response = this.#response;
    const request = this.#request;
    response.writeHead(status, headers);
    const socket = response.socket;
    if (socket !== null && request.httpVersionMinor === 1 && request.method !== 'HEAD') {
      this.#raw = socket;
      // Head and first chunk leave as one write when they come in the same turn.
      socket.cork();
      process.nextTick(uncork, socket);
    }
    response.flushHeaders();
  }

  write(chunk: string): number {
    if (this.#phase !== Phase.Streaming) return 0;
    if (chunk === '') return this.#pending();
    const socket = this.#raw;
    if (socket === undefined) {
      this.#response.write(chunk);
      return this.#response.writableLength;
    }
    const length = Buffer.byteLength(chunk);
    // `latin1` skips the UTF-8 transcoder; equal lengths mean pure ASCII.
    socket.write(`${length.toString(16)}\r\n${chunk}\r\n`, length === chunk.length ? 'latin1' : 'utf8');
    return socket.writableLength;
  }

  end(chunk?: string): void {
    if (this.#phase !== Phase.Streaming) return;
    const socket = this.#raw;
    if (chunk !== undefined && chunk !== '') {
      if (socket === undefined) this.#response.write(chunk);
      else {
        // The last chunk and node's terminating chunk leave together.
        socket.cork();
        process.nextTick(uncork, socket);
        this.write(chunk);
      }
    }
    this.#finish();
    this.#response.end();
    this.#limitReader();
  }

  destroy(): void {
    if (this.#phase === Phase.Ended) return;
    this.#finish();
    this.#request.socket.destroy();
  }

  /** The connection is not to be used again after this answer. */
  closeAfter(): void {
    this.#response.shouldKeepAlive = false;
  }

  /** The client has gone (or the server closes): tells the handler, once. */
  abort(): void {
    if (this.#phase === Phase.Ended) return;
    this.#finish();
    const callback = this.#abort;
    this.#abort = undefined;
    if (!this.#request.socket.destroyed) this.#request.socket.destroy();
    callback?.();
  }

  /** What is left after the end waits for the client, but not for ever. Node sets its own timeout again when all has left. */
  #limitReader(): void {
    const socket = this.#request.socket;
    if (socket.writableLength > 0) socket.setTimeout(this.#connection.slowReaderTimeoutMs);
  }

  #pending(): number {
    return this.#raw === undefined ? this.#response.writableLength : this.#raw.writableLength;
  }

  #finish(): void {
    this.#phase = Phase.Ended;
    this.#connection.live.delete(this);
    this.#onEnded(this);
  }
}

function uncork(socket: Socket): void {
  socket.uncork();
}
