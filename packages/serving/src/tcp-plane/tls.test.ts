import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { tlsMaterial } from '@armature/nixel';
import { requestPlaneContract } from '@armature/contracts/testing/request-plane';
import { afterAll, afterEach, describe, expect, it, test } from 'vitest';
import type { ErrorData, PlaneMessage, StreamSink } from '@armature/contracts';
import type { TcpRequestPlane, TcpRequestPlaneOptions } from './tcp-request-plane.ts';
import { makePlane } from './test-planes.test.support.ts';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'armature-plane-tls-'));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));
const openssl = (...words: string[]): Buffer => execFileSync('openssl', words, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });

/** Two authorities, and certificates of both; made here because they expire. */
function certificates(): boolean {
  try {
    for (const ca of ['ca', 'other']) openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', `${ca}.key`, '-out', `${ca}.pem`, '-subj', `/CN=${ca}`, '-days', '2');
    fs.writeFileSync(path.join(folder, 'names'), 'subjectAltName=DNS:plane.example,IP:127.0.0.1\n');
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
const material = (name: string, more: object = {}): Pick<TcpRequestPlaneOptions, 'tls'> => ({
  tls: tlsMaterial({ certFile: file(`${name}.pem`), keyFile: file(`${name}.key`), caFile: file('ca.pem'), ...more }, { prefix: 'PLANE', what: 'the plane' }),
});
const planes: TcpRequestPlane[] = [];
afterEach(async () => void (await Promise.all(planes.splice(0).map((plane) => plane.close()))));
const plane = (options: Partial<TcpRequestPlaneOptions>): TcpRequestPlane => {
  const made = makePlane(options);
  planes.push(made);
  return made;
};

/** How a stream from one plane to the other ends: `echoed`, or the code of its error. */
async function call(from: Partial<TcpRequestPlaneOptions>, to: Partial<TcpRequestPlaneOptions>): Promise<string> {
  const here = plane(from);
  const there = plane(to);
  const ended: StreamSink = { message: () => undefined, closed: () => undefined };
  const { address } = await there.serve('echo', (open, stream) => {
    stream.send(open.message);
    stream.close();
    return ended;
  });
  return new Promise((resolve) => {
    let echoed: PlaneMessage | undefined;
    here.open(address, { method: 'm', message: { type: 'hello' }, deadlineMs: 5000 }, {
      message: (message) => (echoed = message),
      closed: (error: ErrorData | undefined) => resolve(error?.code ?? (echoed?.type === 'hello' ? 'echoed' : 'nothing')),
    });
  });
}

if (!certificates()) test('TLS tests left out, see the line above', () => undefined);
else {
  requestPlaneContract({ runner: { describe, it }, create: () => makePlane(material('good')) });

  describe('who is not let in', () => {
    it.each([
      ['both good', 'good', 'good', 'echoed'],
      ['a dialler of another authority', 'foreign', 'good', 'refused'],
      ['a listener of another authority', 'good', 'foreign', 'PLANE_TLS_FAILED'],
      ['an expired listener', 'good', 'expired', 'PLANE_TLS_FAILED'],
      ['an expired dialler', 'expired', 'good', 'refused'],
    ])('%s', async (_name, from, to, outcome) => {
      const code = await call(material(from), material(to));
      if (outcome !== 'refused') expect(code).toBe(outcome);
      else expect(['PLANE_TLS_FAILED', 'PLANE_UNREACHABLE', 'PLANE_DISCONNECTED']).toContain(code);
    });

    it('a dialler without certificates, and one in the clear', async () => {
      expect(await call({}, material('good'))).toMatch(/^PLANE_(UNREACHABLE|DISCONNECTED|TLS_FAILED)$/);
      expect(await call(material('good'), {})).toMatch(/^PLANE_(UNREACHABLE|DISCONNECTED|TLS_FAILED)$/);
    });

    it('a certificate for another name; one for the name that is expected', async () => {
      expect(await call(material('good', { serverName: 'elsewhere.example' }), material('good'))).toBe('PLANE_TLS_FAILED');
      expect(await call(material('good', { serverName: 'plane.example' }), material('good'))).toBe('echoed');
    });

    it('the wrong token, though the certificate is good', async () => {
      expect(await call({ ...material('good'), token: 'wrong' }, material('good'))).toBe('PLANE_AUTH_FAILED');
    });
  });

  it('says which file is wrong', () => {
    expect(() => material('missing')).toThrow(expect.objectContaining({ code: 'PLANE_TLS_INVALID', message: expect.stringContaining('missing.pem') as string }));
    expect(() => material('good', { keyFile: file('foreign.key') })).toThrow(expect.objectContaining({ code: 'PLANE_TLS_INVALID' }));
  });
}

describe('versions of the frames', () => {
  it('one release apart works, in both directions', async () => {
    const older = { protocols: { oldest: 1, newest: 1 } };
    const newer = { protocols: { oldest: 1, newest: 2 } };
    expect([await call(older, newer), await call(newer, older), await call(newer, newer)]).toEqual(['echoed', 'echoed', 'echoed']);
  });

  it('two releases apart is refused, with both ranges in the message', async () => {
    const oldest = { protocols: { oldest: 1, newest: 1 } };
    const newest = { protocols: { oldest: 2, newest: 3 } };
    expect([await call(oldest, newest), await call(newest, oldest)]).toEqual(['PLANE_PROTOCOL_MISMATCH', 'PLANE_PROTOCOL_MISMATCH']);
  });
});
