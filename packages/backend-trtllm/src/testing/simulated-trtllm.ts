import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { objectOf, parseJson, stringifyJson } from '../lossless-json.ts';
import type { JsonValue } from '../lossless-json.ts';
import { BlockCache } from './block-cache.ts';
import { Completion } from './completion.ts';
import { completionProblem, integerOf } from './wire.ts';
import type { Fields } from './wire.ts';

export interface SimulatedTrtllmOptions {
  readonly host: string;
  /** 0: a free one. */
  readonly port: number;
  /** Served name. */
  readonly model: string;
  readonly version: string;
  readonly blockSize: number;
  readonly totalBlocks: number;
  readonly maxSeqLen: number;
  readonly vocabSize: number;
  /** -1: none. The server keeps it to itself. */
  readonly eosTokenId: number;
  readonly eventBufferMaxSize: number;
  readonly hashForm: 'integer' | 'hex';
  /** Whether it can hand KV over: `cache_transceiver_config` is set. */
  readonly hasTransceiver: boolean;
  /** Whether its completions take `cache_salt`. */
  readonly cacheSalt: boolean;
  /** Is of a version that is not known yet: has fields in its answers and events that nobody knows, and takes them back. */
  readonly unknownFields: boolean;
  /** `enable_iter_perf_stats`. */
  readonly statistics: boolean;
  /** Milliseconds of one iteration. */
  readonly stepMs: number;
}

/** What can go wrong with a server; `none` mends it. */
export type SimulatedFault =
  | 'none'
  /** /health says 503. */
  | 'unhealthy'
  /** Takes requests, and never answers: also /health still works. */
  | 'wedged'
  | 'http-500'
  /** An error event after the second token. */
  | 'error-in-stream'
  /** The connection ends after the second token, without [DONE]. */
  | 'truncated-stream'
  /** One byte at a time, and never a whole event. */
  | 'slow-loris'
  /** The answer of a context request lacks its disaggregated_params. */
  | 'no-handover'
  /** /kv_cache_events answers 500. */
  | 'events-500';

export interface SimulatedCounters {
  requests: number;
  contextRequests: number;
  generationRequests: number;
  refused: number;
  /** Closed by the client before they had ended. */
  aborted: number;
  cachedTokens: number;
  running: number;
  usedBlocks: number;
  /** Contexts whose KV nobody has fetched yet. */
  heldContexts: number;
  transfers: number;
  eventFetches: number;
}

const DEFAULTS: SimulatedTrtllmOptions = {
  host: '127.0.0.1', port: 0, model: 'simulated', version: '1.2.0', blockSize: 32, totalBlocks: 512, maxSeqLen: 2048, vocabSize: 1024, eosTokenId: -1, eventBufferMaxSize: 65_536,
  hashForm: 'integer', hasTransceiver: true, cacheSalt: false, unknownFields: false, statistics: true, stepMs: 0,
};

const PULL = '/simulated/pull';

/**
 * A trtllm-serve that computes nothing: strict in what it takes, to the letter in what it says, with tokens drawn by seed and place, so that answers can be
 * compared. A context server holds each context until a generation server has fetched it, once, over a connection of its own.
 */
export class SimulatedTrtllm {
  readonly options: SimulatedTrtllmOptions;
  readonly counters: SimulatedCounters;
  readonly cache: BlockCache;
  fault: SimulatedFault;
  readonly #server: Server;
  readonly #contexts: Map<string, readonly number[]>;
  #iterations: JsonValue[];
  #nextRequestId: bigint;

  private constructor(options: SimulatedTrtllmOptions) {
    this.options = options;
    this.counters = { requests: 0, contextRequests: 0, generationRequests: 0, refused: 0, aborted: 0, cachedTokens: 0, running: 0, usedBlocks: 0, heldContexts: 0, transfers: 0, eventFetches: 0 };
    const { blockSize, totalBlocks, eventBufferMaxSize, hashForm, maxSeqLen: windowSize } = options;
    this.cache = new BlockCache({ blockSize, totalBlocks, eventBufferMaxSize, hashForm, windowSize });
    this.fault = 'none';
    this.#contexts = new Map();
    this.#iterations = [];
    this.#nextRequestId = (1n << 61n) + 7n; // beyond what a double holds
    this.#server = createServer((request, response) => void this.#serve(request, response));
    this.iterated();
  }

  /** Listens. Rejects when it cannot. */
  static async start(options: Partial<SimulatedTrtllmOptions> = {}): Promise<SimulatedTrtllm> {
    const made = new SimulatedTrtllm({ ...DEFAULTS, ...options });
    await new Promise<void>((resolve, reject) => {
      made.#server.once('error', reject);
      made.#server.listen(made.options.port, made.options.host, resolve);
    });
    return made;
  }

  get url(): string {
    return `http://${this.options.host}:${(this.#server.address() as AddressInfo).port}`;
  }

  /** As a new engine behind the same address: an empty cache, whose events begin anew. */
  restart(): void {
    this.cache.reset();
    this.#contexts.clear();
    this.counters.heldContexts = 0;
  }

  /** Ends it with all connections. */
  async stop(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }

  /** Notes an iteration for /metrics. */
  iterated(): void {
    const { statistics, totalBlocks, blockSize } = this.options;
    if (!statistics) return;
    const { running, usedBlocks } = this.counters;
    this.#iterations.push({
      iter: this.#iterations.length, iterLatencyMS: 1, numActiveRequests: running, numQueuedRequests: 0, numCompletedRequests: 0,
      kvCacheStats: { maxNumBlocks: totalBlocks, freeNumBlocks: totalBlocks - usedBlocks, usedNumBlocks: usedBlocks, tokensPerBlock: blockSize, cacheHitRate: 0 },
      inflightBatchingStats: { numScheduledRequests: running, numContextRequests: 0, numGenRequests: running, numPausedRequests: 0, microBatchId: 0 },
    });
    if (this.#iterations.length > 1000) this.#iterations.shift();
  }

  /** Keeps the KV of a context until it is fetched. Returns what `disaggregated_params` says of it. */
  hold(prompt: readonly number[], firstToken: number, disaggRequestId: JsonValue | undefined): JsonValue {
    const id = this.#nextRequestId++;
    const key = randomUUID();
    this.#contexts.set(key, prompt);
    this.counters.heldContexts = this.#contexts.size;
    const state = Buffer.from(JSON.stringify({ url: this.url, key })).toString('base64');
    return {
      request_type: 'context_only', first_gen_tokens: [firstToken], ctx_request_id: id, encoded_opaque_state: state, draft_tokens: null,
      ...(disaggRequestId === undefined ? {} : { disagg_request_id: disaggRequestId, ctx_dp_rank: 0 }),
      ...(this.options.unknownFields ? { a_field_of_tomorrow: { nested: [1, 2n ** 60n] } } : {}),
    };
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
      await this.#route(`${request.method} ${request.url}`, Buffer.concat(chunks).toString(), response);
    } catch (error) {
      if (!response.headersSent) this.#error(response, 500, String(error));
      else response.destroy();
    }
  }

  async #route(route: string, body: string, response: ServerResponse): Promise<void> {
    const { model, version } = this.options;
    switch (route) {
      case 'GET /health':
      case 'GET /health_generate':
        response.writeHead(this.fault === 'unhealthy' ? 503 : 200).end();
        return;
      case 'GET /version':
        return this.#json(response, { version });
      case 'GET /v1/models':
        return this.#json(response, { object: 'list', data: [{ id: model, object: 'model', created: 1_760_000_000, owned_by: 'tensorrt_llm' }] });
      case 'GET /metrics':
        return this.#json(response, this.#iterations.splice(0));
      case 'POST /kv_cache_events':
        return this.#events(response);
      case `POST ${PULL}`:
        return this.#pull(body, response);
      case 'POST /v1/completions':
        return this.#complete(body, response);
      default:
        return this.#json(response, { detail: 'Not Found' }, 404);
    }
  }

  #events(response: ServerResponse): void {
    this.counters.eventFetches++;
    if (this.fault === 'events-500') return this.#error(response, 500, 'internal error');
    const events = this.cache.drain();
    this.#json(response, this.options.unknownFields ? events.map((event) => ({ ...objectOf(event), layer_group_id: 0, hash_algo: 'v1' })) : events);
  }

  /** What the cache transceiver does: each context is fetched once. */
  #pull(body: string, response: ServerResponse): void {
    const key = String(objectOf(parseJson(body))?.['key']);
    const prompt = this.#contexts.get(key);
    this.#contexts.delete(key);
    this.counters.heldContexts = this.#contexts.size;
    if (prompt === undefined) this.#error(response, 404, 'no such context: it was fetched already, or was never here');
    else this.#json(response, [...prompt]);
  }

  async #complete(text: string, response: ServerResponse): Promise<void> {
    const { counters, options } = this;
    counters.requests++;
    if (this.fault === 'http-500') return this.#error(response, 500, 'CUDA error: an illegal memory access was encountered');
    const refuse = (message: string): void => {
      counters.refused++;
      this.#error(response, 400, message);
    };
    let body: Fields | undefined;
    try {
      body = objectOf(parseJson(text));
    } catch {
      body = undefined;
    }
    if (body === undefined) return refuse('body: JSON decode error');
    const problem = completionProblem(body, { isNewest: /^v?1\.[2-9]|^v?[2-9]/.test(options.version), cacheSalt: options.cacheSalt, isOfTomorrow: options.unknownFields }) ?? this.#problemOf(body);
    if (problem !== undefined) return refuse(problem);
    const params = objectOf(body['disaggregated_params']);
    if (params?.['request_type'] === 'context_only') counters.contextRequests++;
    if (params?.['request_type'] === 'generation_only') counters.generationRequests++;
    if (this.fault === 'wedged') {
      response.once('close', () => counters.aborted++);
      return;
    }
    await new Completion(this, body, response).run();
  }

  #problemOf(body: Fields): string | undefined {
    const { maxSeqLen, model, hasTransceiver, vocabSize } = this.options;
    const prompt = body['prompt'];
    if (body['model'] !== model) return `The model \`${String(body['model'])}\` does not exist.`;
    if (!Array.isArray(prompt) || prompt.length === 0) return 'prompt: this server has no tokenizer, token ids are needed';
    if ((prompt as readonly JsonValue[]).some((id) => typeof id !== 'number' || id < 0 || id >= vocabSize)) return 'prompt: token id out of range';
    if (prompt.length + 1 > maxSeqLen) return `The prompt length (${prompt.length}) plus the output exceeds max_seq_len (${maxSeqLen})`;
    if (integerOf(body['n'], 1) !== 1 && body['disaggregated_params'] !== undefined) return 'n > 1 is not supported with disaggregated_params';
    const params = objectOf(body['disaggregated_params']);
    if (params === undefined) return undefined;
    if (!hasTransceiver) return 'disaggregated_params need a cache transceiver: cache_transceiver_config is not set';
    if (params['request_type'] === 'context_only' && body['stream'] === true) return 'a context_only request cannot be streamed';
    if (params['request_type'] === 'generation_only' && (params['encoded_opaque_state'] === undefined || params['first_gen_tokens'] === undefined)) return 'a generation_only request needs encoded_opaque_state and first_gen_tokens';
    return undefined;
  }

  #json(response: ServerResponse, body: JsonValue, status = 200): void {
    response.writeHead(status, { 'content-type': 'application/json' }).end(stringifyJson(body));
  }

  #error(response: ServerResponse, code: number, message: string): void {
    this.#json(response, { object: 'error', message, type: code === 400 ? 'BadRequestError' : 'InternalServerError', param: null, code }, code);
  }
}

/** Fetches the context a generation request names. Throws when it has gone. */
export async function pullContext(params: Fields): Promise<readonly number[]> {
  const { url, key } = JSON.parse(Buffer.from(String(params['encoded_opaque_state']), 'base64').toString()) as { url: string; key: string };
  const answer = await fetch(url + PULL, { method: 'POST', body: JSON.stringify({ key }), signal: AbortSignal.timeout(10_000) });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`cache transceiver: ${text}`);
  return JSON.parse(text) as number[];
}
