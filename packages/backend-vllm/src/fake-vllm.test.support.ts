import http from 'node:http';
import type { AddressInfo } from 'node:net';

export type Answer = (request: { readonly body: Record<string, unknown>; readonly headers: http.IncomingHttpHeaders }, response: http.ServerResponse) => void | Promise<void>;

/** Speaks vLLM 0.32's HTTP as documented (shapes captured from a real server, values invented). */
export class FakeVllm {
  readonly requests: { body: Record<string, unknown>; headers: http.IncomingHttpHeaders }[] = [];
  /** Completions whose connection the client closed before the answer was whole. */
  aborted = 0;
  isHealthy = true;
  /** Connections accepted: keep-alive or not. */
  connections = 0;
  /** Paths that are answered with a header and the beginning of a body, and then with silence. */
  readonly trickling = new Set<string>();
  /** LoRA adapters that it lists. */
  adapters: readonly string[] = [];
  version: string | undefined = '0.32.0';
  /** What it answers to /kv_event_sources; undefined = an older one, without the route. */
  eventSources: object | undefined = undefined;
  modelsBody: string | undefined = undefined;
  /** Keys it accepts; empty = any. */
  apiKey = '';
  model = { id: 'demo', object: 'model', max_model_len: 4096, root: '/models/demo' };
  /** Instead of `metrics`: made when asked for. */
  liveMetrics: (() => string) | undefined = undefined;
  metrics = [
    '# TYPE vllm:num_requests_running gauge',
    'vllm:num_requests_running{engine="0",model_name="demo"} 3.0',
    'vllm:num_requests_waiting{engine="0",model_name="demo"} 2.0',
    'vllm:kv_cache_usage_perc{engine="0",model_name="demo"} 0.25',
    'vllm:num_preemptions_total{engine="0",model_name="demo"} 1.0',
    'vllm:cache_config_info{block_size="32",num_gpu_blocks="200",prefix_caching_hash_algo="sha256"} 1.0',
  ].join('\n');
  answer: Answer = (_request, response) => void response.writeHead(500).end();
  readonly #server = http.createServer((request, response) => void this.#serve(request, response));

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
    const json = (value: unknown): void => void response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
    const isV1 = request.url?.startsWith('/v1/') ?? false;
    if (isV1 && this.apiKey !== '' && request.headers.authorization !== `Bearer ${this.apiKey}`) {
      response.writeHead(401, { 'content-type': 'application/json' }).end(JSON.stringify({ error: 'Unauthorized' }));
      return;
    }
    if (this.trickling.has(request.url ?? '')) {
      response.writeHead(200).write(' ');
      return;
    }
    switch (request.url) {
      case '/health':
        response.writeHead(this.isHealthy ? 200 : 503).end();
        return;
      case '/v1/models':
        if (this.modelsBody === undefined) json({ object: 'list', data: [this.model, ...this.adapters.map((id) => ({ id, object: 'model', parent: 'demo', root: `/adapters/${id}`, max_model_len: null }))] });
        else response.writeHead(200).end(this.modelsBody);
        return;
      case '/version':
        if (this.version === undefined) response.writeHead(404).end();
        else json({ version: this.version });
        return;
      case '/kv_event_sources':
        if (this.eventSources === undefined) response.writeHead(404).end();
        else json(this.eventSources);
        return;
      case '/metrics':
        response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4' }).end(this.liveMetrics?.() ?? this.metrics);
        return;
      case '/v1/completions': {
        const chunks: Buffer[] = [];
        for await (const chunk of request) chunks.push(chunk as Buffer);
        const received = { body: JSON.parse(Buffer.concat(chunks).toString()) as Record<string, unknown>, headers: request.headers };
        const problem = problemWith(request, received.body);
        if (problem !== undefined) {
          response.writeHead(400, { 'content-type': 'application/json' }).end(JSON.stringify({ error: { message: problem, type: 'BadRequestError', param: null, code: 400 } }));
          return;
        }
        this.requests.push(received);
        response.on('close', () => void (response.writableFinished || this.aborted++));
        await this.answer(received, response);
        return;
      }
      default:
        response.writeHead(404).end('{"detail":"Not Found"}');
    }
  }
}

const FIELDS: Readonly<Record<string, (value: unknown) => boolean>> = {
  model: (value) => value === 'demo' || value === 'lora-a',
  prompt: (value) => Array.isArray(value) && value.length > 0 && value.every((token) => isIn(token, 0, 2 ** 31)),
  stream: isBoolean,
  stream_options: (value) => JSON.stringify(value) === '{"include_usage":true}',
  return_token_ids: (value) => value === true,
  return_tokens_as_token_ids: (value) => value === true,
  n: (value) => isIn(value, 1, 128),
  max_tokens: (value) => isIn(value, 1, 2 ** 31),
  min_tokens: (value) => isIn(value, 0, 2 ** 31),
  temperature: (value) => isNumber(value, 0, 2),
  top_p: (value) => isNumber(value, 0, 1),
  top_k: (value) => isIn(value, -1, 2 ** 31),
  min_p: (value) => isNumber(value, 0, 1),
  seed: (value) => isIn(value, 0, Number.MAX_SAFE_INTEGER),
  frequency_penalty: (value) => isNumber(value, -2, 2),
  presence_penalty: (value) => isNumber(value, -2, 2),
  repetition_penalty: (value) => isNumber(value, 0, 100),
  logit_bias: (value) => Object.values(value as object).every((bias) => isNumber(bias, -100, 100)),
  logprobs: (value) => isIn(value, 0, 20),
  stop_token_ids: (value) => Array.isArray(value) && value.every((token) => isIn(token, 0, 2 ** 31)),
  ignore_eos: isBoolean,
  cache_salt: (value) => typeof value === 'string' && value !== '',
  priority: (value) => isIn(value, -(2 ** 31), 2 ** 31),
  kv_transfer_params: (value) => typeof value === 'object' && value !== null,
  structured_outputs: (value) => isConstraint(Object.entries(value as object)),
};

/** One kind of constraint, no more. */
function isConstraint(entries: readonly (readonly [string, unknown])[]): boolean {
  const [[kind, value] = []] = entries;
  return entries.length === 1 && (kind === 'json_object' ? value === true : kind === 'json' && typeof value === 'object' && value !== null);
}

/** What vLLM would answer with 400: stricter than it, which ignores unknown fields. */
function problemWith(request: http.IncomingMessage, body: Record<string, unknown>): string | undefined {
  if (request.method !== 'POST' || request.headers['content-type'] !== 'application/json') return 'not a JSON post';
  for (const [name, value] of Object.entries(body)) if (FIELDS[name]?.(value) !== true) return `field ${name}: ${JSON.stringify(value)}`;
  for (const name of ['model', 'prompt', 'return_token_ids', 'max_tokens']) if (!(name in body)) return `field ${name} is missing`;
  if (Number(body['min_tokens']) > Number(body['max_tokens'])) return 'min_tokens must be less than or equal to max_tokens';
  if ('stream_options' in body && body['stream'] !== true) return 'Stream options can only be defined when stream=True';
  return undefined;
}

function isBoolean(value: unknown): boolean {
  return typeof value === 'boolean';
}

function isNumber(value: unknown, least: number, most: number): boolean {
  return typeof value === 'number' && value >= least && value <= most;
}

function isIn(value: unknown, least: number, most: number): boolean {
  return Number.isInteger(value) && isNumber(value, least, most);
}

/** One event of a completion stream. */
export function chunk(choices: object[], more: object = {}): string {
  return `data: ${JSON.stringify({ id: 'cmpl-1', object: 'text_completion', created: 1, model: 'demo', choices, usage: null, ...more })}\n\n`;
}

export function choice(ids: number[], more: object = {}): object {
  return { index: 0, text: 'x'.repeat(ids.length), logprobs: null, finish_reason: null, stop_reason: null, token_ids: ids, ...more };
}

export const usageChunk = chunk([], { usage: { prompt_tokens: 5, total_tokens: 8, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 4 } } });
export const done = 'data: [DONE]\n\n';

/** Mulberry32. */
export function seeded(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % bound;
  };
}
