import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI from 'openai';
import { afterAll, describe, expect, it } from 'vitest';
import { ArmatureProcess, freePort, root } from './support/process.ts';

// The same front end over the other http-server adapter, chosen by one line of YAML.
describe('frontend over uWebSockets.js', () => {
  const folder = mkdtempSync(join(tmpdir(), 'armature-uws-'));
  let server: ArmatureProcess | undefined;
  afterAll(async () => {
    if (server?.child.exitCode === null) await server.stop('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });

  it('streams and ends cleanly', async () => {
    const port = await freePort();
    const file = join(folder, 'uws.yaml');
    const yaml = readFileSync(`${root}deploy/aggregated.yaml`, 'utf8')
      .replace('    port: ${ARMATURE_PORT:-8000}', `    port: ${port}\n    server: { use: uws }`)
      .replace('"@armature/model-demo"', JSON.stringify(`${root}packages/model-demo/model`));
    expect(yaml).toContain('use: uws');
    writeFileSync(file, yaml);
    server = new ArmatureProcess(['serve', '-f', file], { ARMATURE_ADMIN_PORT: '0' });
    await server.until('Ctrl-C stops');
    const client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: 'none' });
    let text = '';
    for await (const chunk of await client.chat.completions.create({ model: 'demo', messages: [{ role: 'user', content: 'Hello!' }], temperature: 0, stream: true })) {
      text += chunk.choices[0]?.delta.content ?? '';
    }
    expect(text).toBe('Hello! How can I help you?');
    const ended = await server.stop('SIGINT');
    expect(ended.code).toBe(0);
    expect(ended.stderr).not.toContain('HTTP_UWS_UNAVAILABLE');
  }, 60_000);
});
