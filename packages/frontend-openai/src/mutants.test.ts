import { expect, test } from 'vitest';
import { ArmatureError } from '@armature/contracts';
import type { HttpExchange, HttpHandler, HttpHeaders, HttpListener, HttpListenOptions, HttpServer } from '@armature/contracts';
import { frontendRules } from '@armature/contracts/testing/frontend';
import { httpServerRules } from '@armature/contracts/testing/http-server';
import { fakeContext } from './fake-context.test.fixture.ts';
import { NodeHttpServer } from './node-server.ts';
import { openai } from './plugin.ts';
import { DEFAULTS } from './serving.test.fixture.ts';

/** Passes everything on; a mutant breaks one member. */
class Through implements HttpExchange {
  readonly inner: HttpExchange;
  constructor(inner: HttpExchange) {
    this.inner = inner;
  }
  get method(): string {
    return this.inner.method;
  }
  get path(): string {
    return this.inner.path;
  }
  get query(): string {
    return this.inner.query;
  }
  get body(): Uint8Array {
    return this.inner.body;
  }
  header(name: string): string {
    return this.inner.header(name);
  }
  respond(status: number, headers: HttpHeaders, body: string | Uint8Array): void {
    this.inner.respond(status, headers, body);
  }
  stream(status: number, headers: HttpHeaders): void {
    this.inner.stream(status, headers);
  }
  write(chunk: string): number {
    return this.inner.write(chunk);
  }
  end(chunk?: string): void {
    this.inner.end(chunk);
  }
  onAbort(callback: () => void): void {
    this.inner.onAbort(callback);
  }
  destroy(): void {
    this.inner.destroy();
  }
}

interface Mutation {
  readonly exchange?: (inner: HttpExchange) => HttpExchange;
  readonly options?: (options: HttpListenOptions) => HttpListenOptions;
  readonly close?: (listener: HttpListener, deadlineMs: number) => Promise<void>;
  readonly listen?: (listen: () => Promise<HttpListener>) => Promise<HttpListener>;
}

class MutantServer implements HttpServer {
  readonly name = 'mutant';
  readonly #inner = new NodeHttpServer();
  readonly #mutation: Mutation;
  constructor(mutation: Mutation) {
    this.#mutation = mutation;
  }
  async listen(options: HttpListenOptions, handler: HttpHandler): Promise<HttpListener> {
    const { exchange = (inner) => inner, options: change = (same) => same, close = (listener, deadlineMs) => listener.close(deadlineMs), listen = (work) => work() } = this.#mutation;
    const request = (inner: HttpExchange): void => handler.request(exchange(inner));
    const listener = await listen(() => this.#inner.listen(change(options), { request, tooLarge: (limit) => handler.tooLarge(limit) }));
    return { host: listener.host, port: listener.port, close: (deadlineMs) => close(listener, deadlineMs) };
  }
  close(): Promise<void> {
    return this.#inner.close();
  }
}

/** A mutant that hangs has failed. */
const LIMIT_MS = 1500;

type Change = (inner: HttpExchange) => Partial<HttpExchange>;
const changed =
  (change: Change) =>
  (inner: HttpExchange): HttpExchange =>
    Object.assign(Object.create(new Through(inner)) as HttpExchange, change(inner));

const TOGETHER = 'reports the bytes a slow reader leaves, and none once they are read';
const SERVER_MUTANTS: readonly (readonly [string, Mutation, string])[] = [
  ['headers by their own case', { exchange: changed((inner) => ({ header: (name) => (name === name.toLowerCase() ? '' : inner.header(name)) })) }, 'finds headers by lower-case name, also after the handler has returned'],
  ['absent headers as "undefined"', { exchange: changed((inner) => ({ header: (name) => inner.header(name) || 'undefined' })) }, 'finds headers by lower-case name, also after the handler has returned'],
  ['streams as latin1', { exchange: changed((inner) => ({ write: (chunk) => inner.write(Buffer.from(chunk, 'latin1').toString('latin1')) })) }, 'streams multi-byte text, framed by bytes'],
  ['no backpressure', { exchange: changed((inner) => ({ write: (chunk) => (inner.write(chunk), 0) })) }, TOGETHER],
  ['backpressure that never goes', { exchange: changed((inner) => ({ write: (chunk) => inner.write(chunk) + chunk.length })) }, TOGETHER],
  ['no abort', { exchange: changed(() => ({ onAbort: () => undefined })) }, 'tells of a client that leaves, once, and is safe afterwards'],
  [
    'two aborts',
    {
      exchange: changed((inner) => ({
        onAbort: (callback) =>
          inner.onAbort(() => {
            callback();
            callback();
          }),
      })),
    },
    'tells of a client that leaves, once, and is safe afterwards',
  ],
  ['an abort after the end', { exchange: changed((inner) => ({ onAbort: (callback) => void [setTimeout(callback, 10), inner.onAbort(callback)] })) }, 'calls no abort after the answer has ended'],
  ['gathers a stream until its end', { exchange: gathering }, 'sends chunks as they are written'],
  ['destroy ends properly', { exchange: changed((inner) => ({ destroy: () => inner.end() })) }, 'destroy cuts the connection without a proper end'],
  ['no body limit', { options: (options) => ({ ...options, maxBodyBytes: 1e9 }) }, 'answers a declared body over the limit before it comes'],
  ['a limit one too low', { options: (options) => ({ ...options, maxBodyBytes: options.maxBodyBytes - 1 }) }, 'takes a body of exactly the limit'],
  ['close that does not wait', { close: (listener) => listener.close(0) }, 'close waits for answers in flight, takes nothing new, and may be called again'],
  ['close without a deadline', { close: (listener) => listener.close(60_000) }, 'close cuts what is left at the deadline and tells its handler'],
  [
    'a port in use without its code',
    {
      listen: (work) =>
        work().catch(() => {
          throw new ArmatureError('HTTP_LISTEN_FAILED', 'no');
        }),
    },
    'names its port, and says when one is taken',
  ],
];

function gathering(inner: HttpExchange): HttpExchange {
  let text = '';
  return changed(() => ({
    write: (chunk) => {
      text += chunk;
      return 0;
    },
    end: (chunk = '') => inner.end(text + chunk),
  }))(inner);
}

async function fails(rules: ReturnType<typeof httpServerRules>, name: string): Promise<boolean> {
  const rule = rules.find((one) => one.name === name);
  if (rule === undefined) throw new Error(`no rule "${name}"`);
  try {
    await rule.run();
    return false;
  } catch {
    return true;
  }
}

for (const [name, mutation, rule] of SERVER_MUTANTS) {
  test(`http-server mutant fails its rule: ${name}`, async () => {
    expect(await fails(httpServerRules(() => new MutantServer(mutation), LIMIT_MS), rule)).toBe(true);
  });
}

/** Breaks the frontend's answers on their way out: as good as a broken frontend, and shorter. */
const text = (change: (body: string) => string): Mutation => ({
  exchange: changed((inner) => ({
    respond: (status, headers, body) => inner.respond(status, headers, change(String(body))),
    write: (chunk) => inner.write(change(chunk)),
    end: (chunk = '') => inner.end(change(chunk)),
  })),
});
const FRONTEND_MUTANTS: readonly (readonly [string, Mutation, string])[] = [
  ['no [DONE]', text((body) => body.replace('data: [DONE]\n\n', '')), 'streams a chat completion'],
  ['no role', text((body) => body.replace('"role":"assistant",', '')), 'streams a chat completion'],
  ['no finish', text((body) => body.replace('"finish_reason":"stop"', '"finish_reason":null')), 'streams a chat completion'],
  ['created as a fraction', text((body) => body.replace(/"created":(\d+)/g, '"created":$1.5')), 'answers a chat completion'],
  ['usage although nobody asked', text((body) => body.replaceAll('}]}\n\n', '}],"usage":{"completion_tokens":1}}\n\n')), 'streams a chat completion'],
  ['no usage', text((body) => body.replace(/data: [^\n]*"choices":\[\],"usage"[^\n]*\n\n/, '')), 'ends a stream with its usage when asked to'],
  ['choices mixed up', text((body) => body.replaceAll('"index":1', '"index":0')), 'keeps the choices of one stream apart'],
  ['numeric error code', text((body) => body.replace(/"code":"[^"]*"/, '"code":400')), 'wraps every error, with a string code'],
  ['no envelope', text((body) => body.replace(/^\{"error":(.*)\}$/, '$1')), 'wraps every error, with a string code'],
  ['no field name', text((body) => body.replace(/"param":"[^"]*"/, '"param":null')), 'names the field at fault'],
  ['stream that just ends', { exchange: changed((inner) => ({ end: () => inner.end() })) }, 'ends a stream that fails with an error event'],
  [
    'no request id',
    {
      exchange: changed((inner) => ({
        respond: (status, headers, body) => inner.respond(status, { 'content-type': headers['content-type'] ?? '' }, body),
      })),
    },
    'wraps every error, with a string code',
  ],
  ['client leaves unheard', { exchange: changed(() => ({ onAbort: () => undefined })) }, 'cancels the engine when the client leaves'],
  ['answers gathered', { exchange: gathering }, 'delivers tokens as they come'],
];

for (const [name, mutation, rule] of FRONTEND_MUTANTS) {
  test(`frontend mutant fails its rule: ${name}`, async () => {
    const rules = frontendRules(() => openai.create(DEFAULTS, fakeContext({ 'http-server': new MutantServer(mutation) })), LIMIT_MS);
    expect(await fails(rules, rule)).toBe(true);
  });
}

test('without a mutation the mutants pass', async () => {
  const server = (): MutantServer => new MutantServer({ exchange: changed(() => ({})) });
  for (const rule of new Set(SERVER_MUTANTS.map(([, , name]) => name))) expect(await fails(httpServerRules(server), rule), rule).toBe(false);
  for (const rule of new Set(FRONTEND_MUTANTS.map(([, , name]) => name))) {
    expect(await fails(frontendRules(() => openai.create(DEFAULTS, fakeContext({ 'http-server': server() }))), rule), rule).toBe(false);
  }
});
