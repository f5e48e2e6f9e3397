import { ArmatureError } from '@armature/contracts';
import type { RequestRecord } from '@armature/serving';

export interface ChatTurn {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface ChatOptions {
  readonly model: string;
  readonly maxTokens: number | undefined;
  readonly temperature: number | undefined;
}

interface ChatChunk {
  readonly choices?: readonly { readonly delta?: { readonly content?: string } }[];
  readonly error?: { readonly message: string; readonly code?: string };
}

/** A small client of the server's own API: what a user of any OpenAI client would see. */
export class ChatClient {
  readonly #url: string;
  readonly #adminUrl: string | undefined;

  constructor(url: string, adminUrl: string | undefined) {
    this.#url = url.replace(/\/$/, '').replace(/\/v1$/, '');
    this.#adminUrl = adminUrl?.replace(/\/$/, '');
  }

  async firstModel(): Promise<string> {
    const response = await this.#fetch(`${this.#url}/v1/models`);
    const body = (await response.json().catch(() => undefined)) as { data?: { id: string }[] } | undefined;
    const model = Array.isArray(body?.data) ? body.data[0]?.id : undefined;
    if (model === undefined) throw new ArmatureError('CHAT_NO_MODEL', `${this.#url} serves no model`, { hint: 'look at /v1/models' });
    return model;
  }

  /** Streams an answer; returns its text and the request id. */
  async send(turns: readonly ChatTurn[], options: ChatOptions, onText: (text: string) => void): Promise<{ readonly text: string; readonly requestId: string }> {
    const body = {
      model: options.model,
      messages: turns,
      stream: true,
      ...(options.maxTokens === undefined ? {} : { max_tokens: options.maxTokens }),
      ...(options.temperature === undefined ? {} : { temperature: options.temperature }),
    };
    const response = await this.#fetch(`${this.#url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    return { text: await readAnswer(response, onText), requestId: response.headers.get('x-request-id') ?? '' };
  }

  /** The request's record from the admin listener; undefined when there is none. */
  async record(requestId: string): Promise<RequestRecord | undefined> {
    if (this.#adminUrl === undefined || requestId === '') return undefined;
    try {
      const response = await this.#fetch(`${this.#adminUrl}/requests/${encodeURIComponent(requestId)}`);
      return (await response.json()) as RequestRecord;
    } catch {
      return undefined; // no admin listener there, or it keeps no records: the chat goes on without
    }
  }

  async #fetch(url: string, init?: RequestInit): Promise<Response> {
    let response: Response;
    try {
      response = await fetch(url, init);
    } catch (error) {
      throw new ArmatureError('CHAT_UNREACHABLE', `nothing answers at ${url}`, {
        cause: error,
        hint: 'start a server (armature serve -f FILE), name its address with --url, or let chat start one with -f FILE',
      });
    }
    if (response.ok) return response;
    const body = (await response.json().catch(() => undefined)) as { error?: { message?: string; code?: string } } | undefined;
    throw new ArmatureError('CHAT_REFUSED', body?.error?.message ?? `${url} answered ${response.status}`, {
      hint: `status ${response.status}, code ${body?.error?.code ?? 'none'}`,
    });
  }
}

/** Text of a streamed answer. Throws `CHAT_FAILED` when the server reports an error, is no such server, or the stream is cut. */
async function readAnswer(response: Response, onText: (text: string) => void): Promise<string> {
  let text = '';
  try {
    for await (const data of sseData(response)) {
      if (data === '[DONE]') return text;
      const chunk = JSON.parse(data) as ChatChunk;
      if (chunk.error !== undefined) throw new ArmatureError('CHAT_FAILED', chunk.error.message, { hint: `code ${chunk.error.code ?? 'unknown'}` });
      const piece = chunk.choices?.[0]?.delta?.content ?? '';
      text += piece;
      if (piece !== '') onText(piece);
    }
  } catch (error) {
    if (ArmatureError.is(error)) throw error;
    throw new ArmatureError('CHAT_FAILED', `the answer broke off: ${(error as Error).message}`, { cause: error, hint: 'look at the log of the server' });
  }
  throw new ArmatureError('CHAT_FAILED', 'the answer was cut: the stream ended without [DONE]', { hint: 'look at the log of the server' });
}

/** The `data:` payloads of a server-sent event stream. */
async function* sseData(response: Response): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let pending = '';
  for await (const bytes of response.body ?? []) {
    pending += decoder.decode(bytes as Uint8Array, { stream: true });
    for (let end = pending.indexOf('\n\n'); end !== -1; end = pending.indexOf('\n\n')) {
      const event = pending.slice(0, end);
      pending = pending.slice(end + 2);
      for (const line of event.split('\n')) {
        if (line.startsWith('data:')) yield line.slice(5).trimStart();
      }
    }
  }
}
