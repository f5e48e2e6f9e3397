import { createHash, createHmac } from 'node:crypto';

/** What a signature is made of. `path` is encoded already; `headers` have lower-case names, `host` among them, and are all signed. */
export interface SignInput {
  readonly method: string;
  readonly path: string;
  readonly query: readonly (readonly [string, string])[];
  readonly headers: Readonly<Record<string, string>>;
  /** Hexadecimal SHA-256 of the body, or `UNSIGNED-PAYLOAD`. */
  readonly payloadHash: string;
  readonly wallMs: number;
}

export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

export const UNSIGNED_PAYLOAD = 'UNSIGNED-PAYLOAD';
export const EMPTY_SHA256 = createHash('sha256').digest('hex');

const RESERVED = /[!'()*]/g;

/** RFC 3986: everything but letters, digits and `-._~` as `%XX`. */
export function encodeStrict(text: string): string {
  return encodeURIComponent(text).replace(RESERVED, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** `a=b&c=` in the order that the signature wants: what also goes into the URL. */
export function canonicalQuery(query: SignInput['query']): string {
  return query
    .map(([name, value]) => `${encodeStrict(name)}=${encodeStrict(value)}`)
    .sort()
    .join('&');
}

/** AWS Signature Version 4 of one region and service, in headers. The signing key of a day is kept. */
export class SigV4Signer {
  readonly #region: string;
  readonly #service: string;
  #key: Buffer;
  #keyOf: string;

  constructor(region: string, service = 's3') {
    this.#region = region;
    this.#service = service;
    this.#key = Buffer.alloc(0);
    this.#keyOf = '';
  }

  /** The headers to send: those given, the date, the payload hash, the session token and `authorization`. */
  sign(input: SignInput, credentials: Credentials): Record<string, string> {
    const stamp = new Date(input.wallMs).toISOString().replace(/[-:]|\.\d{3}/g, '');
    const day = stamp.slice(0, 8);
    const headers: Record<string, string> = { ...input.headers, 'x-amz-content-sha256': input.payloadHash, 'x-amz-date': stamp };
    if (credentials.sessionToken !== undefined) headers['x-amz-security-token'] = credentials.sessionToken;
    const names = Object.keys(headers).sort();
    const signed = names.join(';');
    const lines = names.map((name) => `${name}:${headers[name]!.trim().replace(/ +/g, ' ')}\n`).join('');
    const canonical = [input.method, input.path, canonicalQuery(input.query), lines, signed, input.payloadHash].join('\n');
    const scope = `${day}/${this.#region}/${this.#service}/aws4_request`;
    const text = ['AWS4-HMAC-SHA256', stamp, scope, createHash('sha256').update(canonical).digest('hex')].join('\n');
    const signature = createHmac('sha256', this.#signingKey(day, credentials.secretAccessKey)).update(text).digest('hex');
    headers['authorization'] = `AWS4-HMAC-SHA256 Credential=${credentials.accessKeyId}/${scope}, SignedHeaders=${signed}, Signature=${signature}`;
    return headers;
  }

  #signingKey(day: string, secret: string): Buffer {
    const of = `${day}\n${secret}`;
    if (this.#keyOf !== of) {
      const parts = [day, this.#region, this.#service, 'aws4_request'];
      this.#key = parts.reduce((key, part) => createHmac('sha256', key).update(part).digest(), Buffer.from(`AWS4${secret}`));
      this.#keyOf = of;
    }
    return this.#key;
  }
}
