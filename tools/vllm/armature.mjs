// `armature serve` as its own process, and the official client.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import OpenAI from 'openai';
import { sumOf, until } from './check.mjs';
import { Child, freePort } from './processes.mjs';

const bin = fileURLToPath(new URL('../../packages/cli/bin/armature.js', import.meta.url));
let started = 0;

export class Armature {
  #folder;
  #yaml;
  #child;

  /** `yaml`: everything below apiVersion, admin and frontend. */
  constructor({ folder, yaml }) {
    this.#folder = folder;
    this.#yaml = yaml;
  }

  get child() {
    return this.#child;
  }

  /** `workers`: how many must be ready. */
  async start({ workers = 1, timeoutMs = 60_000 } = {}) {
    const [port, adminPort] = [await freePort(), await freePort()];
    const name = `armature-${++started}`;
    const file = join(this.#folder, `${name}.yaml`);
    writeFileSync(file, `apiVersion: armature/v1\nadmin: { host: 127.0.0.1, port: ${adminPort} }\nfrontend: { use: openai, config: { host: 127.0.0.1, port: ${port} } }\n${this.#yaml}`);
    this.adminUrl = `http://127.0.0.1:${adminPort}`;
    this.client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: 'none', maxRetries: 0, timeout: 120_000 });
    this.#child = new Child({ name, command: process.execPath, args: [...(process.env.PROF ?? '').split(' ').filter(Boolean), bin, 'serve', '-f', file], env: { ...process.env, ARMATURE_LOG_FORMAT: 'json' }, logFile: join(this.#folder, `${name}.log`) });
    await this.#child.ready(() => this.#child.output.includes('Ctrl-C stops'), timeoutMs);
    await until(`${workers} workers are ready`, async () => (await this.get('/workers')).length >= workers, timeoutMs);
    return this;
  }

  async get(path) {
    const response = await fetch(`${this.adminUrl}${path}`);
    const text = await response.text();
    if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`);
    return path === '/metrics' ? text : JSON.parse(text);
  }

  async counter(name, labels = []) {
    return sumOf(await this.get('/metrics'), name, labels);
  }

  async stop() {
    await this.#child?.stop('SIGINT');
  }
}
