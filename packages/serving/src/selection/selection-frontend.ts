import { ArmatureError } from '@armature/contracts';
import type { Frontend, Health, HttpExchange, HttpListener, HttpServer, Logger, ModelDirectory, ModelHandle, PluginSlot, Random, Selector } from '@armature/contracts';
import { parseHashes, parseJson, parseSelection, selectionJson, tokensOf } from './wire.ts';

export interface SelectionConfig {
  readonly host: string;
  readonly port: number;
  readonly server: PluginSlot<'http-server'>;
  readonly maxBodyBytes: number;
}

export interface SelectionParts {
  readonly config: SelectionConfig;
  readonly server: HttpServer;
  readonly random: Random;
  readonly log: Logger;
  readonly health: Health;
}

const JSON_HEADERS = { 'content-type': 'application/json' };
/** No context is as long: a count beyond it is none. */
const MAX_TOKENS = 0x7fff_ffff;
const NO_MODELS: ModelDirectory = { list: () => [], get: () => undefined };

/**
 * Placement over HTTP for gateways that carry requests themselves: tokens or text in; worker, overlap and cost out. The caller tells first token,
 * growth and end, so that load is accounted for as for our own requests.
 */
export class SelectionFrontend implements Frontend {
  readonly #parts: SelectionParts;
  #models: ModelDirectory = NO_MODELS;
  #listener: HttpListener | undefined;
  #selections = 0;

  constructor(parts: SelectionParts) {
    this.#parts = parts;
    this.#listener = undefined;
  }

  mount(models: ModelDirectory): void {
    this.#models = models;
  }

  async listen(): Promise<{ readonly url: string }> {
    const { config, server, health } = this.#parts;
    this.#listener = await server.listen(
      { host: config.host, port: config.port, maxBodyBytes: config.maxBodyBytes },
      {
        request: (exchange) => this.#receive(exchange),
        tooLarge: (limit) => ({ status: 413, headers: JSON_HEADERS, body: errorBody('SELECTION_BODY_TOO_LARGE', `the body is larger than ${limit} bytes`, 'send token ids, or raise maxBodyBytes') }),
      },
    );
    health.set('selection', 'ready');
    const { host, port } = this.#listener;
    return { url: `http://${host.includes(':') ? `[${host}]` : host}:${port}` };
  }

  async close(): Promise<void> {
    await this.#listener?.close(250);
    this.#parts.health.remove('selection');
  }

  #receive(exchange: HttpExchange): void {
    exchange.onAbort(() => undefined);
    try {
      const answer = this.#answer(exchange);
      exchange.respond(answer === undefined ? 404 : 200, JSON_HEADERS, answer === undefined ? errorBody('SELECTION_URL_UNKNOWN', `${exchange.method} ${exchange.path} is not served`, 'see docs/reference/selection.md') : JSON.stringify(answer));
    } catch (error) {
      const { code, message, hint } = ArmatureError.from(error, 'SELECTION_FAILED');
      const status = statusOf(code);
      if (status === 500) this.#parts.log.error('selection failed', { code, reason: message });
      exchange.respond(status, status === 503 ? { ...JSON_HEADERS, 'retry-after': '1' } : JSON_HEADERS, errorBody(code, message, hint));
    }
  }

  #answer(exchange: HttpExchange): unknown {
    const { method, path } = exchange;
    if (method === 'GET') return this.#read(path);
    const life = /^\/v1\/selections\/([^/]+)(?:\/(prefilled|grown|ended))?$/.exec(path);
    if (life !== null && (method === 'POST' ? life[2] !== undefined : method === 'DELETE' && life[2] === undefined)) {
      return this.#tell(decodedId(life[1]!), life[2] ?? 'ended', parseJson(exchange.body));
    }
    if (method !== 'POST') return undefined;
    if (path === '/v1/selections') return this.#select(exchange);
    return path === '/v1/overlaps' ? this.#overlaps(parseJson(exchange.body)) : undefined;
  }

  #read(path: string): unknown {
    const models = this.#models.list();
    if (path === '/v1/models') return { object: 'list', data: models.map((model) => ({ id: model.name, object: 'model', parent: model.parent ?? null, ready: model.isReady(), max_model_len: model.maxModelTokens })) };
    if (path === '/health') return { status: this.#parts.health.report().state };
    if (path === '/ready') {
      if (!models.some((model) => model.isReady())) throw new ArmatureError('SERVING_NO_WORKER', 'no model has a worker yet', { retryable: true });
      return { status: 'ready' };
    }
    return undefined;
  }

  #select(exchange: HttpExchange): unknown {
    const body = parseSelection(parseJson(exchange.body));
    const model = this.#model(body.model);
    const id = body.id ?? `sel-${(++this.#selections).toString(36)}-${this.#parts.random.u32().toString(36)}`;
    return selectionJson(selectorOf(model).select({ id, promptTokenIds: tokensOf(model, body.prompt), cacheSalt: body.cacheSalt, routing: body.routing, tracks: body.tracks }));
  }

  #overlaps(body: Readonly<Record<string, unknown>>): unknown {
    const { sequence_hashes: hashes, ...rest } = body;
    const parsed = parseSelection(hashes === undefined ? rest : { ...rest, tokens: [] });
    const model = this.#model(parsed.model);
    const selector = selectorOf(model);
    const rows = hashes === undefined ? selector.overlaps(tokensOf(model, parsed.prompt), parsed.cacheSalt) : selector.overlapsOf(parseHashes(hashes));
    return {
      workers: rows.map((row) => ({
        id: row.instanceId,
        overlap_blocks: row.overlapBlocks,
        host_blocks: row.hostBlocks,
        disk_blocks: row.diskBlocks,
        object_blocks: row.objectBlocks,
        degraded: row.degraded,
      })),
    };
  }

  #tell(id: string, what: string, body: Readonly<Record<string, unknown>>): unknown {
    const count = (field: string): number | undefined => {
      const value = body[field];
      if (value === undefined) return undefined;
      if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > MAX_TOKENS) throw new ArmatureError('SELECTION_REQUEST_INVALID', `'${field}' is ${JSON.stringify(value)}`, { hint: 'send a count of tokens' });
      return value;
    };
    const outputTokens = count('output_tokens');
    const cachedTokens = count('cached_tokens');
    if (what === 'grown' && outputTokens === undefined) throw new ArmatureError('SELECTION_REQUEST_INVALID', "'output_tokens' is missing", { hint: 'say how many tokens the output has' });
    for (const { selector, parent } of this.#models.list()) {
      if (selector === undefined || parent !== undefined) continue; // its model tracks it
      const known = what === 'prefilled' ? selector.prefilled(id) : what === 'grown' ? selector.grown(id, outputTokens ?? 0) : selector.ended(id, cachedTokens);
      if (known) return { id };
    }
    throw new ArmatureError('SELECTION_UNKNOWN', `no selection "${id}" is tracked`, { hint: 'it has ended, expired, or was made with track: false' });
  }

  #model(name: string | undefined): ModelHandle {
    const all = this.#models.list();
    const bases = all.filter(({ parent }) => parent === undefined);
    const model = name === undefined ? (bases.length === 1 ? bases[0] : undefined) : this.#models.get(name);
    if (model !== undefined) return model;
    const names = all.map((entry) => entry.name).join(', ');
    throw new ArmatureError('SELECTION_MODEL_UNKNOWN', name === undefined ? "'model' is missing and there are several" : `there is no model "${name.slice(0, 200)}"`, { hint: `models: ${names}` });
  }
}

function decodedId(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    throw new ArmatureError('SELECTION_REQUEST_INVALID', `the id "${segment.slice(0, 200)}" is not percent-encoded UTF-8`, { hint: 'write % in an id as %25' });
  }
}

function selectorOf(model: ModelHandle): Selector {
  if (model.selector !== undefined) return model.selector;
  throw new ArmatureError('SELECTION_UNSUPPORTED', `model "${model.name}" cannot be routed without being executed`);
}

function statusOf(code: string): number {
  if (code === 'SELECTION_MODEL_UNKNOWN' || code === 'SELECTION_UNKNOWN' || code === 'SERVING_WORKER_UNKNOWN') return 404;
  if (code.startsWith('SELECTION_REQUEST') || code.startsWith('PREPROCESSOR_')) return 400;
  return code === 'SERVING_NO_WORKER' || code === 'SERVING_NO_ADAPTER_WORKER' || code === 'SERVING_NO_PREFILL_WORKER' ? 503 : 500;
}

function errorBody(code: string, message: string, hint: string | undefined): string {
  return JSON.stringify({ error: { code, message, ...(hint === undefined ? {} : { hint }) } });
}
