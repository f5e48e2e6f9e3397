import type { Clock } from '@armature/contracts';

/** Longest body that is no stream: KV events of a full buffer are the largest. */
const MAX_BODY_BYTES = 512 << 20;

export interface Answer {
  readonly status: number;
  readonly text: string;
}

export interface Ask {
  readonly method?: 'GET' | 'POST';
  readonly path: string;
  readonly body?: string;
  readonly timeoutMs: number;
}

/** Requests to one trtllm-serve. The key goes into the header and nowhere else. */
export class Http {
  readonly #baseUrl: string;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #clock: Clock;
  readonly #pending: Set<AbortController>;
  #isClosed: boolean;

  constructor(baseUrl: string, apiKey: string, clock: Clock) {
    this.#baseUrl = baseUrl;
    this.#headers = { 'content-type': 'application/json', ...(apiKey === '' ? {} : { authorization: `Bearer ${apiKey}` }) };
    this.#clock = clock;
    this.#pending = new Set();
    this.#isClosed = false;
  }

  /** Begins an answer. `signal` closes the connection: that is how the server learns of a cancel. */
  post(path: string, body: string, signal: AbortSignal): Promise<Response> {
    return fetch(this.#baseUrl + path, { method: 'POST', headers: this.#headers, body, signal });
  }

  /** The whole answer, or an error after `timeoutMs`: a server that never ends its answer counts as one that gives none. */
  async ask({ method = 'GET', path, body, timeoutMs }: Ask): Promise<Answer> {
    const abort = new AbortController();
    if (this.#isClosed) abort.abort(new Error('closed'));
    this.#pending.add(abort);
    const timer = this.#clock.setTimer(timeoutMs, () => abort.abort(new Error(`no answer within ${timeoutMs} ms`)));
    try {
      const response = await fetch(this.#baseUrl + path, { method, headers: this.#headers, signal: abort.signal, ...(body === undefined ? {} : { body }) });
      return { status: response.status, text: await wholeText(response) };
    } finally {
      this.#clock.clearTimer(timer);
      this.#pending.delete(abort);
    }
  }

  /** Ends every `ask`, and refuses further ones. */
  close(): void {
    this.#isClosed = true;
    for (const abort of this.#pending) abort.abort(new Error('closed'));
  }
}

/** Text of a body; an endless one is an error. */
export async function wholeText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new Error(`an answer of more than ${MAX_BODY_BYTES} bytes`);
  }
  return Buffer.concat(chunks).toString();
}

/** `ECONNREFUSED` and the like, where there is a code. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause, message } = error as Error & { cause?: { code?: string; message?: string } };
  return cause?.code ?? cause?.message ?? message;
}
