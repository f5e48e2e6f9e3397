import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { realClock } from '@armature/contracts/testing/real-clock';
import { afterAll } from 'vitest';
import type { S3TierConfig } from './config.ts';
import { bucketAddress } from './endpoint.ts';
import { S3Client } from './s3-client.ts';
import { configOf, seeded } from './testing.test.support.ts';

// The real server of `npm run test:s3` (tools/test-s3.mjs names it in the environment): started, killed and started again over the same folder.

const ACCESS = 'armature';
const SECRET = 'armature-tests-only';
const BUCKET = 'kv-blocks';
const kind = process.env['ARMATURE_S3_KIND']!;
const running = new Set<ChildProcess>();
afterAll(() => {
  for (const child of running) child.kill('SIGKILL');
});

export const isVersitygw = kind === 'versitygw';

export class RealServer {
  readonly port: number;
  readonly #folder: string;
  #child: ChildProcess | undefined;

  private constructor(port: number, folder: string) {
    this.port = port;
    this.#folder = folder;
    this.#child = undefined;
  }

  /** With an empty bucket. */
  static async start(): Promise<RealServer> {
    const server = new RealServer(await freePort(), mkdtempSync(join(process.env['ARMATURE_S3_FOLDER']!, 'server-')));
    if (isVersitygw) mkdirSync(join(server.#folder, BUCKET));
    await server.up();
    if (!isVersitygw) await server.client().call({ method: 'PUT', key: '', deadlineMs: realClock.nowMs() + 20_000 });
    return server;
  }

  config(more: Partial<S3TierConfig> = {}): S3TierConfig {
    return configOf(`http://127.0.0.1:${this.port}`, { bucket: BUCKET, accessKeyId: ACCESS, secretAccessKey: SECRET, ...more });
  }

  client(): S3Client {
    return new S3Client({
      address: bucketAddress(this.config(), {}),
      connections: 8,
      requestTimeoutMs: 20_000,
      signPayload: false,
      credentials: () => ({ accessKeyId: ACCESS, secretAccessKey: SECRET }),
      clock: realClock,
      random: seeded(1),
    });
  }

  async up(): Promise<void> {
    const words = isVersitygw ? ['--port', `127.0.0.1:${this.port}`, 'posix', this.#folder] : ['-H', '127.0.0.1', '-p', String(this.port)];
    const child = spawn(process.env['ARMATURE_S3_PROGRAM']!, words, { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, ROOT_ACCESS_KEY: ACCESS, ROOT_SECRET_KEY: SECRET } });
    running.add(child);
    this.#child = child;
    let complaint = '';
    child.stderr!.on('data', (data: Buffer) => (complaint = `${complaint}${data.toString()}`.slice(-2000)));
    for (let tries = 0; tries < 600; tries++) {
      if (child.exitCode !== null) throw new Error(`${kind} ended: ${complaint}`);
      if (await accepts(this.port)) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${kind} did not come up: ${complaint}`);
  }

  /** SIGKILL; resolves when the process is gone. */
  async kill(): Promise<void> {
    const child = this.#child!;
    running.delete(child);
    await new Promise((resolve) => {
      child.once('exit', resolve);
      child.kill('SIGKILL');
    });
  }
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    const end = (isUp: boolean): void => {
      socket.destroy();
      resolve(isUp);
    };
    socket.once('connect', () => end(true)).once('error', () => end(false));
  });
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer();
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}
