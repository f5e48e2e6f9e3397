// What `vllm serve` is to its supervisor: reads its flags, says something, serves /health, dies as MODE says. Started by tests only.
import http from 'node:http';
import { spawn } from 'node:child_process';
import { appendFileSync, existsSync, writeFileSync } from 'node:fs';

const flags = process.argv.slice(2);
const flag = (name) => flags[flags.indexOf(name) + 1];
const say = (stream, line) => stream.write(`${line}\n`);
const { MODE = '', STATE = '', VLLM_API_KEY = '', VLLM_NIXL_SIDE_CHANNEL_PORT = '' } = process.env;
if (STATE !== '') {
  appendFileSync(STATE, `${process.pid}\n`);
  appendFileSync(`${STATE}.seen`, `${JSON.stringify({ flags, key: VLLM_API_KEY, sidePort: VLLM_NIXL_SIDE_CHANNEL_PORT })}\n`);
}
const ranks = flags.includes('--data-parallel-size') ? Number(flag('--data-parallel-size')) : 1;
say(process.stdout, `INFO starting ${flags.join(' ')}`);
if (MODE === 'refuse') {
  say(process.stderr, '(EngineCore pid=7) ERROR 11-23 14:02:11 [core.py:946] Traceback (most recent call last):');
  say(process.stderr, '(EngineCore pid=7) ERROR 11-23 14:02:11 [core.py:946] ValueError: No common block size for 16 (CPU_ATTN: [MultipleOf(32)])');
  say(process.stderr, 'RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}');
  process.exit(1);
}
if (MODE === 'stubborn') process.on('SIGTERM', () => say(process.stdout, 'INFO not yet'));
if (MODE === 'child') {
  const child = spawn(process.execPath, ['-e', "process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)"], { stdio: 'ignore' });
  appendFileSync(STATE, `${child.pid}\n`);
}
// As soon as the test says so.
if (MODE === 'dies-once' && !existsSync(`${STATE}.died`)) setInterval(() => {
  if (!existsSync(`${STATE}.die`)) return;
  writeFileSync(`${STATE}.died`, '');
  say(process.stderr, 'torch.OutOfMemoryError: CUDA out of memory');
  process.exit(9);
}, 10);
http
  .createServer((request, response) => {
    const json = (value) => response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
    if (request.url.startsWith('/v1/') && VLLM_API_KEY !== '' && request.headers.authorization !== `Bearer ${VLLM_API_KEY}`) response.writeHead(401).end('{"error":"Unauthorized"}');
    else if (request.url === '/v1/models') json({ object: 'list', data: [{ id: flag('--served-model-name'), root: flags[1], max_model_len: 4096 }] });
    else if (request.url === '/metrics') response.writeHead(200).end(Array.from({ length: ranks }, (_, rank) => `vllm:cache_config_info{block_size="${flag('--block-size')}",engine="${rank}",num_gpu_blocks="${64 + rank}"} 1.0\n`).join(''));
    else if (request.url === '/version') json({ version: '0.32.0' });
    else if (request.url === '/health') response.writeHead(200).end();
    else response.writeHead(404).end();
  })
  .listen(Number(flag('--port')), flag('--host'));
