import http from 'node:http';
import type { AddressInfo } from 'node:net';

export type Answer = (request: { readonly body: Record<string, unknown>; readonly headers: http.IncomingHttpHeaders }, response: http.ServerResponse) => void | Promise<void>;

/** Speaks vLLM 0.32's HTTP as documented (shapes captured from a real server, values invented). */
export class FakeVllm {
  readonly requests: { body: Record<string, unknown>; headers: http.IncomingHttpHeaders }[] = [];
  /** Completions whose connection the client closed before the answer was whole. */
  aborted = 0;
  isHealthy = true;
  model = { id: 'demo', object: 'model', max_model_len: 4096, root: '/models/demo' };
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
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  async #serve(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const json = (value: unknown): void => void response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
    switch (request.url) {
      case '/health':
        response.writeHead(this.isHealthy ? 200 : 503).end();
        return;
      case '/v1/models':
        json({ object: 'list', data: [this.model] });
        return;
      case '/metrics':
        response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4' }).end(this.metrics);
        return;
      default: {
        const chunks: Buffer[] = [];
        for await (const chunk of request) chunks.push(chunk as Buffer);
        const received = { body: JSON.parse(Buffer.concat(chunks).toString()) as Record<string, unknown>, headers: request.headers };
        this.requests.push(received);
        response.on('close', () => void (response.writableFinished || this.aborted++));
        await this.answer(received, response);
      }
    }
  }
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
