import { describe, expect, it } from 'vitest';
import { ArmatureError } from '@armature/contracts';
import { parseProfiles, resolveCredentials } from './credentials.ts';
import type { CredentialConfig, CredentialSources } from './credentials.ts';
import { bucketAddress, keyPath } from './endpoint.ts';
import { keyFolder, MAX_BLOCKS_PER_OBJECT } from './format.ts';
import { s3Tier } from './plugin.ts';

const none: CredentialConfig = { accessKeyId: '', secretAccessKey: '', sessionToken: '', profile: '' };
const file = '# comment\n[default]\naws_access_key_id = DEF\naws_secret_access_key=s/e=c\n\n[profile work]\r\nAWS_ACCESS_KEY_ID = WORK\r\naws_secret_access_key = w\r\naws_session_token = tok\r\n';
const sources = (env: Record<string, string> = {}, files: Record<string, string> = { '/home/u/.aws/credentials': file }): CredentialSources => ({ env, home: '/home/u', read: (path) => files[path] });
const codeOf = (run: () => unknown): string => {
  try {
    run();
    return 'nothing thrown';
  } catch (error) {
    return ArmatureError.from(error).code;
  }
};

describe('credentials', () => {
  it('come from config, then environment, then the file', () => {
    const env = { AWS_ACCESS_KEY_ID: 'ENV', AWS_SECRET_ACCESS_KEY: 'e', AWS_SESSION_TOKEN: 't' };
    expect(resolveCredentials({ ...none, accessKeyId: 'CFG', secretAccessKey: 'c' }, sources(env))).toEqual({ accessKeyId: 'CFG', secretAccessKey: 'c' });
    expect(resolveCredentials(none, sources(env))).toEqual({ accessKeyId: 'ENV', secretAccessKey: 'e', sessionToken: 't' });
    expect(resolveCredentials(none, sources())).toEqual({ accessKeyId: 'DEF', secretAccessKey: 's/e=c' });
    expect(resolveCredentials(none, sources({ AWS_PROFILE: 'work' }))).toEqual({ accessKeyId: 'WORK', secretAccessKey: 'w', sessionToken: 'tok' });
    expect(resolveCredentials({ ...none, profile: 'work' }, sources(env)).accessKeyId).toBe('WORK');
    expect(resolveCredentials(none, sources({ AWS_SHARED_CREDENTIALS_FILE: '/x' }, { '/x': file })).accessKeyId).toBe('DEF');
  });

  it('are demanded with a code', () => {
    expect(codeOf(() => resolveCredentials(none, sources({}, {})))).toBe('KVBM_S3_NO_CREDENTIALS');
    expect(codeOf(() => resolveCredentials({ ...none, profile: 'gone' }, sources({ AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b' })))).toBe('KVBM_S3_NO_CREDENTIALS');
    expect(parseProfiles('aws_access_key_id = stray\n[a\nx').size).toBe(0);
  });
});

describe('where the bucket is', () => {
  const address = (endpoint: string, addressing: 'auto' | 'path' | 'virtual' = 'auto', bucket = 'kv', env = {}) => bucketAddress({ bucket, endpoint, region: '', addressing }, env);
  it('path for endpoints, virtual for AWS', () => {
    expect(address('http://127.0.0.1:7070')).toEqual({ origin: 'http://127.0.0.1:7070', host: '127.0.0.1:7070', basePath: '/kv', isPrivate: true, region: 'us-east-1' });
    expect(address('')).toMatchObject({ origin: 'https://kv.s3.us-east-1.amazonaws.com', basePath: '', isPrivate: true });
    expect(address('', 'auto', 'a.b')).toMatchObject({ origin: 'https://s3.us-east-1.amazonaws.com', basePath: '/a.b' });
    expect(address('https://s3.example.org/base/', 'virtual')).toMatchObject({ host: 'kv.s3.example.org', basePath: '/base' });
    expect(address('', 'path', 'kv', { AWS_REGION: 'eu-west-1' })).toMatchObject({ origin: 'https://s3.eu-west-1.amazonaws.com', region: 'eu-west-1' });
    expect(address('', 'auto', 'kv', { AWS_ENDPOINT_URL_S3: 'http://minio:9000' })).toMatchObject({ origin: 'http://minio:9000', isPrivate: false });
    expect(keyPath(address('http://h:1'), 'a/b c+')).toBe('/kv/a/b%20c%2B');
  });
  it('refuses what is none', () => {
    for (const endpoint of ['nonsense', 'ftp://h', 'http://h/?x=1', 'http://u:p@h']) expect(codeOf(() => address(endpoint))).toBe('KVBM_S3_CONFIG_INVALID');
    expect(codeOf(() => address('http://127.0.0.1:1', 'virtual'))).toBe('KVBM_S3_CONFIG_INVALID');
  });
  it('names that are no plain names are hashed, and never meet a plain one', () => {
    expect(keyFolder('/p/', 'model-1', 'l')).toBe('p/model-1/l/');
    const folders = ['a/b', '../x', '', 'é', 'x'.repeat(65), 'sha-1'].map((name) => keyFolder('', name, 'l'));
    expect(new Set(folders).size).toBe(6);
    for (const folder of folders) expect(folder).toMatch(/^sha-[0-9a-f]{32}\/l\/$/);
  });
});

describe('descriptor', () => {
  it('has a description for each field, a default for each that is not required, and secrets marked', () => {
    const { properties, required } = s3Tier.configSchema as { properties: Record<string, Record<string, unknown>>; required: string[] };
    for (const [name, field] of Object.entries(properties)) {
      expect([name, typeof field['description']]).toEqual([name, 'string']);
      expect([name, 'default' in field]).toEqual([name, !required.includes(name)]);
    }
    expect(Object.keys(properties).filter((name) => properties[name]!['x-secret'])).toEqual(['secretAccessKey', 'sessionToken']);
    // The chain goes into one metadata header, which S3 limits to 2 KiB with its name.
    expect(Math.ceil((MAX_BLOCKS_PER_OBJECT * 8 * 4) / 3)).toBeLessThan(2048 - 64);
  });
});
