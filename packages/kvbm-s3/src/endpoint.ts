import { isIP } from 'node:net';
import { ArmatureError } from '@armature/contracts';
import type { S3TierConfig } from './config.ts';
import { encodeStrict } from './sigv4.ts';

/** Where the bucket is reached. */
export interface BucketAddress {
  /** Scheme, host and port: what connections are made to. */
  readonly origin: string;
  /** Value of the `host` header. */
  readonly host: string;
  /** Before the key, without a trailing slash: `` or `/BUCKET`. */
  readonly basePath: string;
  /** Bodies go unsigned: the way there is private (TLS or this machine). */
  readonly isPrivate: boolean;
  readonly region: string;
}

type AddressConfig = Pick<S3TierConfig, 'bucket' | 'endpoint' | 'region' | 'addressing'>;

/** Throws `KVBM_S3_CONFIG_INVALID`. */
export function bucketAddress(config: AddressConfig, env: Readonly<Record<string, string | undefined>>): BucketAddress {
  const region = firstOf(config.region, env['AWS_REGION'], env['AWS_DEFAULT_REGION']) ?? 'us-east-1';
  const given = firstOf(config.endpoint, env['AWS_ENDPOINT_URL_S3'], env['AWS_ENDPOINT_URL']) ?? '';
  const text = given || `https://s3.${region}.amazonaws.com`;
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.search !== '' || url.username !== '') {
    throw new ArmatureError('KVBM_S3_CONFIG_INVALID', `"${text}" is no S3 endpoint`, { hint: 'give scheme, host and port: https://s3.example.org or http://127.0.0.1:9000' });
  }
  const isLoopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname);
  const isVirtual = config.addressing === 'virtual' || (config.addressing === 'auto' && given === '' && !config.bucket.includes('.'));
  if (isVirtual && isIP(url.hostname.replace(/^\[|\]$/g, '')) !== 0) {
    throw new ArmatureError('KVBM_S3_CONFIG_INVALID', `addressing "virtual" needs a host name, the endpoint is ${url.hostname}`, { hint: 'use addressing "path", or a name that resolves for BUCKET.NAME' });
  }
  const host = isVirtual ? `${config.bucket}.${url.host}` : url.host;
  const folder = url.pathname.replace(/\/+$/, '');
  return { origin: `${url.protocol}//${host}`, host, basePath: isVirtual ? folder : `${folder}/${encodeStrict(config.bucket)}`, isPrivate: url.protocol === 'https:' || isLoopback, region };
}

/** The first that is neither absent nor empty. */
function firstOf(...values: (string | undefined)[]): string | undefined {
  return values.find((value) => value !== undefined && value !== '');
}

/** Path of a request: `key` with its slashes kept; empty for the bucket. */
export function keyPath(address: BucketAddress, key: string): string {
  return `${address.basePath}/${key.split('/').map(encodeStrict).join('/')}`;
}
