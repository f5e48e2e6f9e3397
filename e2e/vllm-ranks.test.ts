import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { start } from './support/in-process.ts';
import type { App } from './support/in-process.ts';

// A vLLM server of two data-parallel ranks: each is a worker of its own, and a request goes to the rank that was chosen. With the real vLLM: `npm run test:vllm -- --only ranks`.
const answer = [
  { index: 0, text: 'a', token_ids: [40], finish_reason: null },
  { index: 0, text: 'b', token_ids: [41], finish_reason: 'length' },
].map((choice) => `data: ${JSON.stringify({ object: 'text_completion', choices: [choice] })}\n\n`).join('');
const metrics = [0, 1].map((rank) => `vllm:cache_config_info{block_size="16",engine="${rank}",num_gpu_blocks="${100 + rank}"} 1.0\n`).join('');

let ranksAsked: (string | undefined)[];
let server: http.Server;
let app: App | undefined;
beforeEach(async () => {
  ranksAsked = [];
  server = http.createServer((request, response) => {
    if (request.url === '/v1/models') response.end(JSON.stringify({ object: 'list', data: [{ id: 'demo', max_model_len: 2048 }] }));
    else if (request.url === '/metrics') response.end(metrics);
    else if (request.url === '/v1/completions') {
      ranksAsked.push(request.headers['x-data-parallel-rank'] as string | undefined);
      request.resume().on('end', () => response.end(`${answer}data: [DONE]\n\n`));
    } else response.writeHead(request.url === '/health' ? 200 : 404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});
afterEach(async () => {
  await app?.close(0);
  app = undefined;
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

const yaml = (dpRanks: number): string => `
apiVersion: armature/v1
admin: { port: 0 }
frontend: { use: openai, config: { port: 0 } }
models:
  - name: demo
    source: "@armature/model-demo"
    workers:
      - { name: w, replicas: 2, dpRanks: ${dpRanks}, engine: { use: vllm, config: { baseUrl: "http://127.0.0.1:${(server.address() as AddressInfo).port}", canaryIntervalMs: 0, startTimeoutMs: 10000 } } }
`;

test('ranks are workers, and a request is sent to the one that was chosen', async () => {
  app = await start(yaml(2));
  const { url, adminUrl } = app.deployment.summary();
  const workers = (await (await fetch(`${adminUrl}/workers`)).json()) as { dpRank: number; totalBlocks: number }[];
  expect(workers.map(({ dpRank, totalBlocks }) => [dpRank, totalBlocks]).sort()).toEqual([[0, 100], [1, 101]]);
  for (const rank of ['1', '0', '1', '1']) {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-dynamo-dp-rank': rank },
      body: JSON.stringify({ model: 'demo', max_tokens: 2, messages: [{ role: 'user', content: 'Hello!' }] }),
    });
    expect(response.status).toBe(200);
  }
  expect(ranksAsked).toEqual(['1', '0', '1', '1']);
});

test('another number of ranks than the server has ends the start, with what to set', async () => {
  await expect(start(yaml(3))).rejects.toThrow(/2 data-parallel ranks, the configuration says 3/);
});
