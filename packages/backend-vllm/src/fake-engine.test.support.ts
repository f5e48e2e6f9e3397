import type { Answer, FakeVllm } from './fake-vllm.test.support.ts';
import { choice, chunk, done } from './fake-vllm.test.support.ts';

export const BLOCK_SIZE = 32;
export const CONTEXT = 512;
export const TOTAL_BLOCKS = 200;

interface Body {
  readonly prompt: readonly number[];
  readonly n?: number;
  readonly max_tokens: number;
  readonly min_tokens?: number;
  readonly stop_token_ids?: readonly number[];
  readonly logprobs?: number;
  readonly cache_salt?: string;
  readonly temperature: number;
  readonly seed: number;
}

/** A model behind the fake server: draws tokens 1 to 99 by seed and place, finds whole blocks of earlier prompts, counts what runs and the blocks it holds. */
export class FakeEngine {
  running = 0;
  usedBlocks = 0;
  readonly #cache = new Set<string>();

  constructor(server: FakeVllm) {
    server.model = { ...server.model, max_model_len: CONTEXT };
    server.liveMetrics = () => this.#metrics();
    server.answer = (request, response) => this.#answer(request, response);
  }

  #metrics(): string {
    return [
      `vllm:num_requests_running{engine="0",model_name="demo"} ${this.running}.0`,
      'vllm:num_requests_waiting{engine="0",model_name="demo"} 0.0',
      `vllm:kv_cache_usage_perc{engine="0",model_name="demo"} ${this.usedBlocks / TOTAL_BLOCKS}`,
      'vllm:num_preemptions_total{engine="0",model_name="demo"} 0.0',
      `vllm:cache_config_info{block_size="${BLOCK_SIZE}",engine="0",num_gpu_blocks="${TOTAL_BLOCKS}"} 1.0`,
    ].join('\n');
  }

  readonly #answer: Answer = async (request, response) => {
    const body = request.body as unknown as Body;
    const { prompt } = body;
    // As 0.11 has it: the output has to fit.
    if (prompt.length + body.max_tokens > CONTEXT) {
      response.writeHead(400, { 'content-type': 'application/json' }).end(JSON.stringify({ error: { message: "This model's maximum context length is exceeded", type: 'BadRequestError', param: 'input_tokens', code: 400 } }));
      return;
    }
    const cached = this.#cached(prompt, body.cache_salt ?? '');
    const blocks = Math.ceil((prompt.length + 1) / BLOCK_SIZE);
    this.running++;
    this.usedBlocks += blocks;
    try {
      response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
      const output = await this.#steps(body, (text) => response.write(text), () => response.destroyed);
      if (response.destroyed) return;
      response.write(chunk([], { usage: { prompt_tokens: prompt.length, total_tokens: prompt.length + output, completion_tokens: output, prompt_tokens_details: { cached_tokens: cached } } }));
      response.end(done);
    } finally {
      this.running--;
      this.usedBlocks -= blocks;
    }
  };

  /** One token of each choice a step, an event each, as vLLM streams. Returns the number of output tokens. */
  async #steps(body: Body, write: (text: string) => void, isGone: () => boolean): Promise<number> {
    const open = new Set(Array.from({ length: body.n ?? 1 }, (_, index) => index));
    let output = 0;
    for (let count = 1; open.size > 0 && !isGone(); count++) {
      for (const index of open) {
        const token = draw(body, body.prompt.length + count - 1, index);
        const isStop = count >= (body.min_tokens ?? 0) && (body.stop_token_ids ?? []).includes(token);
        const reason = isStop ? 'stop' : count >= body.max_tokens ? 'length' : null;
        if (reason !== null) open.delete(index);
        output++;
        write(chunk([choice([token], { index, finish_reason: reason, stop_reason: isStop ? token : null, logprobs: logprobsOf(body.logprobs, token) })]));
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    return output;
  }

  /** Whole blocks, of which at least one token must be computed. */
  #cached(prompt: readonly number[], salt: string): number {
    const key = (end: number): string => `${salt}|${prompt.slice(0, end).join()}`;
    let cached = 0;
    while (cached + BLOCK_SIZE < prompt.length && this.#cache.has(key(cached + BLOCK_SIZE))) cached += BLOCK_SIZE;
    for (let end = BLOCK_SIZE; end <= prompt.length; end += BLOCK_SIZE) this.#cache.add(key(end));
    return cached;
  }
}

function logprobsOf(wanted: number | undefined, token: number): object | null {
  if (wanted === undefined) return null;
  // vLLM tells at least the token itself.
  const tops = Array.from({ length: Math.max(1, wanted) }, (_, k) => [`token_id:${k === 0 ? token : 100 + k}`, -0.25 - k] as const);
  return { tokens: [`token_id:${token}`], token_logprobs: [-0.25], top_logprobs: [Object.fromEntries(tops)], text_offset: [0] };
}

/** Token at `place` of the sequence: the same wherever the output before it was made. */
function draw(body: Body, place: number, index: number): number {
  const seed = body.temperature === 0 ? 0 : body.seed + index * 7919;
  let mixed = Math.imul((seed | 0) ^ Math.imul(place + 1, 0x9e3779b1), 0x85ebca6b) >>> 0;
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35) >>> 0;
  return 1 + (((mixed ^ (mixed >>> 16)) >>> 0) % 99);
}
