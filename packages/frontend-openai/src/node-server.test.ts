import { expect, test } from 'vitest';
import type { HttpExchange, HttpListener } from '@armature/contracts';
import { RawHttpClient } from '@armature/contracts/testing/raw-http';
import { NodeHttpServer, NODE_SERVER_DEFAULTS } from './node-server.ts';
import type { NodeServerConfig } from './node-server.ts';

async function listening(config: Partial<NodeServerConfig>, handle: (exchange: HttpExchange) => void, body: (client: RawHttpClient, listener: HttpListener) => Promise<void>): Promise<void> {
  const server = new NodeHttpServer({ ...NODE_SERVER_DEFAULTS, ...config });
  const listener = await server.listen({ host: '127.0.0.1', port: 0, maxBodyBytes: 1000 }, { request: handle, tooLarge: () => ({ status: 413, headers: {}, body: 'large' }) });
  const client = await RawHttpClient.open(listener.port);
  try {
    await body(client, listener);
  } finally {
    client.destroy();
    await server.close();
  }
}

test('a client that stops reading after the end of an answer is cut', async () => {
  for (const streamed of [false, true]) {
    const answer = (exchange: HttpExchange): void => {
      const body = 'x'.repeat(16_000_000);
      if (!streamed) return exchange.respond(200, {}, body);
      exchange.stream(200, {});
      exchange.end(body);
    };
    await listening({ slowReaderTimeoutMs: 100 }, answer, async (client) => {
      client.request('GET', '/');
      await client.head();
      client.socket.pause();
      await new Promise((resolve) => setTimeout(resolve, 400));
      client.socket.resume();
      await client.closed();
      await expect(client.bytes(16_000_000)).rejects.toThrow();
    });
  }
});

test('an HTTP/1.0 client gets its stream without chunks, ended by the end of the connection', async () => {
  const handle = (exchange: HttpExchange): void => {
    exchange.stream(200, { 'content-type': 'text/plain' });
    exchange.write('grü');
    exchange.end('ße');
  };
  await listening({}, handle, async (client) => {
    client.send('GET / HTTP/1.0\r\nhost: x\r\n\r\n');
    const { headers } = await client.head();
    expect(headers['transfer-encoding']).toBeUndefined();
    expect((await client.bytes(Buffer.byteLength('grüße'))).toString()).toBe('grüße');
    await client.closed();
  });
});

test('a body that waits to be asked for is asked for, or refused, before it comes', async () => {
  await listening({}, (exchange) => exchange.respond(200, {}, exchange.body), async (client) => {
    client.send('POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n');
    expect((await client.bytes(25)).toString()).toBe('HTTP/1.1 100 Continue\r\n\r\n');
    client.send('hello');
    expect((await client.answer()).body.toString()).toBe('hello');
    client.send('POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\nexpect: 100-continue\r\n\r\n');
    expect((await client.bytes(12)).toString()).toBe('HTTP/1.1 413');
  });
});

test('connections above maxConnections are closed', async () => {
  await listening({ maxConnections: 1 }, (exchange) => exchange.respond(200, {}, 'ok'), async (client, listener) => {
    client.request('GET', '/');
    expect((await client.answer()).status).toBe(200);
    const second = await RawHttpClient.open(listener.port);
    await second.closed();
  });
});

test('heads above maxHeaderBytes get a 431', async () => {
  await listening({ maxHeaderBytes: 2048 }, (exchange) => exchange.respond(200, {}, ''), async (client) => {
    client.request('GET', '/', undefined, { 'x-long': 'y'.repeat(4000) });
    const answer = await client.answer();
    expect(answer.status).toBe(431);
    expect(JSON.parse(answer.body.toString())).toMatchObject({ error: { code: 'headers_too_large' } });
  });
});
