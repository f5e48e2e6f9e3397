import { Pool } from 'undici';
import type { Dispatcher } from 'undici';
import type { Clock } from '@armature/contracts';
import type { OpenAiServerConfig } from './config.ts';

/** Longest body that is no stream: an error, a list of models, an answer of one token. */
const MAX_BODY_BYTES = 4 << 20;
/** Less than the 5 s after which uvicorn, and so most Python servers, close a connection that rests. */
const KEEP_ALIVE_MS = 4000;
/** Connections for questions, so that they do not wait behind streams. */
const SPARE_CONNECTIONS = 2;

export type Answer = Dispatcher.ResponseData;

export interface WholeAnswer {
  readonly status: number;
  readonly text: string;
}

/** Connections to one server. Keys go into the headers and nowhere else; proxies named in the environment are not used. */
export class Upstream {
  readonly #pool: Pool;
  readonly #prefix: string;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #clock: Clock;
  readonly #pending: Set<AbortController>;

  constructor(config: OpenAiServerConfig, clock: Clock) {
    const { origin, pathname } = new URL(config.baseUrl);
    // Time limits are the engine's own, on its clock.
    this.#pool = new Pool(origin, { connections: config.maxSequences + SPARE_CONNECTIONS, headersTimeout: 0, bodyTimeout: 0, keepAliveTimeout: KEEP_ALIVE_MS });
    this.#prefix = pathname === '/' ? '' : pathname;
    this.#headers = headersOf(config);
    this.#clock = clock;
    this.#pending = new Set();
  }

  /** Begins an answer. `signal` closes the connection: that is how a server learns of a cancel. */
  post(path: string, requestId: string, body: unknown, signal: AbortSignal): Promise<Answer> {
    const headers = { ...this.#headers, 'content-type': 'application/json', ...(requestId === '' ? {} : { 'x-request-id': requestId }) };
    return this.#pool.request({ method: 'POST', path: this.#prefix + path, headers, body: JSON.stringify(body), signal });
  }

  /** The whole answer, or an error after `timeoutMs`: a server that never ends its answer counts as one that gives none. */
  async ask(path: string, timeoutMs: number, body?: unknown): Promise<WholeAnswer> {
    const abort = new AbortController();
    this.#pending.add(abort);
    const timer = this.#clock.setTimer(timeoutMs, () => abort.abort(new Error(`no answer within ${timeoutMs} ms`)));
    try {
      const answer =
        body === undefined
          ? await this.#pool.request({ method: 'GET', path: this.#prefix + path, headers: this.#headers, signal: abort.signal })
          : await this.post(path, '', body, abort.signal);
      return { status: answer.statusCode, text: await wholeText(answer) };
    } finally {
      this.#clock.clearTimer(timer);
      this.#pending.delete(abort);
    }
  }

  async close(): Promise<void> {
    for (const abort of this.#pending) abort.abort(new Error('closed'));
    await this.#pool.destroy();
  }
}

function headersOf(config: OpenAiServerConfig): Record<string, string> {
  return {
    ...config.headers,
    ...(config.apiKey === '' ? {} : { authorization: `Bearer ${config.apiKey}` }),
    ...(config.organization === '' ? {} : { 'openai-organization': config.organization }),
    ...(config.project === '' ? {} : { 'openai-project': config.project }),
  };
}

/** Text of a body, cut at a size that no honest one has. */
export async function wholeText(answer: Answer): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of answer.body as AsyncIterable<Uint8Array>) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > MAX_BODY_BYTES) break; // leaving the loop destroys the body
  }
  return Buffer.concat(chunks).toString();
}

/** `ECONNREFUSED` and the like, where there is a code. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code, cause, message } = error as Error & { code?: unknown; cause?: { code?: string; message?: string } };
  return cause?.code ?? (typeof code === 'string' ? code : undefined) ?? cause?.message ?? message;
}
