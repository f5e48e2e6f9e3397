// @hot
import type { HttpExchange, HttpHeaders } from '@armature/contracts';
import type { UwsRequest, UwsResponse } from './uws-module.ts';

const Phase = { Open: 0, Streaming: 1, Ended: 2 } as const;
const EMPTY = new Uint8Array(0);

const REASONS: Readonly<Record<number, string>> = {
  200: 'OK',
  201: 'Created',
  204: 'No Content',
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  413: 'Payload Too Large',
  415: 'Unsupported Media Type',
  422: 'Unprocessable Entity',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
  529: 'Overloaded',
};

function statusLine(status: number): string {
  return `${status} ${REASONS[status] ?? 'Status'}`;
}

/** One request over uWebSockets.js. The request object dies with the handler, so its head is copied here. */
export class UwsExchange implements HttpExchange {
  readonly method: string;
  readonly path: string;
  readonly query: string;
  body: Uint8Array = EMPTY;
  readonly #headers = new Map<string, string>();
  readonly #response: UwsResponse;
  readonly #onEnded: (exchange: UwsExchange) => void;
  #phase: number = Phase.Open;
  #abort: (() => void) | undefined = undefined;
  #pending = 0;

  constructor(response: UwsResponse, request: UwsRequest, onEnded: (exchange: UwsExchange) => void) {
    this.method = request.getCaseSensitiveMethod();
    this.path = request.getUrl();
    this.query = request.getQuery() ?? '';
    this.#response = response;
    this.#onEnded = onEnded;
    const headers = this.#headers;
    request.forEach((name, value) => {
      const before = headers.get(name);
      headers.set(name, before === undefined ? value : `${before}, ${value}`);
    });
  }

  header(name: string): string {
    return this.#headers.get(name) ?? '';
  }

  onAbort(callback: () => void): void {
    this.#abort = callback;
  }

  get isOpen(): boolean {
    return this.#phase !== Phase.Ended;
  }

  respond(status: number, headers: HttpHeaders, body: string | Uint8Array): void {
    this.answer(status, headers, body, false);
  }

  /** With `closeAfter` the connection takes no further request. */
  answer(status: number, headers: HttpHeaders, body: string | Uint8Array, closeAfter: boolean): void {
    if (this.#phase !== Phase.Open) return;
    this.#finish();
    const response = this.#response;
    response.cork(() => {
      this.#writeHead(status, headers);
      if (this.method === 'HEAD') {
        // Not through endWithoutBody(length): the library would wait for those bytes and refuse the connection's next request.
        response.writeHeader('content-length', String(typeof body === 'string' ? Buffer.byteLength(body) : body.byteLength));
        response.endWithoutBody();
      } else response.end(body, closeAfter);
    });
  }

  stream(status: number, headers: HttpHeaders): void {
    if (this.#phase !== Phase.Open) return;
    this.#phase = Phase.Streaming;
    const response = this.#response;
    // The library sends the head together with the first chunk. No onWritable: with one it would stop draining by itself.
    response.cork(() => this.#writeHead(status, headers));
  }

  write(chunk: string): number {
    if (this.#phase !== Phase.Streaming) return 0;
    if (chunk === '') return this.#pending;
    let accepted = true;
    const response = this.#response;
    response.cork(() => {
      accepted = response.write(chunk);
    });
    // The library tells only whether something is left. Until it says "nothing", everything written since counts: an upper bound.
    this.#pending = accepted ? 0 : this.#pending + Buffer.byteLength(chunk);
    return this.#pending;
  }

  end(chunk?: string): void {
    if (this.#phase !== Phase.Streaming) return;
    this.#finish();
    const response = this.#response;
    response.cork(() => {
      if (chunk !== undefined && chunk !== '') response.write(chunk);
      response.end();
    });
  }

  destroy(): void {
    if (this.#phase === Phase.Ended) return;
    this.#finish();
    this.#response.close();
  }

  /** The connection has gone (or the server closes it): tells the handler, once. */
  aborted(): void {
    if (this.#phase === Phase.Ended) return;
    this.#finish();
    const callback = this.#abort;
    this.#abort = undefined;
    callback?.();
  }

  #writeHead(status: number, headers: HttpHeaders): void {
    const response = this.#response;
    response.writeStatus(statusLine(status));
    for (const name in headers) response.writeHeader(name, headers[name]!);
  }

  #finish(): void {
    this.#phase = Phase.Ended;
    this.#onEnded(this);
  }
}
