import { createHash, createHmac } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach } from 'vitest';

/** What a test makes of a request instead of the right answer. */
export type Fault =
  | { readonly answer: number; readonly code?: string; readonly headers?: Record<string, string> }
  /** Nothing is ever answered. */
  | 'hang'
  | 'reset'
  /** The right head and the first bytes of the body; then the connection breaks. */
  | { readonly breakAfter: number }
  | { readonly delayMs: number }
  /** The whole object, whatever range was asked for. */
  | 'whole';

export interface StoredObject {
  body: Buffer;
  meta: Record<string, string>;
}

interface Seen {
  readonly method: string;
  readonly key: string;
  readonly headers: IncomingMessage['headers'];
}

export const ACCESS = 'AKIDTEST';
export const SECRET = 'secret/of+tests';

/** A strict S3 with one bucket: checks signatures, dates, lengths and conditions with code of its own, and fails on demand. */
export class S3Double {
  readonly objects = new Map<string, StoredObject>();
  readonly seen: Seen[] = [];
  /** Asked before every answer. */
  fault: (request: Seen, index: number) => Fault | undefined = () => undefined;
  wallMs: () => number = Date.now;
  bucket = 'kv';
  sessionToken = '';
  /** Hexadecimal hashes are demanded. */
  demandsSignedPayload = false;
  readonly refusedSignatures: string[] = [];
  readonly #server: Server;

  constructor() {
    this.#server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => void this.#handle(request, response));
  }

  async listen(port = 0): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(port, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  count(method: string): number {
    return this.seen.filter((request) => request.method === method).length;
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request) chunks.push(chunk as Buffer);
    } catch {
      return; // the client left
    }
    const body = Buffer.concat(chunks);
    const url = new URL(request.url!, 'http://x');
    const [, bucket, ...rest] = decodeURIComponent(url.pathname).split('/');
    const seen: Seen = { method: request.method!, key: rest.join('/'), headers: request.headers };
    this.seen.push(seen);
    const fault = this.fault(seen, this.seen.length - 1);
    if (fault === 'hang') return;
    if (fault === 'reset') return void request.socket.destroy();
    if (typeof fault === 'object' && 'delayMs' in fault) await new Promise((resolve) => setTimeout(resolve, fault.delayMs));
    if (typeof fault === 'object' && 'answer' in fault) return this.#error(response, fault.answer, fault.code ?? 'InternalError', fault.headers, seen.method);
    const problem = this.#authProblem(request, url, body);
    if (problem !== undefined) return this.#error(response, 403, problem, {}, seen.method);
    if (bucket !== this.bucket) return this.#error(response, 404, 'NoSuchBucket', {}, seen.method);
    this.#object(seen, body, response, fault);
  }

  #object(seen: Seen, body: Buffer, response: ServerResponse, fault: Fault | undefined): void {
    const { method, key, headers } = seen;
    const object = this.objects.get(key);
    if (method === 'PUT') {
      if (headers['content-length'] === undefined) return this.#error(response, 411, 'MissingContentLength');
      if (headers['if-none-match'] === '*' && object !== undefined) return this.#error(response, 412, 'PreconditionFailed');
      const meta = Object.fromEntries(Object.entries(headers).filter(([name]) => name.startsWith('x-amz-meta-')) as [string, string][]);
      this.objects.set(key, { body, meta });
      return void response.writeHead(200, this.#head({ 'content-length': '0' })).end();
    }
    if (method === 'DELETE') {
      this.objects.delete(key);
      return void response.writeHead(204, this.#head({})).end();
    }
    if (object === undefined) return this.#error(response, 404, 'NoSuchKey', {}, method);
    const range = fault === 'whole' ? null : /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '');
    const start = range === null ? 0 : Number(range[1]);
    if (start >= object.body.length) return this.#error(response, 416, 'InvalidRange');
    const part = object.body.subarray(start, range === null ? undefined : Number(range[2]) + 1);
    const fields = { 'content-length': String(part.length), ...object.meta, ...(range === null ? {} : { 'content-range': `bytes ${start}-${start + part.length - 1}/${object.body.length}` }) };
    response.writeHead(range === null ? 200 : 206, this.#head(fields));
    if (method === 'HEAD') return void response.end();
    if (typeof fault !== 'object' || !('breakAfter' in fault)) return void response.end(part);
    response.write(part.subarray(0, fault.breakAfter), () => setTimeout(() => response.socket?.destroy(), 20));
  }

  #head(fields: Record<string, string>): Record<string, string> {
    return { ...fields, date: new Date(this.wallMs()).toUTCString() };
  }

  #error(response: ServerResponse, status: number, code: string, headers: Record<string, string> = {}, method = 'GET'): void {
    response.writeHead(status, this.#head({ ...headers, 'content-type': 'application/xml' }));
    response.end(method === 'HEAD' ? undefined : `<?xml version="1.0"?><Error><Code>${code}</Code><Message>made by a test</Message></Error>`);
  }

  /** Written from the specification, not from the code under test. */
  #authProblem(request: IncomingMessage, url: URL, body: Buffer): string | undefined {
    const match = /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$/.exec(request.headers.authorization ?? '');
    if (match === null) return 'AccessDenied';
    const [, access, day, region, names, signature] = match as unknown as [string, string, string, string, string, string];
    if (access !== ACCESS) return 'InvalidAccessKeyId';
    const date = request.headers['x-amz-date'] as string;
    const at = Date.parse(date.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, '$1-$2-$3T$4:$5:$6Z'));
    if (Math.abs(at - this.wallMs()) > 900_000) return 'RequestTimeTooSkewed';
    if ((request.headers['x-amz-security-token'] ?? '') !== this.sessionToken) return 'ExpiredToken';
    for (const name of Object.keys(request.headers)) if ((name === 'host' || name.startsWith('x-amz-')) && !names.split(';').includes(name)) return 'AccessDenied';
    const payload = request.headers['x-amz-content-sha256'] as string;
    const real = createHash('sha256').update(body).digest('hex');
    if (payload !== real && (payload !== 'UNSIGNED-PAYLOAD' || this.demandsSignedPayload)) return 'XAmzContentSHA256Mismatch';
    const query = [...url.searchParams].map(([k, v]) => `${encodeURIComponent(k)}=${encodeURIComponent(v)}`).sort().join('&');
    const lines = names.split(';').map((name) => `${name}:${request.headers[name] as string}\n`).join('');
    const canonical = `${request.method}\n${url.pathname}\n${query}\n${lines}\n${names}\n${payload}`;
    const hmac = (key: string | Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest();
    const key = hmac(hmac(hmac(hmac(`AWS4${SECRET}`, day), region), 's3'), 'aws4_request');
    const expected = hmac(key, `AWS4-HMAC-SHA256\n${date}\n${day}/${region}/s3/aws4_request\n${createHash('sha256').update(canonical).digest('hex')}`).toString('hex');
    if (expected === signature) return undefined;
    this.refusedSignatures.push(canonical);
    return 'SignatureDoesNotMatch';
  }
}

const doubles: S3Double[] = [];
afterEach(async () => {
  await Promise.all(doubles.splice(0).map((double) => double.close()));
});

/** A listening double, closed after the test. */
export async function s3Double(): Promise<{ double: S3Double; endpoint: string }> {
  const double = new S3Double();
  doubles.push(double);
  return { double, endpoint: await double.listen() };
}
