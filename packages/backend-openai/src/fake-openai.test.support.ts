import http from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Flavor {
  readonly ownedBy: string;
  /** Takes prompts as lists of token ids. */
  readonly takesTokens: boolean;
  /** What it tells of its tokens when asked: `token_ids`, names in logprobs, nothing. */
  readonly tells: 'ids' | 'logprobs' | 'text';
  /** Fields beyond OpenAI's that it accepts; others are answered with 400. */
  readonly accepts: readonly string[];
  readonly maxModelTokens: number;
  readonly blockSize: number;
  /** Key it asks for; '' = none. */
  readonly apiKey: string;
}

const extensions = ['top_k', 'min_p', 'repetition_penalty', 'stop_token_ids', 'ignore_eos', 'min_tokens', 'cache_salt'];
export const likeVllm: Flavor = { ownedBy: 'vllm', takesTokens: true, tells: 'ids', accepts: [...extensions, 'return_token_ids', 'return_tokens_as_token_ids'], maxModelTokens: 256, blockSize: 8, apiKey: '' };
/** As vLLM was before `return_token_ids`; unknown fields are ignored. */
export const likeOldVllm: Flavor = { ...likeVllm, tells: 'logprobs' };
/** Token ids in, text out: an Armature frontend. */
export const likeArmature: Flavor = { ...likeVllm, ownedBy: 'armature', tells: 'text' };
/** Text only, but every parameter. */
export const textOnly: Flavor = { ...likeArmature, ownedBy: 'sglang', takesTokens: false };
/** As strict and as poor as the OpenAI API itself. */
export const plain: Flavor = { ...likeVllm, ownedBy: 'system', takesTokens: false, tells: 'text', accepts: [] };

type Body = Record<string, unknown> & { readonly prompt: string | number[]; readonly max_tokens: number };
export interface Received {
  readonly body: Body;
  readonly headers: http.IncomingHttpHeaders;
  readonly prefix: string;
}
export type Script = (received: Received, response: http.ServerResponse) => void | Promise<void>;

/** Of `FakePreprocessor`, whose tokens are UTF-16 units. */
export const END_OF_SEQUENCE = 0xffff;
const baseFields = new Set(['model', 'prompt', 'stream', 'stream_options', 'max_tokens', 'temperature', 'top_p', 'seed', 'n', 'frequency_penalty', 'presence_penalty', 'logit_bias', 'logprobs']);

/** A strict server of the OpenAI API whose model draws tokens 1 to 99 by a hash of seed and place. Everything before `/v1` is a server of its own. */
export class FakeOpenAi {
  flavor: Flavor;
  readonly requests: Received[] = [];
  /** Requests that run now, and those whose connection was closed before the answer was whole. */
  running = 0;
  aborted = 0;
  connections = 0;
  /** Instead of a good answer to completions that stream, or to questions for the list of models. */
  script: Script | undefined = undefined;
  modelsScript: ((response: http.ServerResponse) => void) | undefined = undefined;
  /** Instead of a good answer to a completion that does not stream. */
  oneToken: ((received: Received) => object) | undefined = undefined;
  /** Milliseconds per token. */
  tokenMs = 0;
  readonly #caches = new Map<string, Set<string>>();
  readonly #server = http.createServer((request, response) => void this.#serve(request, response));

  constructor(flavor: Flavor = likeVllm) {
    this.flavor = flavor;
  }

  async listen(): Promise<string> {
    this.#server.on('connection', () => void this.connections++);
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  async #serve(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const [, prefix = '', path] = /^(.*)\/v1(\/.*)$/.exec(request.url ?? '') ?? [];
    if (this.flavor.apiKey !== '' && request.headers.authorization !== `Bearer ${this.flavor.apiKey}`) return refuse(response, 401, 'Incorrect API key provided');
    if (path === '/models' && request.method === 'GET') {
      if (this.modelsScript !== undefined) return this.modelsScript(response);
      return json(response, { object: 'list', data: [{ id: 'demo', object: 'model', owned_by: this.flavor.ownedBy, max_model_len: this.flavor.maxModelTokens }] });
    }
    if (path !== '/completions' || request.method !== 'POST') return refuse(response, 404, 'Not Found');
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = JSON.parse(Buffer.concat(chunks).toString()) as Body;
    const problem = this.#problemWith(body);
    if (problem !== undefined) return refuse(response, 400, problem);
    const received = { body, headers: request.headers, prefix };
    this.requests.push(received);
    this.running++;
    response.on('close', () => {
      this.running--;
      if (!response.writableFinished) this.aborted++;
    });
    if (this.script !== undefined && body['stream'] === true) await this.script(received, response);
    else if (this.oneToken !== undefined && body['stream'] !== true) json(response, this.oneToken(received));
    else await this.#complete(received, response);
  }

  #problemWith(body: Body): string | undefined {
    const { accepts, takesTokens, maxModelTokens } = this.flavor;
    for (const name of Object.keys(body)) if (!baseFields.has(name) && !accepts.includes(name)) return `Unrecognized request argument supplied: ${name}`;
    if (body['model'] !== 'demo') return `The model ${String(body['model'])} does not exist`;
    if (typeof body.prompt !== 'string' && !takesTokens) return 'prompt must be a string';
    if (typeof body.prompt !== 'string' && !body.prompt.every((token) => Number.isInteger(token) && token >= 0 && token < 0x10000)) return 'prompt: a token is out of the vocabulary';
    if (!(Number.isInteger(body.max_tokens) && body.max_tokens >= 1)) return 'max_tokens must be at least 1';
    if (Number(body['min_tokens'] ?? 0) > body.max_tokens) return 'min_tokens must be less than or equal to max_tokens';
    if (body['stream_options'] !== undefined && body['stream'] !== true) return 'stream_options is only allowed with stream';
    return tokensOf(body.prompt).length + body.max_tokens > maxModelTokens ? "This model's maximum context length is exceeded" : undefined;
  }

  async #complete({ body, prefix }: Received, response: http.ServerResponse): Promise<void> {
    const prompt = tokensOf(body.prompt);
    const cached = this.#cachedTokens(prompt, `${prefix}|${String(body['cache_salt'] ?? '')}|`);
    const choices = Number(body['n'] ?? 1);
    const limit = body.max_tokens;
    const lengths = Array.from({ length: choices }, () => 0);
    const open = new Set(lengths.keys());
    const isStream = body['stream'] === true;
    const whole: object[] = [];
    if (isStream) response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
    for (let step = 0; open.size > 0; step++) {
      for (const index of open) {
        const token = draw(body, prompt.length + step, index);
        const count = ++lengths[index];
        const isStop = count >= Number(body['min_tokens'] ?? 0) && ((body['stop_token_ids'] ?? []) as number[]).includes(token);
        const finish = isStop ? 'stop' : count >= limit ? 'length' : null;
        if (finish !== null) open.delete(index);
        const choice = this.#choice(body, { index, token, finish, isStop, place: prompt.length + step });
        if (isStream) response.write(event([choice]));
        else whole.push(choice);
      }
      await new Promise((resolve) => (this.tokenMs > 0 ? setTimeout(resolve, this.tokenMs) : setImmediate(resolve)));
      if (response.destroyed) return;
    }
    const output = lengths.reduce((sum, length) => sum + length, 0);
    const usage = { prompt_tokens: prompt.length, completion_tokens: output, total_tokens: prompt.length + output, prompt_tokens_details: { cached_tokens: cached } };
    if (isStream) response.end(event([], { usage }) + 'data: [DONE]\n\n');
    else json(response, { object: 'text_completion', model: 'demo', choices: whole, usage });
  }

  #choice(body: Body, { index, token, finish, isStop, place }: { index: number; token: number; finish: string | null; isStop: boolean; place: number }): object {
    const { tells } = this.flavor;
    const asIds = body['return_tokens_as_token_ids'] === true && tells !== 'text';
    const name = (id: number): string => (asIds ? `token_id:${id}` : String.fromCharCode(id));
    const wanted = body['logprobs'] as number | undefined;
    const tops = Array.from({ length: wanted ?? 0 }, (_, k) => [name(k === 0 ? token : 100 + k), -0.25 - k] as const);
    const hasLogprobs = wanted !== undefined && (tells !== 'text' || !isStop);
    return {
      index,
      text: isStop ? '' : String.fromCharCode(token),
      finish_reason: finish,
      stop_reason: isStop ? token : null,
      logprobs: hasLogprobs ? { tokens: [name(token)], token_logprobs: [-0.25], top_logprobs: [Object.fromEntries(tops)], text_offset: [place] } : null,
      ...(tells === 'ids' && body['return_token_ids'] === true ? { token_ids: [token] } : {}),
    };
  }

  /** Whole blocks, of which at least one token must be computed. */
  #cachedTokens(prompt: readonly number[], key: string): number {
    const { blockSize } = this.flavor;
    const cache = this.#caches.get(key) ?? new Set();
    this.#caches.set(key, cache);
    let cached = 0;
    while (cached + blockSize < prompt.length && cache.has(prompt.slice(0, cached + blockSize).join())) cached += blockSize;
    for (let end = blockSize; end <= prompt.length; end += blockSize) cache.add(prompt.slice(0, end).join());
    return cached;
  }
}

function tokensOf(prompt: string | readonly number[]): number[] {
  return typeof prompt === 'string' ? Array.from({ length: prompt.length }, (_, i) => prompt.charCodeAt(i)) : [...prompt];
}

/** Token at `place` of the sequence: the same wherever the output before it was made. */
function draw(body: Body, place: number, choice: number): number {
  if (body['logit_bias'] !== undefined) return Number(Object.keys(body['logit_bias'] as object)[0]);
  const seed = Number(body['temperature'] ?? 1) === 0 ? 0 : Number(body['seed'] ?? 0) + choice * 7919;
  let mixed = Math.imul((seed | 0) ^ Math.imul(place + 1, 0x9e3779b1), 0x85ebca6b) >>> 0;
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35) >>> 0;
  return 1 + ((mixed ^ (mixed >>> 16)) >>> 0) % 99;
}

export function refuse(response: http.ServerResponse, status: number, message: string): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ error: { message, type: 'invalid_request_error', param: null, code: null } }));
}

export function json(response: http.ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

/** One event of a completion stream. */
export function event(choices: readonly object[], more: object = {}): string {
  return `data: ${JSON.stringify({ id: 'cmpl-1', object: 'text_completion', created: 1, model: 'demo', choices, usage: null, ...more })}\n\n`;
}

export function choice(text: string, more: object = {}): object {
  return { index: 0, text, logprobs: null, finish_reason: null, ...more };
}

export const usage = (completion: number, cached = 0): string => event([], { usage: { prompt_tokens: 5, completion_tokens: completion, total_tokens: 5 + completion, prompt_tokens_details: { cached_tokens: cached } } });
export const done = 'data: [DONE]\n\n';
