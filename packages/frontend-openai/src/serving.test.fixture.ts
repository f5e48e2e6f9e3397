import type { HttpServer, ModelHandle } from '@armature/contracts';
import { FakeDirectory } from '@armature/contracts/testing/fake-model';
import { fakeContext } from './fake-context.test.fixture.ts';
import type { FakeContext } from './fake-context.test.fixture.ts';
import type { OpenAiConfig } from './config.ts';
import { NodeHttpServer } from './node-server.ts';
import type { OpenAiFrontend } from './frontend.ts';
import { openai } from './plugin.ts';

export const DEFAULTS: OpenAiConfig = {
  host: '127.0.0.1',
  port: 0,
  server: { kind: 'http-server', use: 'node', path: 'frontend.server' },
  sharePort: false,
  maxBodyBytes: 16_777_216,
  requestTimeoutMs: 600_000,
  maxConcurrentRequests: 4096,
  overloadStatus: 503,
  maxPendingBytes: 1_048_576,
  apiKeys: [],
};

export interface Running {
  readonly url: string;
  readonly context: FakeContext;
  readonly frontend: OpenAiFrontend;
  chat(body: unknown, headers?: Readonly<Record<string, string>>): Promise<Response>;
  complete(body: unknown, headers?: Readonly<Record<string, string>>): Promise<Response>;
  post(path: string, body: string | Uint8Array<ArrayBuffer>, headers?: Readonly<Record<string, string>>): Promise<Response>;
}

/** Runs `body` against a frontend that listens, and closes it. */
export async function serving(models: readonly ModelHandle[], config: Partial<OpenAiConfig>, body: (running: Running) => Promise<void>, server: HttpServer = new NodeHttpServer()): Promise<void> {
  const context = fakeContext({ 'http-server': server });
  const frontend = (await openai.create({ ...DEFAULTS, ...config }, context)) as OpenAiFrontend;
  frontend.mount(new FakeDirectory(models));
  const { url } = await frontend.listen();
  const post: Running['post'] = (path, content, headers) => fetch(url + path, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body: content });
  try {
    await body({
      url,
      context,
      frontend,
      post,
      chat: (content, headers) => post('/v1/chat/completions', JSON.stringify(content), headers),
      complete: (content, headers) => post('/v1/completions', JSON.stringify(content), headers),
    });
  } finally {
    await frontend.close();
  }
}
