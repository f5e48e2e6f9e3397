import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { ArmatureError } from '../errors.ts';
import type { HttpExchange, HttpHandler, HttpListener, HttpServer } from '../http-server.ts';
import { RawHttpClient } from './raw-http.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface HttpServerContractOptions {
  readonly runner: SuiteRunner;
  /** A new server, independent of all others, with default config. */
  create(): HttpServer | Promise<HttpServer>;
  readonly skip?: readonly SkippedRule[];
}

const LIMIT = 100_000;
const TEXT = 'grüße 🦙 “quoted”\n'.repeat(40);
const PLAIN = { 'content-type': 'text/plain; charset=utf-8' };

/** What one rule works with: a listening server whose handler it may replace. */
interface Bench {
  readonly server: HttpServer;
  readonly listener: HttpListener;
  readonly seen: HttpExchange[];
  handle: (exchange: HttpExchange) => void;
  open(): Promise<RawHttpClient>;
}

async function withBench(create: HttpServerContractOptions['create'], limitMs: number, body: (bench: Bench) => Promise<void>): Promise<void> {
  const server = await create();
  const seen: HttpExchange[] = [];
  const clients: RawHttpClient[] = [];
  const bench: { handle: (exchange: HttpExchange) => void } = { handle: (exchange) => exchange.respond(200, PLAIN, 'ok') };
  const handler: HttpHandler = {
    request: (exchange) => {
      seen.push(exchange);
      bench.handle(exchange);
    },
    tooLarge: (limitBytes) => ({ status: 413, headers: { 'content-type': 'application/json' }, body: `{"limit":${limitBytes}}` }),
  };
  const listener = await server.listen({ host: '127.0.0.1', port: 0, maxBodyBytes: LIMIT }, handler);
  try {
    const open = async (): Promise<RawHttpClient> => {
      const client = await RawHttpClient.open(listener.port);
      clients.push(client);
      return client;
    };
    await within(limitMs, body(Object.assign(bench, { server, listener, seen, open })));
  } finally {
    for (const client of clients) client.destroy();
    await listener.close(0);
    await server.close?.();
  }
}

/** Every rule ends: a server that never answers fails it, and does not hang the suite. */
export async function within(limitMs: number, work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`the rule did not end within ${limitMs} ms`)), limitMs);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits for `done`, at most five seconds. */
export async function eventually(done: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 1000; i++) {
    if (done()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.fail(`did not happen within 5 s: ${what}`);
}

/** A client that has read the head and the first chunk of a stream. */
async function openStream(bench: Bench, also: (exchange: HttpExchange) => void = () => undefined): Promise<RawHttpClient> {
  const client = await bench.open();
  bench.handle = (exchange) => {
    also(exchange);
    exchange.stream(200, PLAIN);
    exchange.write('first');
  };
  client.request('GET', '/');
  assert.equal((await client.head()).status, 200);
  assert.equal((await client.chunk())?.toString(), 'first');
  return client;
}

function isCode(code: string): (error: unknown) => boolean {
  return (error) => ArmatureError.is(error) && error.code === code;
}

/** The rules of the http-server contract. Each ends within `limitMs`. */
export function httpServerRules(create: HttpServerContractOptions['create'], limitMs = 8000): readonly ContractRule[] {
  const rule = (name: string, body: (bench: Bench) => Promise<void>): ContractRule => ({ name, run: () => withBench(create, limitMs, body) });
  return [...requestRules(rule), ...streamRules(rule), ...limitRules(rule), ...lifeRules(rule, create)];
}

/** Registers the http-server suite with a test runner. */
export function httpServerContract(options: HttpServerContractOptions): void {
  registerRules(options.runner, 'http-server contract', httpServerRules(options.create), options.skip);
}

type MakeRule = (name: string, body: (bench: Bench) => Promise<void>) => ContractRule;

function requestRules(rule: MakeRule): readonly ContractRule[] {
  return [
    rule('hands over method, path, query and body', async (bench) => {
      const client = await bench.open();
      let body = '';
      bench.handle = (exchange) => {
        body = Buffer.from(exchange.body).toString();
        exchange.respond(201, PLAIN, 'made');
      };
      client.request('POST', '/v1/things?a=1&b=%20', 'hello');
      const answer = await client.answer();
      assert.equal(answer.status, 201);
      assert.equal(answer.body.toString(), 'made');
      const { method, path, query } = bench.seen[0]!;
      assert.deepEqual([method, path, query, body], ['POST', '/v1/things', 'a=1&b=%20', 'hello']);
      client.request('GET', '/plain');
      await client.answer();
      assert.deepEqual([bench.seen[1]!.method, bench.seen[1]!.query, bench.seen[1]!.body.length], ['GET', '', 0]);
    }),
    rule('finds headers by lower-case name, also after the handler has returned', async (bench) => {
      const client = await bench.open();
      bench.handle = (exchange) => void setTimeout(() => exchange.respond(200, PLAIN, `${exchange.header('x-one')}|${exchange.header('x-none')}|${exchange.header('content-type')}`), 5);
      client.request('POST', '/', '{}', { 'X-One': 'Value 1', 'Content-Type': 'application/json' });
      assert.equal((await client.answer()).body.toString(), 'Value 1||application/json');
    }),
    rule('takes bodies that arrive in pieces', async (bench) => {
      const client = await bench.open();
      let body = '';
      bench.handle = (exchange) => {
        body = Buffer.from(exchange.body).toString();
        exchange.respond(200, PLAIN, 'ok');
      };
      const bytes = Buffer.from(TEXT);
      client.send(`POST / HTTP/1.1\r\nhost: test\r\ncontent-length: ${bytes.length}\r\n\r\n`);
      for (let i = 0; i < bytes.length; i += 97) {
        client.send(bytes.subarray(i, i + 97));
        await new Promise(setImmediate);
      }
      assert.equal((await client.answer()).status, 200);
      assert.equal(body, TEXT);
    }),
    rule('takes chunked uploads', async (bench) => {
      const client = await bench.open();
      let body = '';
      bench.handle = (exchange) => {
        body = Buffer.from(exchange.body).toString();
        exchange.respond(200, PLAIN, 'ok');
      };
      const bytes = Buffer.from(TEXT);
      client.send('POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n');
      for (let i = 0; i < bytes.length; i += 101) {
        const piece = bytes.subarray(i, i + 101);
        client.send(Buffer.concat([Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from('\r\n')]));
        await new Promise(setImmediate);
      }
      client.send('0\r\n\r\n');
      assert.equal((await client.answer()).status, 200);
      assert.equal(body, TEXT);
    }),
    rule('answers UTF-8 text and bytes with their length in bytes', async (bench) => {
      const client = await bench.open();
      for (const body of [TEXT, Buffer.from(TEXT), '']) {
        bench.handle = (exchange) => exchange.respond(200, { ...PLAIN, 'x-mark': 'a' }, body);
        client.request('GET', '/');
        const answer = await client.answer();
        assert.equal(answer.body.toString(), body.toString());
        assert.equal(answer.headers['content-length'], String(Buffer.byteLength(body)));
        assert.equal(answer.headers['content-type'], PLAIN['content-type']);
        assert.equal(answer.headers['x-mark'], 'a');
      }
    }),
    rule('answers HEAD without a body', async (bench) => {
      const client = await bench.open();
      client.request('HEAD', '/');
      const answer = await client.answer('HEAD');
      assert.equal(answer.status, 200);
      client.request('GET', '/');
      assert.equal((await client.answer()).body.toString(), 'ok');
    }),
    rule('keeps connections open between requests', async (bench) => {
      const client = await bench.open();
      for (let i = 0; i < 20; i++) {
        client.request('POST', `/${i}`, 'x'.repeat(i));
        assert.equal((await client.answer()).status, 200);
      }
      assert.equal(bench.seen.length, 20);
    }),
    rule('answers pipelined requests in order', async (bench) => {
      const client = await bench.open();
      bench.handle = (exchange) => exchange.respond(200, PLAIN, exchange.path);
      for (const path of ['/a', '/b', '/c']) client.request('GET', path);
      for (const path of ['/a', '/b', '/c']) assert.equal((await client.answer()).body.toString(), path);
    }),
    rule('answers pipelined requests in order when later ones are ready first', async (bench) => {
      const client = await bench.open();
      bench.handle = (exchange) => {
        const answer = (): void => {
          exchange.stream(200, PLAIN);
          exchange.write(exchange.path);
          exchange.end('!');
        };
        if (exchange.path === '/slow') setTimeout(answer, 30);
        else answer();
      };
      client.request('GET', '/slow');
      client.request('GET', '/fast');
      assert.equal((await client.answer()).body.toString(), '/slow!');
      assert.equal((await client.answer()).body.toString(), '/fast!');
    }),
    rule('ignores a second answer', async (bench) => {
      const client = await bench.open();
      bench.handle = (exchange) => {
        exchange.respond(200, PLAIN, 'first');
        exchange.respond(500, PLAIN, 'second');
        exchange.stream(500, PLAIN);
        exchange.write('third');
        exchange.end();
        exchange.destroy();
      };
      client.request('GET', '/');
      assert.equal((await client.answer()).body.toString(), 'first');
      client.request('GET', '/');
      assert.equal((await client.answer()).body.toString(), 'first');
    }),
  ];
}

function streamRules(rule: MakeRule): readonly ContractRule[] {
  return [
    rule('streams multi-byte text, framed by bytes', async (bench) => {
      const client = await bench.open();
      const parts = ['ascii', 'é', '日本語', '🦙🦙', 'data: {"a":"ü"}\n\n'];
      bench.handle = (exchange) => {
        exchange.stream(200, { 'content-type': 'text/event-stream' });
        for (const part of parts) exchange.write(part);
        exchange.end('終');
      };
      client.request('POST', '/', '{}');
      const answer = await client.answer();
      assert.equal(answer.headers['content-type'], 'text/event-stream');
      assert.equal(answer.body.toString(), `${parts.join('')}終`);
      client.request('POST', '/', '{}');
      assert.equal((await client.answer()).body.toString(), `${parts.join('')}終`);
    }),
    rule('sends the head of a stream before its first chunk', async (bench) => {
      const client = await bench.open();
      bench.handle = (exchange) => exchange.stream(200, PLAIN);
      client.request('GET', '/');
      assert.equal((await client.head()).status, 200);
    }),
    rule('sends chunks as they are written', async (bench) => {
      const client = await openStream(bench);
      for (const part of ['one', 'zwölf']) {
        bench.seen[0]!.write(part);
        assert.equal((await client.chunk())?.toString(), part);
      }
      bench.seen[0]!.write('');
      bench.seen[0]!.end();
      assert.equal(await client.chunk(), undefined);
    }),
    rule('tells of a client that leaves, once, and is safe afterwards', async (bench) => {
      let aborts = 0;
      for (const streaming of [false, true]) {
        const client = await bench.open();
        aborts = 0;
        bench.handle = (exchange) => {
          exchange.onAbort(() => aborts++);
          if (!streaming) return;
          exchange.stream(200, PLAIN);
          exchange.write('part');
        };
        client.request('POST', '/', 'x');
        if (streaming) await client.head();
        else await eventually(() => bench.seen.length === 1, 'request seen');
        client.destroy();
        await eventually(() => aborts > 0, 'abort callback');
        const exchange = bench.seen.at(-1)!;
        exchange.respond(200, PLAIN, 'late');
        exchange.stream(200, PLAIN);
        assert.equal(exchange.write('late'), 0);
        exchange.end('late');
        exchange.destroy();
        await new Promise((resolve) => setTimeout(resolve, 20));
        assert.equal(aborts, 1);
      }
    }),
    rule('calls no abort after the answer has ended', async (bench) => {
      const client = await bench.open();
      let aborts = 0;
      bench.handle = (exchange) => {
        exchange.onAbort(() => aborts++);
        exchange.stream(200, PLAIN);
        exchange.end('bye');
      };
      client.request('GET', '/');
      await client.answer();
      client.destroy();
      await new Promise((resolve) => setTimeout(resolve, 30));
      assert.equal(aborts, 0);
    }),
    rule('destroy cuts the connection without a proper end', async (bench) => {
      const client = await openStream(bench);
      bench.seen[0]!.destroy();
      await client.closed();
      await assert.rejects(client.chunk());
    }),
    rule('reports the bytes a slow reader leaves, and none once they are read', async (bench) => {
      const client = await openStream(bench);
      client.socket.pause();
      const exchange = bench.seen[0]!;
      const chunk = 'x'.repeat(65_536);
      let pending = 0;
      let written = 0;
      for (; written < 512 && pending < 4 * chunk.length; written++) {
        pending = exchange.write(chunk);
        await new Promise(setImmediate);
      }
      assert.ok(pending >= 4 * chunk.length, `a reader that stopped left ${pending} bytes pending after ${written} writes`);
      client.socket.resume();
      for (let i = 0; i < written; i++) assert.equal((await client.chunk())?.length, chunk.length);
      await new Promise((resolve) => setTimeout(resolve, 20));
      // The first write after a stall may still count what was pending when it was made; the next one may not.
      exchange.write('y');
      await client.chunk();
      await new Promise(setImmediate);
      assert.equal(exchange.write('z'), 0);
      exchange.end();
      assert.equal((await client.chunk())?.toString(), 'z');
      assert.equal(await client.chunk(), undefined);
    }),
    rule('delivers a large answer to a slow reader whole', async (bench) => {
      const client = await bench.open();
      const body = Buffer.alloc(8_000_000, 'abcdefg');
      bench.handle = (exchange) => exchange.respond(200, PLAIN, body);
      client.request('GET', '/');
      client.socket.pause();
      await new Promise((resolve) => setTimeout(resolve, 50));
      client.socket.resume();
      assert.ok((await client.answer()).body.equals(body));
    }),
  ];
}

function limitRules(rule: MakeRule): readonly ContractRule[] {
  return [
    rule('takes a body of exactly the limit', async (bench) => {
      const client = await bench.open();
      let length = 0;
      bench.handle = (exchange) => {
        length = exchange.body.length;
        exchange.respond(200, PLAIN, 'ok');
      };
      client.request('POST', '/', Buffer.alloc(LIMIT, 1));
      assert.equal((await client.answer()).status, 200);
      assert.equal(length, LIMIT);
    }),
    rule('answers a declared body over the limit before it comes', async (bench) => {
      const client = await bench.open();
      client.send(`POST / HTTP/1.1\r\nhost: test\r\ncontent-length: ${LIMIT + 1}\r\n\r\nabc`);
      const answer = await client.answer();
      assert.equal(answer.status, 413);
      assert.equal(answer.body.toString(), `{"limit":${LIMIT}}`);
      assert.equal(bench.seen.length, 0);
    }),
    rule('answers a chunked body once it is over the limit', async (bench) => {
      const client = await bench.open();
      client.send('POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n');
      const piece = Buffer.concat([Buffer.from('4000\r\n'), Buffer.alloc(0x4000, 65), Buffer.from('\r\n')]);
      for (let i = 0; i < LIMIT / 0x4000; i++) client.send(piece);
      assert.equal((await client.answer()).status, 413);
      assert.equal(bench.seen.length, 0);
    }),
    rule('refuses requests whose end a proxy might see elsewhere', async (bench) => {
      const smuggled = 'GET /smuggled HTTP/1.1\r\nhost: test\r\n\r\n';
      for (const head of ['content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n', 'content-length: 3\r\ncontent-length: 5\r\n\r\nabcde', 'content-length: -1\r\n\r\n', 'content-length: 1e1\r\n\r\n']) {
        const client = await bench.open();
        client.send(`POST / HTTP/1.1\r\nhost: test\r\n${head}${smuggled}`);
        await client.closed();
        assert.deepEqual(bench.seen.map((exchange) => exchange.path), []);
      }
    }),
    rule('survives what is not HTTP', async (bench) => {
      const bad = await bench.open();
      bad.send('\x16\x03\x01\x02\x00nonsense\r\n\r\n');
      await bad.closed();
      const good = await bench.open();
      good.request('GET', '/');
      assert.equal((await good.answer()).status, 200);
    }),
  ];
}

function lifeRules(rule: MakeRule, create: HttpServerContractOptions['create']): readonly ContractRule[] {
  return [
    rule('names its port, and says when one is taken', async (bench) => {
      assert.equal(bench.listener.host, '127.0.0.1');
      assert.ok(bench.listener.port > 0);
      const other = await create();
      const handler: HttpHandler = { request: (exchange) => exchange.respond(200, PLAIN, ''), tooLarge: () => ({ status: 413, headers: {}, body: '' }) };
      await assert.rejects(async () => other.listen({ host: '127.0.0.1', port: bench.listener.port, maxBodyBytes: 1 }, handler), isCode('HTTP_PORT_IN_USE'));
      // 203.0.113.0/24 is reserved for documentation: no machine has such an address.
      await assert.rejects(async () => other.listen({ host: '203.0.113.77', port: 0, maxBodyBytes: 1 }, handler), isCode('HTTP_LISTEN_FAILED'));
      await other.close?.();
    }),
    rule('close waits for answers in flight, takes nothing new, and may be called again', async (bench) => {
      const idle = await bench.open();
      const client = await openStream(bench);
      let closed = false;
      const closing = bench.listener.close(5000).then(() => (closed = true));
      const again = bench.listener.close(5000);
      await new Promise((resolve) => setTimeout(resolve, 30));
      assert.equal(closed, false);
      await assert.rejects(RawHttpClient.open(bench.listener.port).then((late) => late.closed().then(() => Promise.reject(new Error('closed')))));
      bench.seen[0]!.write('still');
      assert.equal((await client.chunk())?.toString(), 'still');
      bench.seen[0]!.end('done');
      assert.equal((await client.chunk())?.toString(), 'done');
      assert.equal(await client.chunk(), undefined);
      await Promise.all([closing, again]);
      await idle.closed();
      await client.closed();
      await bench.listener.close(0);
    }),
    rule('close cuts what is left at the deadline and tells its handler', async (bench) => {
      let aborts = 0;
      const client = await openStream(bench, (exchange) => exchange.onAbort(() => aborts++));
      await bench.listener.close(30);
      await client.closed();
      assert.equal(aborts, 1);
      bench.seen[0]!.end('late');
    }),
    {
      name: 'leaves no handles behind 500 connections and 20 listeners',
      run: async () => {
        const count = (): number => handles();
        await cycle(create, 2, 25);
        const before = count();
        await cycle(create, 20, 25);
        let after = count();
        for (let i = 0; i < 100 && after > before + 3; i++) {
          await new Promise((resolve) => setTimeout(resolve, 20));
          after = count();
        }
        assert.ok(after <= before + 3, `handles grew from ${before} to ${after}`);
      },
    },
  ];
}

async function cycle(create: HttpServerContractOptions['create'], listeners: number, connections: number): Promise<void> {
  for (let i = 0; i < listeners; i++) {
    await withBench(create, 8000, async (bench) => {
      for (let k = 0; k < connections; k++) {
        const client = await bench.open();
        client.request('POST', '/', 'x');
        assert.equal((await client.answer()).status, 200);
        client.destroy();
      }
    });
  }
}

/** Open file descriptors where the system tells, else active resources of the event loop. */
function handles(): number {
  try {
    return readdirSync('/proc/self/fd').length;
  } catch {
    return process.getActiveResourcesInfo().length;
  }
}
