import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, it, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import { FakeTransferHost, transferTransportContract } from '@armature/contracts/testing/transfer-transport';
import { descriptors } from '../descriptors.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import type { TcpEndpoint } from './tcp-endpoint.ts';
import { TcpTransport } from './tcp-transport.ts';
import type { TlsConfig } from './tls.ts';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'nixel-tls-'));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));
const openssl = (...words: string[]): Buffer => execFileSync('openssl', words, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });

/** Two authorities, and certificates of both; made here because they expire. */
function certificates(): boolean {
  try {
    for (const ca of ['ca', 'other']) openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', `${ca}.key`, '-out', `${ca}.pem`, '-subj', `/CN=${ca}`, '-days', '2');
    fs.writeFileSync(path.join(folder, 'names'), 'subjectAltName=DNS:kv.example,IP:127.0.0.1\n');
    for (const [name, ca, days] of [['good', 'ca', '2'], ['foreign', 'other', '2'], ['expired', 'ca', '-1']] as const) {
      openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`);
      openssl('x509', '-req', '-in', `${name}.csr`, '-CA', `${ca}.pem`, '-CAkey', `${ca}.key`, '-CAcreateserial', '-out', `${name}.pem`, '-days', days, '-extfile', 'names');
    }
    return true;
  } catch (error) {
    console.log(`TLS tests left out: openssl cannot make certificates here (${String(error).split('\n')[0]})`);
    return false;
  }
}

const file = (name: string): string => path.join(folder, name);
const config = (name: string, more: TlsConfig = {}): TlsConfig => ({ certFile: file(`${name}.pem`), keyFile: file(`${name}.key`), caFile: file('ca.pem'), ...more });
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function pair(here: TlsConfig, there: TlsConfig) {
  const [a, b] = [new FakeTransferHost('a'), new FakeTransferHost('owner')];
  const [mine, theirs] = [a.add(1 << 20), b.add(1 << 20)];
  theirs.bytes.fill(7);
  const log = recordingLogger();
  const [from, to] = await Promise.all([
    new TcpTransport({ clock: realClock, log, tls: here }).open(a) as Promise<TcpEndpoint>,
    new TcpTransport({ clock: realClock, log: recordingLogger(), tls: there }).open(b) as Promise<TcpEndpoint>,
  ]);
  closers.push(() => from.close(), () => to.close());
  from.connect({ name: 'owner', incarnation: 'owner-1', metadata: to.metadata(), segments: new Map() });
  const columns = descriptors([{ segment: 1, offset: 0, length: 1 << 20 }]);
  const read = (): Promise<number> => new Promise((resolve) => from.post({ op: 'read', peer: 'owner', local: columns, remote: columns, bytes: 1 << 20 }, undefined, resolve));
  const codes = (): unknown[] => log.lines.filter(({ level }) => level === 'warn').map(({ fields }) => (fields as { code?: string }).code);
  return { mine, from, to, read, codes };
}

if (!certificates()) test('TLS tests left out, see the line above', () => undefined);
else {
  describe('tcp with TLS', () => {
    transferTransportContract({ runner: { describe, it }, opens: 100, create: () => new TcpTransport({ clock: realClock, log: recordingLogger(), token: 't', tls: config('good') }) });

    test('certificates both ways; payload is copied, a counter says so', async () => {
      const { mine, from, read } = await pair(config('good'), config('good'));
      expect(await read()).toBe(TransferStatus.Done);
      expect(mine.bytes.every((byte) => byte === 7)).toBe(true);
      expect(from.received).toEqual({ directBytes: 0, copiedBytes: 1 << 20 });
    });

    test.each([
      ['expired', config('good'), config('expired', { mutual: false })],
      ['of another authority', config('good'), config('foreign', { mutual: false })],
      ['for another name', config('good', { serverName: 'else.example' }), config('good')],
    ])("an owner's certificate that is %s is refused with a code", async (_name, here, there) => {
      const { mine, read, codes } = await pair(here, there);
      expect(await read()).toBe(TransferStatus.RemoteDisconnected);
      expect(codes()).toContain('TRANSFER_TLS_FAILED');
      expect(mine.bytes.some((byte) => byte === 7)).toBe(false);
    });

    test("an initiator's certificate of another authority is refused by the owner", async () => {
      const { to, read } = await pair(config('foreign'), config('good'));
      expect(await read()).toBe(TransferStatus.RemoteDisconnected);
      expect(to.refused.get('TRANSFER_TLS_FAILED')).toBeGreaterThan(0);
    });

    test('the name of the certificate may be another than the address', async () => {
      const { read } = await pair(config('good', { serverName: 'kv.example' }), config('good'));
      expect(await read()).toBe(TransferStatus.Done);
    });

    test('never in the clear to one side only', async () => {
      const { from } = await pair(config('good'), config('good'));
      expect(from.canReach({ host: '127.0.0.1', port: 1 })).toBe(false);
      expect(from.canReach({ host: '127.0.0.1', port: 1, tls: true })).toBe(true);
    });

    test('a missing file is a coded error at open', async () => {
      const open = new TcpTransport({ clock: realClock, log: recordingLogger(), tls: config('nothing') }).open(new FakeTransferHost('a'));
      await expect(open).rejects.toMatchObject({ code: 'TRANSFER_TLS_INVALID' });
    });
  });
}
