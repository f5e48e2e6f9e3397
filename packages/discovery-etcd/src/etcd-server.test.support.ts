import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const binary = process.env['ARMATURE_ETCD'] ?? 'etcd';

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

export interface ServerTls {
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
}

/** A real etcd on loopback with a folder of its own. */
export class EtcdServer {
  readonly endpoint: string;
  readonly #peerPort: number;
  readonly #folder = mkdtempSync(path.join(os.tmpdir(), 'armature-etcd-'));
  readonly #tls: ServerTls | undefined;
  #child: ChildProcess | undefined = undefined;

  constructor(port: number, peerPort: number, tls?: ServerTls) {
    this.#peerPort = peerPort;
    this.#tls = tls;
    this.endpoint = `${tls === undefined ? 'http' : 'https'}://127.0.0.1:${port}`;
  }

  static async make(tls?: ServerTls): Promise<EtcdServer> {
    const server = new EtcdServer(await freePort(), await freePort(), tls);
    await server.start();
    return server;
  }

  async start(): Promise<void> {
    const peer = `http://127.0.0.1:${this.#peerPort}`;
    const tls = this.#tls === undefined ? [] : ['--cert-file', this.#tls.certFile, '--key-file', this.#tls.keyFile, '--trusted-ca-file', this.#tls.caFile, '--client-cert-auth'];
    const words = ['--data-dir', this.#folder, '--listen-client-urls', this.endpoint, '--advertise-client-urls', this.endpoint];
    const peers = ['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer, '--initial-cluster', `default=${peer}`];
    this.#child = spawn(binary, [...words, ...peers, ...tls], { stdio: ['ignore', 'ignore', 'pipe'] });
    let log = '';
    this.#child.stderr?.on('data', (piece: Buffer) => (log = (log + piece.toString()).slice(-4000)));
    const giveUpAt = Date.now() + 60_000;
    for (;;) {
      if (this.#child.exitCode !== null) throw new Error(`etcd ended with ${this.#child.exitCode}: ${log}`);
      if (await this.ctl('endpoint', 'health', '--command-timeout=2s').then(() => true, (error: Error) => /authentication|user name|permission/i.test(error.message))) return;
      if (Date.now() > giveUpAt) throw new Error(`etcd does not answer: ${log}`);
    }
  }

  async ctl(...words: string[]): Promise<string> {
    const tls = this.#tls === undefined ? [] : ['--cacert', this.#tls.caFile, '--cert', this.#tls.certFile, '--key', this.#tls.keyFile];
    return (await run('etcdctl', [`--endpoints=${this.endpoint}`, ...tls, ...words], { env: { ...process.env, ETCDCTL_API: '3' }, timeout: 30_000 })).stdout;
  }

  /** kill -9 */
  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }

  wipe(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }

  freeze(): void {
    this.#child?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#child?.kill('SIGCONT');
  }

  async remove(): Promise<void> {
    await this.kill();
    this.wipe();
  }
}
