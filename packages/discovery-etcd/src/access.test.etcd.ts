import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EtcdServer, freePort } from './etcd-server.test.support.ts';
import type { ServerTls } from './etcd-server.test.support.ts';
import { discovery, factsOf, freshNamespace, Recorder, until } from './fixtures.test.support.ts';
import type { EtcdDiscoveryConfig } from './options.ts';

/** Starts a client and closes it again; what `start` threw, or undefined. */
async function startError(config: Partial<EtcdDiscoveryConfig>): Promise<unknown> {
  const instance = discovery({ startTimeoutMs: 3000, requestTimeoutMs: 1000, ...config });
  const error = await instance.start().then(() => undefined, (thrown: unknown) => thrown);
  await instance.close();
  return error;
}

describe('etcd without access control', () => {
  let server: EtcdServer;
  beforeAll(async () => void (server = await EtcdServer.make()));
  afterAll(() => server.remove());

  it('start fails with a code when no endpoint answers, and names them', async () => {
    const endpoint = `http://127.0.0.1:${await freePort()}`;
    expect(await startError({ endpoints: [endpoint], startTimeoutMs: 500 })).toMatchObject({ code: 'DISCOVERY_UNREACHABLE', message: expect.stringContaining(endpoint) });
  });

  it('start fails with a code when the server hangs', async () => {
    server.freeze();
    try {
      expect(await startError({ endpoints: [server.endpoint], startTimeoutMs: 1500, requestTimeoutMs: 500 })).toMatchObject({ code: 'DISCOVERY_UNREACHABLE' });
    } finally {
      server.thaw();
    }
  });

  it('a second cluster in the same namespace is refused; another namespace is separate', async () => {
    const namespace = freshNamespace();
    const first = discovery({ endpoints: [server.endpoint], namespace, cluster: 'red' });
    await first.start();
    await first.register('w/a', 1);
    const conflict = await startError({ endpoints: [server.endpoint], namespace, cluster: 'blue' });
    expect(conflict).toMatchObject({ code: 'DISCOVERY_CLUSTER_CONFLICT', message: expect.stringContaining('"red"') });
    expect((conflict as { hint: string }).hint).toContain('namespace');
    const other = discovery({ endpoints: [server.endpoint], namespace: freshNamespace(), cluster: 'blue' });
    const seen = new Recorder();
    await other.watch('', seen);
    await other.register('w/a', 2); // the same key, another namespace
    await until('its own entry', () => seen.lines.length === 2);
    expect(seen.lines).toEqual(['synced', 'put w/a 2']);
    await first.close();
    await other.close();
  });

  it('a value above the bound is refused with its size; one below it goes through', async () => {
    const instance = discovery({ endpoints: [server.endpoint], namespace: freshNamespace() });
    await expect(instance.register('w/big', new Uint8Array(1_100_000))).rejects.toMatchObject({ code: 'DISCOVERY_VALUE_TOO_LARGE', message: expect.stringContaining('1048576') });
    await expect(instance.register('', 1)).rejects.toMatchObject({ code: 'DISCOVERY_KEY_INVALID' });
    const registration = await instance.register('w/big', new Uint8Array(1_000_000));
    await expect(registration.update(new Uint8Array(1_100_000))).rejects.toMatchObject({ code: 'DISCOVERY_VALUE_TOO_LARGE' });
    await instance.close();
  });

  it('what etcd itself refuses as too large has the same code', async () => {
    const instance = discovery({ endpoints: [server.endpoint], namespace: freshNamespace(), maxValueBytes: 4_000_000, operationTimeoutMs: 5000 });
    await expect(instance.register('w/big', new Uint8Array(2_000_000))).rejects.toMatchObject({ code: 'DISCOVERY_VALUE_TOO_LARGE' });
    await instance.close();
  });

  it('a value that is not ours is ignored, and said', async () => {
    const namespace = freshNamespace();
    await server.ctl('put', `${namespace}entries/w/garbage`, 'hello');
    const instance = discovery({ endpoints: [server.endpoint], namespace });
    const seen = new Recorder();
    await instance.watch('w/', seen);
    expect(seen.lines).toEqual(['synced']);
    expect(factsOf(instance).lines.join()).toContain('DISCOVERY_VALUE_INVALID');
    await instance.close();
  });

  it('closing revokes the lease: all entries go at once', async () => {
    const namespace = freshNamespace();
    const owner = discovery({ endpoints: [server.endpoint], namespace });
    const reader = discovery({ endpoints: [server.endpoint], namespace });
    const seen = new Recorder();
    await reader.watch('', seen);
    await Promise.all(Array.from({ length: 40 }, (_, i) => owner.register(`w/${i}`, i, { ttlMs: 600_000 })));
    await until('all', () => seen.entries.size === 40);
    await owner.close();
    await until('none', () => seen.entries.size === 0);
    await reader.close();
  });
});

describe('etcd with users', () => {
  let server: EtcdServer;
  beforeAll(async () => {
    server = await EtcdServer.make();
    for (const words of ['user add root:secret', 'role add root', 'user grant-role root root', 'user add guest:guest', 'auth enable']) await server.ctl(...words.split(' '));
  });
  afterAll(() => server.remove());

  it('the right password works, over a restart that makes the token void too', async () => {
    const instance = discovery({ endpoints: [server.endpoint], namespace: freshNamespace(), username: 'root', password: 'secret' });
    const seen = new Recorder();
    await instance.watch('', seen);
    const registration = await instance.register('w/a', 1);
    await server.kill();
    await server.start();
    await registration.update(2);
    await until('the update', () => seen.entries.get('w/a') === 2);
    await instance.close();
  });

  it.each([
    ['a wrong password', { username: 'root', password: 'wrong' }],
    ['no user', {}],
    ['a user without the role', { username: 'guest', password: 'guest' }],
  ])('%s is refused at once', async (_name, user) => {
    const started = Date.now();
    expect(await startError({ endpoints: [server.endpoint], startTimeoutMs: 60_000, requestTimeoutMs: 10_000, ...user })).toMatchObject({ code: 'DISCOVERY_ACCESS_DENIED' });
    expect(Date.now() - started).toBeLessThan(60_000);
  });
});

describe('etcd with TLS', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'armature-etcd-tls-'));
  const file = (name: string): string => path.join(folder, name);
  const openssl = (...words: string[]): void => void execFileSync('openssl', words, { stdio: 'pipe' });
  const tls: ServerTls = { caFile: file('ca.pem'), certFile: file('cert.pem'), keyFile: file('key.pem') };
  let server: EtcdServer;
  beforeAll(async () => {
    for (const ca of ['ca', 'other-ca']) openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', file(`${ca}.key`), '-out', file(`${ca}.pem`), '-days', '2', '-subj', `/CN=${ca}`);
    openssl('req', '-newkey', 'rsa:2048', '-nodes', '-keyout', tls.keyFile, '-out', file('cert.csr'), '-subj', '/CN=etcd');
    writeFileSync(file('san'), 'subjectAltName=DNS:etcd.test,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n');
    openssl('x509', '-req', '-in', file('cert.csr'), '-CA', tls.caFile, '-CAkey', file('ca.key'), '-CAcreateserial', '-out', tls.certFile, '-days', '2', '-extfile', file('san'));
    server = await EtcdServer.make(tls);
  });
  afterAll(async () => {
    await server.remove();
    rmSync(folder, { recursive: true, force: true });
  });

  it('ca, certificate and key work, also with a server name', async () => {
    for (const serverName of ['', 'etcd.test']) expect(await startError({ endpoints: [server.endpoint], namespace: freshNamespace(), startTimeoutMs: 20_000, requestTimeoutMs: 5000, tls: { ...tls, serverName } })).toBeUndefined();
  });
  it('a foreign authority, a wrong name or no client certificate is refused with a code', async () => {
    const endpoints = [server.endpoint];
    expect(await startError({ endpoints, tls: { ...tls, caFile: file('other-ca.pem'), serverName: '' } })).toMatchObject({ code: 'DISCOVERY_TLS_FAILED' });
    expect(await startError({ endpoints, tls: { ...tls, serverName: 'elsewhere.test' } })).toMatchObject({ code: 'DISCOVERY_TLS_FAILED' });
    expect(await startError({ endpoints, tls: { ...tls, certFile: '', keyFile: '', serverName: '' } })).toMatchObject({ code: expect.stringMatching(/DISCOVERY_(TLS_FAILED|UNREACHABLE)/) });
  });
  it('a file that is not there is named', async () => {
    expect(await startError({ endpoints: [server.endpoint], tls: { ...tls, caFile: file('nowhere.pem'), serverName: '' } })).toMatchObject({ code: 'DISCOVERY_TLS_FILE_UNREADABLE', message: expect.stringContaining('nowhere.pem') });
  });
});
