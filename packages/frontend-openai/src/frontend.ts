import { createHash, timingSafeEqual } from 'node:crypto';
import { ArmatureError } from '@armature/contracts';
import type { Frontend, Health, HttpExchange, HttpHeaders, HttpListener, HttpServer, ModelDirectory, ModelHandle } from '@armature/contracts';
import { ApiError, errorBody, errorHeaders, overloaded, problem, problemFromError } from './api-error.ts';
import type { ApiProblem } from './api-error.ts';
import { modelNotFound, startChat, startCompletion } from './generate.ts';
import { NodeHttpServer } from './node-server.ts';
import { openApiDocument } from './openapi.ts';
import { parseBody } from './parse-body.ts';
import type { Runtime } from './runtime.ts';

const NO_MODELS: ModelDirectory = { list: () => [], get: () => undefined };
const SANE_ID = /^[\w.:/+=@-]{1,128}$/;
const UNAVAILABLE = 'HTTP_UWS_UNAVAILABLE';

type Handler = (exchange: HttpExchange, requestId: string) => void;
interface Route {
  readonly name: string;
  readonly method: 'GET' | 'POST';
  readonly needsKey: boolean;
  readonly handle: Handler;
}

/** The OpenAI-compatible HTTP API. */
export class OpenAiFrontend implements Frontend {
  readonly #runtime: Runtime;
  readonly #server: HttpServer;
  readonly #health: Health;
  readonly #routes = new Map<string, Route>();
  readonly #keyHashes: readonly Buffer[];
  #models: ModelDirectory = NO_MODELS;
  #fallback: HttpServer | undefined = undefined;
  #listener: HttpListener | undefined = undefined;
  #draining = false;

  constructor(runtime: Runtime, server: HttpServer, health: Health) {
    this.#runtime = runtime;
    this.#server = server;
    this.#health = health;
    this.#keyHashes = runtime.config.apiKeys.map(sha256);
    const add = (path: string, name: string, method: 'GET' | 'POST', needsKey: boolean, handle: Handler): void => {
      this.#routes.set(path, { name, method, needsKey, handle });
    };
    add('/v1/chat/completions', 'chat', 'POST', true, (exchange, id) => this.#generate(exchange, id, startChat));
    add('/v1/completions', 'completions', 'POST', true, (exchange, id) => this.#generate(exchange, id, startCompletion));
    add('/v1/models', 'models', 'GET', true, (exchange, id) => this.#listModels(exchange, id));
    add('/health', 'health', 'GET', false, (exchange, id) => this.#answerHealth(exchange, id));
    add('/live', 'live', 'GET', false, (exchange, id) => this.#json(exchange, id, 'live', 200, '{"status":"live"}'));
    add('/ready', 'ready', 'GET', false, (exchange, id) => this.#answerReady(exchange, id));
    add('/openapi.json', 'openapi', 'GET', false, (exchange, id) => this.#json(exchange, id, 'openapi', 200, openApiDocument()));
  }

  mount(models: ModelDirectory): void {
    this.#models = models;
  }

  async listen(): Promise<{ readonly url: string }> {
    const { host, port, maxBodyBytes, sharePort } = this.#runtime.config;
    const options = { host, port, maxBodyBytes, shared: sharePort };
    const handler = { request: (exchange: HttpExchange) => this.#receive(exchange), tooLarge: (limitBytes: number) => this.#tooLarge(limitBytes) };
    try {
      this.#listener = await this.#server.listen(options, handler);
    } catch (error) {
      if (!ArmatureError.is(error) || error.code !== UNAVAILABLE) throw error;
      this.#runtime.log.warn(`${error.message}; node:http serves instead`, { code: error.code, hint: error.hint });
      this.#fallback = new NodeHttpServer();
      this.#listener = await this.#fallback.listen(options, handler);
    }
    this.#health.set('frontend', 'ready');
    return { url: `http://${this.#listener.host.includes(':') ? `[${this.#listener.host}]` : this.#listener.host}:${this.#listener.port}` };
  }

  /** New requests are answered 503 from now on; running ones may end. */
  async drain(deadlineMs: number): Promise<void> {
    this.#draining = true;
    this.#health.set('frontend', 'draining');
    await this.#runtime.idle(deadlineMs);
  }

  async close(): Promise<void> {
    this.#draining = true;
    const closing: ApiProblem = { ...problem(503, 'service_unavailable', 'server_closing', 'The server is closing.'), retryAfterMs: 1000, shouldRetry: true };
    for (const generation of this.#runtime.live) generation.stop(closing);
    await this.#listener?.close(250);
    await this.#fallback?.close?.();
    this.#health.remove('frontend');
  }

  #receive(exchange: HttpExchange): void {
    const given = exchange.header('x-request-id');
    const requestId = SANE_ID.test(given) ? given : `req_${this.#runtime.newId()}`;
    const route = this.#routes.get(exchange.path) ?? this.#modelRoute(exchange.path);
    const name = route?.name ?? 'other';
    try {
      if (route === undefined) {
        return this.#refuse(exchange, requestId, name, problem(404, 'invalid_request_error', 'unknown_url', `Unknown request URL: ${exchange.method.slice(0, 16)} ${exchange.path.slice(0, 200)}. GET /openapi.json lists what there is.`));
      }
      if (exchange.method !== route.method && !(route.method === 'GET' && exchange.method === 'HEAD')) {
        return this.#refuse(exchange, requestId, name, problem(405, 'invalid_request_error', 'method_not_allowed', `${exchange.path} takes ${route.method}, not ${exchange.method.slice(0, 16)}.`), { allow: route.method });
      }
      if (route.needsKey && this.#keyHashes.length > 0) this.#checkKey(exchange.header('authorization'));
      route.handle(exchange, requestId);
    } catch (error) {
      this.#refuse(exchange, requestId, name, this.#problemOf(error, requestId));
    }
  }

  #problemOf(error: unknown, requestId: string): ApiProblem {
    if (error instanceof ApiError) return error.problem;
    const coded = ArmatureError.from(error);
    const told = problemFromError(coded.toData(), this.#runtime.config.overloadStatus);
    if (told.status === 500) this.#runtime.log.error('request handler failed', { requestId, code: coded.code, reason: coded.message, stack: (coded.cause as Error | undefined)?.stack });
    return told;
  }

  #refuse(exchange: HttpExchange, requestId: string, route: string, of: ApiProblem, more?: HttpHeaders): void {
    this.#runtime.metrics.answered(route, of.status);
    exchange.respond(of.status, more === undefined ? errorHeaders(of, requestId) : { ...errorHeaders(of, requestId), ...more }, errorBody(of));
  }

  #generate(exchange: HttpExchange, requestId: string, begin: typeof startChat): void {
    const runtime = this.#runtime;
    const receivedAtMs = runtime.clock.nowMs();
    if (this.#draining) throw new ApiError({ ...problem(503, 'service_unavailable', 'server_closing', 'The server is closing.'), retryAfterMs: 1000, shouldRetry: true });
    const limit = runtime.config.maxConcurrentRequests;
    if (runtime.live.size >= limit) {
      runtime.metrics.shed.inc();
      throw new ApiError(overloaded(runtime.config.overloadStatus, 'too_many_concurrent_requests', 500 + runtime.random.below(1000)));
    }
    checkContentType(exchange.header('content-type'));
    const encoding = exchange.header('content-encoding');
    if (encoding !== '' && encoding.toLowerCase() !== 'identity') {
      throw new ApiError(problem(415, 'invalid_request_error', 'unsupported_content_encoding', `Bodies compressed as ${JSON.stringify(encoding.slice(0, 40))} are not supported; send them as they are.`));
    }
    begin(runtime, this.#models, { exchange, requestId, receivedAtMs }, parseBody(exchange.body));
  }

  #checkKey(authorization: string): void {
    const match = /^Bearer +(.+)$/i.exec(authorization);
    const given = sha256(match === null ? '' : match[1]!.trim());
    let known = false;
    for (const hash of this.#keyHashes) known = timingSafeEqual(hash, given) || known;
    if (known && match !== null) return;
    throw new ApiError(
      problem(401, 'authentication_error', 'invalid_api_key', match === null ? 'No API key: send it as `Authorization: Bearer KEY`.' : 'The API key is not valid.'),
    );
  }

  #listModels(exchange: HttpExchange, requestId: string): void {
    this.#json(exchange, requestId, 'models', 200, JSON.stringify({ object: 'list', data: this.#models.list().map(modelObject) }));
  }

  #modelRoute(path: string): Route | undefined {
    if (!path.startsWith('/v1/models/')) return undefined;
    const handle: Handler = (exchange, requestId) => {
      const name = decode(path.slice('/v1/models/'.length));
      const model = this.#models.get(name);
      if (model === undefined) throw new ApiError(modelNotFound(name));
      this.#json(exchange, requestId, 'model', 200, JSON.stringify(modelObject(model)));
    };
    return { name: 'model', method: 'GET', needsKey: true, handle };
  }

  #answerHealth(exchange: HttpExchange, requestId: string): void {
    const report = this.#health.report();
    const models = this.#models.list().map((model) => ({ id: model.name, ready: model.isReady() }));
    const failed = report.state === 'failed';
    const body = { status: this.#draining ? 'draining' : report.state, models, ...(failed ? { error: envelope(problem(503, 'service_unavailable', 'unhealthy', 'A component of the server has failed.')) } : {}) };
    this.#json(exchange, requestId, 'health', failed ? 503 : 200, JSON.stringify(body));
  }

  #answerReady(exchange: HttpExchange, requestId: string): void {
    const ready = !this.#draining && this.#models.list().some((model) => model.isReady());
    if (ready) return this.#json(exchange, requestId, 'ready', 200, '{"status":"ready"}');
    const of = problem(503, 'service_unavailable', this.#draining ? 'server_closing' : 'no_model_ready', this.#draining ? 'The server is closing.' : 'No model has a worker that can take requests.');
    this.#json(exchange, requestId, 'ready', 503, JSON.stringify({ status: this.#draining ? 'draining' : 'starting', error: envelope(of) }));
  }

  #tooLarge(limitBytes: number): { status: number; headers: HttpHeaders; body: string } {
    const of = problem(413, 'invalid_request_error', 'request_too_large', `The request body is larger than the limit of ${limitBytes} bytes.`);
    this.#runtime.metrics.answered('other', 413);
    return { status: 413, headers: errorHeaders(of, `req_${this.#runtime.newId()}`), body: errorBody(of) };
  }

  #json(exchange: HttpExchange, requestId: string, route: string, status: number, body: string): void {
    this.#runtime.metrics.answered(route, status);
    exchange.respond(status, { 'content-type': 'application/json', 'x-request-id': requestId }, body);
  }
}

/** As vLLM lists them: adapters beside models, `parent` names the model they belong to. Where their weights lie is not told to clients: `root` is the name. */
function modelObject({ name, parent, createdAtSeconds, maxModelTokens }: ModelHandle): unknown {
  return { id: name, object: 'model', created: Math.floor(createdAtSeconds), owned_by: 'armature', root: name, parent: parent ?? null, max_model_len: maxModelTokens };
}

function envelope(of: ApiProblem): unknown {
  return { message: of.message, type: of.type, param: of.param, code: of.code };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function checkContentType(value: string): void {
  if (value === '' || value === 'application/json') return;
  const [type = '', ...parameters] = value.toLowerCase().split(';').map((part) => part.trim());
  const charset = parameters.find((parameter) => parameter.startsWith('charset='));
  if (type === 'application/json' && (charset === undefined || /^charset="?utf-?8"?$/.test(charset))) return;
  throw new ApiError(problem(415, 'invalid_request_error', 'unsupported_media_type', `The body must be application/json in UTF-8, got ${JSON.stringify(value.slice(0, 100))}.`));
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
