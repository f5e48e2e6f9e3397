import { describe, expect, it, test } from 'vitest';
import { httpServerContract } from '@armature/contracts/testing/http-server';
import { available, INSTALL_HINT, uws, UwsHttpServer } from './index.ts';

const found = await available();

if (found.available) {
  httpServerContract({
    runner: { describe, it },
    create: () => new UwsHttpServer(),
    skip: [
      { rule: 'answers pipelined requests in order when later ones are ready first', reason: 'uWebSockets.js closes a connection that pipelines behind an unfinished answer' },
      { rule: 'sends the head of a stream before its first chunk', reason: 'uWebSockets.js sends the head together with the first chunk' },
    ],
  });
} else {
  test(`http-server contract (skipped: ${found.error.message})`, () => expect(found.error.code).toBe('HTTP_UWS_UNAVAILABLE'));
}

test('says why it cannot serve, and what to install, when the library is missing or has no binary', async () => {
  const options = { host: '127.0.0.1', port: 0, maxBodyBytes: 1000 };
  const handler = { request: () => undefined, tooLarge: () => ({ status: 413, headers: {}, body: '' }) };
  for (const load of [() => Promise.reject(new Error("Cannot find package 'uWebSockets.js'")), () => Promise.resolve({ default: {} })]) {
    const missing = await available(load);
    expect(missing.available).toBe(false);
    const server = new UwsHttpServer(load);
    await expect(server.listen(options, handler)).rejects.toMatchObject({ code: 'HTTP_UWS_UNAVAILABLE', hint: INSTALL_HINT });
    await server.close();
  }
});

test('creating the plug-in neither loads nor fails', async () => {
  const server = await uws.create({}, undefined as never);
  expect(server.name).toBe('uws');
});
