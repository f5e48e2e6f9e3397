import { Pool } from 'undici';
import { S3Failure } from './s3-failure.ts';

export interface S3Body {
  readonly lengthBytes: number;
  /** From the start, each time. The bytes stay as they are until the exchange has ended. */
  chunks(): Iterable<Uint8Array>;
}

/** Takes the body of a good answer as it arrives. A throw ends the exchange with that error. */
export interface ByteSink {
  start(status: number, headers: AnswerHeaders): void;
  data(chunk: Buffer): void;
}

export type AnswerHeaders = Readonly<Record<string, string | undefined>>;

export interface ExchangeRequest {
  readonly method: 'GET' | 'HEAD' | 'PUT' | 'DELETE';
  /** With its query. */
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body?: S3Body | undefined;
  readonly sink?: ByteSink | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ExchangeAnswer {
  readonly status: number;
  readonly headers: AnswerHeaders;
  /** Beginning of the body of an answer that went to no sink. */
  readonly text: string;
}

/** S3 errors are short; what is longer is not read to be understood. */
const MAX_TEXT_BYTES = 16_384;

export interface WireOptions {
  readonly origin: string;
  readonly connections: number;
  readonly requestTimeoutMs: number;
  readonly ca: string | undefined;
}

/** Connections to one origin, one exchange each at a time. */
export class Wire {
  readonly #pool: Pool;
  readonly #origin: string;

  constructor(options: WireOptions) {
    this.#origin = options.origin;
    const timeout = options.requestTimeoutMs;
    this.#pool = new Pool(options.origin, {
      connections: options.connections,
      pipelining: 1,
      headersTimeout: timeout,
      bodyTimeout: timeout,
      connect: { timeout, ...(options.ca === undefined ? {} : { ca: options.ca }) },
    });
  }

  /** Settles when no byte of body or sink is used any more. Rejects with S3Failure, or what the sink threw. Redirects are answers like others. */
  exchange(request: ExchangeRequest): Promise<ExchangeAnswer> {
    return new Promise((resolve, reject) => {
      const { signal, sink } = request;
      if (signal?.aborted) return void reject(signal.reason as Error);
      let abort: ((reason: Error) => void) | undefined;
      // Before it has a connection no byte of it is used: it ends here, and where it would begin it is told to stop.
      const onAbort = (): void => (abort === undefined ? reject(signal!.reason as Error) : abort(signal!.reason as Error));
      signal?.addEventListener('abort', onAbort, { once: true });
      let status = 0;
      let headers: AnswerHeaders = {};
      let text: Buffer = Buffer.alloc(0);
      let isSunk = false;
      this.#pool.dispatch(
        { origin: this.#origin, method: request.method, path: request.path, headers: request.headers, body: request.body === undefined ? null : (request.body.chunks() as Iterable<Buffer> & never) },
        {
          onRequestStart: (controller) => {
            abort = (reason) => controller.abort(reason);
            if (signal?.aborted) abort(signal.reason as Error);
          },
          onResponseStart: (_controller, code, fields) => {
            status = code;
            headers = fields as AnswerHeaders;
            isSunk = sink !== undefined && code >= 200 && code < 300;
            if (isSunk) sink!.start(code, headers);
          },
          onResponseData: (_controller, chunk) => {
            if (isSunk) sink!.data(chunk);
            else if (text.length < MAX_TEXT_BYTES) text = Buffer.concat([text, chunk.subarray(0, MAX_TEXT_BYTES - text.length)]);
          },
          onResponseEnd: () => {
            signal?.removeEventListener('abort', onAbort);
            resolve({ status, headers, text: text.toString('utf8') });
          },
          onResponseError: (_controller, error) => {
            signal?.removeEventListener('abort', onAbort);
            reject(error instanceof S3Failure ? error : S3Failure.from(error));
          },
        },
      );
    });
  }

  /** Ends every exchange. */
  close(): Promise<void> {
    return this.#pool.destroy();
  }
}
