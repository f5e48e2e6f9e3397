import { expect, test } from 'vitest';
import { fakeContext, realClock } from './fake-context.test.fixture.ts';
import { FakeDirectory, FakeModel, speak } from './fake-model.ts';
import { openai, NodeHttpServer } from './index.ts';

test('first light', async () => {
  const context = fakeContext({ 'http-server': new NodeHttpServer() });
  const frontend = await openai.create(
    { host: '127.0.0.1', port: 0, server: { kind: 'http-server', use: 'node', path: 'x' }, maxBodyBytes: 1 << 24, requestTimeoutMs: 10_000, maxConcurrentRequests: 100, overloadStatus: 503, maxPendingBytes: 1 << 20, apiKeys: [] },
    context,
  );
  frontend.mount(new FakeDirectory([new FakeModel('demo', speak(realClock, 'Héllo "w"\n'))]));
  const { url } = await frontend.listen();
  const post = (body: unknown): Promise<Response> => fetch(`${url}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  const whole = await post({ model: 'demo', messages: [{ role: 'user', content: 'hi' }] });
  console.log(whole.status, JSON.stringify(await whole.json()));
  const stream = await post({ model: 'demo', stream: true, messages: [{ role: 'user', content: 'hi' }] });
  console.log(stream.status, await stream.text());
  expect(whole.status).toBe(200);
  await frontend.close?.();
});
