import { describe, expect, it } from 'vitest';
import { createHash } from 'node:crypto';
import { encodeStrict, EMPTY_SHA256, SigV4Signer } from './sigv4.ts';

// "Signature Calculations for the Authorization Header", Amazon S3 API Reference: the four published examples.
const credentials = { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY' };
const wallMs = Date.UTC(2013, 4, 24);
const host = 'examplebucket.s3.amazonaws.com';

function signature(method: string, path: string, query: [string, string][], headers: Record<string, string>, payloadHash: string): string {
  const signed = new SigV4Signer('us-east-1').sign({ method, path, query, headers: { host, ...headers }, payloadHash, wallMs }, credentials);
  return /Signature=(\w+)$/.exec(signed['authorization']!)![1]!;
}

describe('AWS Signature Version 4', () => {
  it('signs the published examples as published', () => {
    expect(signature('GET', '/test.txt', [], { range: 'bytes=0-9' }, EMPTY_SHA256)).toBe('f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41');
    const body = createHash('sha256').update('Welcome to Amazon S3.').digest('hex');
    const put = { date: 'Fri, 24 May 2013 00:00:00 GMT', 'x-amz-storage-class': 'REDUCED_REDUNDANCY' };
    expect(signature('PUT', `/${encodeStrict('test$file.text')}`, [], put, body)).toBe('98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd');
    expect(signature('GET', '/', [['lifecycle', '']], {}, EMPTY_SHA256)).toBe('fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543');
    expect(signature('GET', '/', [['max-keys', '2'], ['prefix', 'J']], {}, EMPTY_SHA256)).toBe('34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7');
  });

  it('signs each part: any change gives another signature', () => {
    const base = signature('GET', '/a', [], {}, EMPTY_SHA256);
    const others = [signature('PUT', '/a', [], {}, EMPTY_SHA256), signature('GET', '/b', [], {}, EMPTY_SHA256), signature('GET', '/a', [['x', '']], {}, EMPTY_SHA256), signature('GET', '/a', [], { range: 'x' }, EMPTY_SHA256), signature('GET', '/a', [], {}, 'UNSIGNED-PAYLOAD')];
    expect(new Set([base, ...others]).size).toBe(6);
  });

  it('takes a new key when the day or the secret changes, and carries the session token', () => {
    const signer = new SigV4Signer('eu-central-1');
    const input = { method: 'GET', path: '/', query: [], headers: { host }, payloadHash: EMPTY_SHA256, wallMs };
    const first = signer.sign(input, credentials)['authorization'];
    expect(signer.sign({ ...input, wallMs: wallMs + 86_400_000 }, credentials)['authorization']).toContain('20130525/eu-central-1/s3/aws4_request');
    expect(signer.sign(input, { ...credentials, secretAccessKey: 'other' })['authorization']).not.toBe(first);
    expect(signer.sign(input, credentials)['authorization']).toBe(first);
    const withToken = signer.sign(input, { ...credentials, sessionToken: 'token' });
    expect(withToken['x-amz-security-token']).toBe('token');
    expect(withToken['authorization']).toContain('SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token');
  });

  it('encodes by RFC 3986', () => {
    expect(encodeStrict("a b!*'()/é~-._")).toBe('a%20b%21%2A%27%28%29%2F%C3%A9~-._');
  });
});
