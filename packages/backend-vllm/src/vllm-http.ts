import type { Clock } from '@armature/contracts';

export interface VllmAnswer {
  readonly ok: boolean;
  readonly status: number;
  readonly text: string;
}

/** Requests to one vLLM server. The key goes into the header and nowhere else. */
export class VllmHttp {
  readonly #baseUrl: string;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #clock: Clock;
  readonly #pending: Set<AbortController>;

  /** `headers`: of every request, beside the key. */
  constructor(baseUrl: string, apiKey: string, clock: Clock, headers: Readonly<Record<string, string>> = {}) {
    this.#baseUrl = baseUrl;
    this.#headers = apiKey === '' ? headers : { ...headers, authorization: `Bearer ${apiKey}` };
    this.#clock = clock;
    this.#pending = new Set();
  }

  /** The whole answer, or an error after `timeoutMs`: a server that never ends its answer counts as one that gives none. */
  async get(path: string, timeoutMs: number): Promise<VllmAnswer> {
    const abort = new AbortController();
    this.#pending.add(abort);
    const timer = this.#clock.setTimer(timeoutMs, () => abort.abort(new Error(`no answer within ${timeoutMs} ms`)));
    try {
      const response = await fetch(`${this.#baseUrl}${path}`, { headers: this.#headers, signal: abort.signal });
      return { ok: response.ok, status: response.status, text: await response.text() };
    } finally {
      this.#clock.clearTimer(timer);
      this.#pending.delete(abort);
    }
  }

  post(path: string, requestId: string, body: unknown, signal: AbortSignal): Promise<Response> {
    return fetch(`${this.#baseUrl}${path}`, {
      method: 'POST',
      headers: { ...this.#headers, 'content-type': 'application/json', 'x-request-id': requestId },
      body: JSON.stringify(body),
      signal,
    });
  }

  /** Ends every `get`. */
  close(): void {
    for (const abort of this.#pending) abort.abort(new Error('closed'));
  }
}

/** `ECONNREFUSED` and the like, where fetch has it. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause, message } = error as Error & { cause?: { code?: string; message?: string } };
  return cause?.code ?? cause?.message ?? message;
}
