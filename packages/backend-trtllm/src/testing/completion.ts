import type { ServerResponse } from 'node:http';
import { objectOf, stringifyJson } from '../lossless-json.ts';
import type { JsonValue } from '../lossless-json.ts';
import { pullContext } from './simulated-trtllm.ts';
import type { SimulatedTrtllm } from './simulated-trtllm.ts';
import { integerOf } from './wire.ts';
import type { Fields } from './wire.ts';

interface Step {
  readonly ids: readonly number[];
  readonly finish: 'stop' | 'length' | 'not_finished' | null;
  readonly stopReason: number | null;
}

const CREATED = 1_760_000_000;

/** One request to /v1/completions that has been found well-formed. */
export class Completion {
  readonly #server: SimulatedTrtllm;
  readonly #body: Fields;
  readonly #response: ServerResponse;
  readonly #prompt: readonly number[];
  readonly #params: Fields | undefined;
  readonly #output: number[] = [];
  #cached = 0;
  #isAborted = false;

  constructor(server: SimulatedTrtllm, body: Fields, response: ServerResponse) {
    this.#server = server;
    this.#body = body;
    this.#response = response;
    this.#prompt = body['prompt'] as readonly number[];
    this.#params = objectOf(body['disaggregated_params']);
    response.once('close', () => (this.#isAborted = !response.writableEnded));
  }

  async run(): Promise<void> {
    const { counters, cache, options } = this.#server;
    const salt = String(this.#body['cache_salt'] ?? '');
    const blocks = Math.ceil((this.#prompt.length + 1) / options.blockSize);
    counters.running++;
    counters.usedBlocks += blocks;
    this.#server.iterated();
    try {
      if (this.#params?.['request_type'] === 'generation_only') await this.#fetchContext();
      else this.#cached = cache.match(this.#prompt, salt);
      counters.cachedTokens += this.#cached;
      cache.store(this.#prompt, salt, false);
      if (this.#body['stream'] === true) await this.#stream();
      else await this.#whole();
      // The KV of the last token has not been computed.
      cache.store([...this.#prompt, ...this.#output.slice(0, -1)], salt, true);
    } finally {
      if (this.#isAborted) counters.aborted++;
      counters.running--;
      counters.usedBlocks -= blocks;
      this.#server.iterated();
    }
  }

  async #fetchContext(): Promise<void> {
    const prompt = await pullContext(this.#params ?? {});
    if (prompt.join() !== this.#prompt.join()) throw new Error('the prompt is not that of the context');
    this.#server.counters.transfers++;
    this.#cached = this.#prompt.length;
  }

  async #stream(): Promise<void> {
    const { fault } = this.#server;
    const response = this.#response;
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
    let count = 0;
    for await (const step of this.#steps()) {
      if (response.destroyed) return;
      if (count === 2 && fault === 'error-in-stream') {
        response.end(`data: ${stringifyJson({ object: 'error', message: 'RequestError: the executor has died', type: 'InternalServerError', param: null, code: 500 })}\n\n`);
        return;
      }
      if (count === 2 && fault === 'truncated-stream') {
        response.destroy();
        return;
      }
      const event = `data: ${stringifyJson(this.#chunk(step))}\n\n`;
      if (fault === 'slow-loris') return this.#trickle(event);
      response.write(event);
      count++;
    }
    if (response.destroyed) return;
    if (objectOf(this.#body['stream_options'])?.['include_usage'] === true) response.write(`data: ${stringifyJson({ ...this.#head(), choices: [], usage: this.#usage() })}\n\n`);
    response.end('data: [DONE]\n\n');
  }

  /** Never a whole event. */
  async #trickle(event: string): Promise<void> {
    for (let at = 0; !this.#response.destroyed; at++) {
      this.#response.write(at < event.length - 1 ? event[at] : ' ');
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  async #whole(): Promise<void> {
    const ids: number[] = [];
    let last: Step | undefined;
    for await (const step of this.#steps()) {
      ids.push(...step.ids);
      last = step;
    }
    if (this.#response.destroyed) return;
    const step = { ids, finish: last?.finish ?? null, stopReason: last?.stopReason ?? null };
    const isContext = this.#params?.['request_type'] === 'context_only';
    const params = isContext && step.finish !== 'stop' && this.#server.fault !== 'no-handover' ? this.#server.hold(this.#prompt, ids[0] ?? 0, this.#params?.['disagg_request_id']) : null;
    const body = { ...this.#chunk(step, params), usage: this.#usage(), ...(isContext ? { prompt_token_ids: [[...this.#prompt]] } : {}) };
    this.#response.writeHead(200, { 'content-type': 'application/json' }).end(stringifyJson(body));
  }

  /** One token an iteration. A generation request begins with the token that the context server sampled. */
  async *#steps(): AsyncGenerator<Step> {
    const { options } = this.#server;
    const first = this.#params?.['request_type'] === 'generation_only' ? (this.#params['first_gen_tokens'] as readonly number[]) : [];
    const maxTokens = Math.min(integerOf(this.#body['max_tokens'], 16), options.maxSeqLen - this.#prompt.length);
    const stops = new Set((this.#body['stop_token_ids'] as readonly number[] | undefined) ?? []);
    for (let count = 1; count <= maxTokens; count++) {
      if (options.stepMs > 0) await new Promise((resolve) => setTimeout(resolve, options.stepMs));
      else await new Promise((resolve) => setImmediate(resolve));
      if (this.#response.destroyed) return;
      const id = first[count - 1] ?? this.#draw(this.#prompt.length + count - 1);
      const mayEnd = count > integerOf(this.#body['min_tokens'], 0) - 1;
      const isEos = id === options.eosTokenId && this.#body['ignore_eos'] !== true && mayEnd;
      if (isEos) return yield { ids: [], finish: 'stop', stopReason: null };
      this.#output.push(id);
      const isStop = stops.has(id) && mayEnd;
      const isLast = isStop || count === maxTokens;
      yield { ids: [id], finish: isStop ? 'stop' : isLast ? 'length' : null, stopReason: isStop ? id : null };
      if (isLast) return;
    }
  }

  /** By seed and place: the same wherever the tokens before it were made. */
  #draw(place: number): number {
    const seed = this.#body['temperature'] === 0 ? 0 : Number(BigInt.asIntN(32, BigInt((this.#body['seed'] as number | bigint | undefined) ?? 0)));
    let mixed = Math.imul(seed ^ Math.imul(place + 1, 0x9e3779b1), 0x85ebca6b) >>> 0;
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35) >>> 0;
    return 1 + (((mixed ^ (mixed >>> 16)) >>> 0) % Math.min(99, this.#server.options.vocabSize - 1));
  }

  #head(): Fields {
    return { id: 'cmpl-simulated', object: 'text_completion', created: CREATED, model: this.#server.options.model, ...(this.#server.options.unknownFields ? { service_tier: 'tomorrow' } : {}) };
  }

  #chunk({ ids, finish, stopReason }: Step, params: JsonValue = null): Fields {
    const logprobs = this.#body['logprobs'] === undefined || this.#body['logprobs'] === null ? null : { text_offset: ids.map(() => 0), token_logprobs: ids.map(() => -0.25), tokens: ids.map((id) => `<${id}>`), top_logprobs: ids.map((id) => ({ [`<${id}>`]: -0.25 })) };
    return { ...this.#head(), choices: [{ index: 0, text: '', token_ids: [...ids], logprobs, context_logits: null, finish_reason: finish, stop_reason: stopReason, disaggregated_params: params }] };
  }

  #usage(): Fields {
    return { prompt_tokens: this.#prompt.length, completion_tokens: this.#output.length, total_tokens: this.#prompt.length + this.#output.length, prompt_tokens_details: { cached_tokens: this.#cached } };
  }
}
