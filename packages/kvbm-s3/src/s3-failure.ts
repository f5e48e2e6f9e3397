/** What went wrong with a request, and whether trying again may help. Inside this package only: rows and `degraded` are what leaves it. */
export class S3Failure extends Error {
  /** HTTP status; 0 = there was no answer. */
  readonly status: number;
  /** S3's own code (`SlowDown`), or `Network`, `Timeout`, `Deadline`, `Canceled`. */
  readonly code: string;
  readonly retryAfterMs: number;
  /** Server's time minus ours, where the answer told. */
  readonly skewMs: number;
  readonly region: string | undefined;

  constructor(code: string, message: string, facts: { status?: number; retryAfterMs?: number; skewMs?: number; region?: string | undefined } = {}) {
    super(message);
    this.name = 'S3Failure';
    this.code = code;
    this.status = facts.status ?? 0;
    this.retryAfterMs = facts.retryAfterMs ?? 0;
    this.skewMs = facts.skewMs ?? 0;
    this.region = facts.region;
  }

  get isRetryable(): boolean {
    return this.code === 'Network' || this.code === 'Timeout' || this.code === 'RequestTimeout' || this.status === 429 || (this.status >= 500 && this.status !== 501);
  }

  /** The server refuses us, not this request: nothing else will work either. */
  get isDenied(): boolean {
    return this.status === 401 || this.status === 403 || this.isBucketWrong || this.isRedirect;
  }

  get isBucketWrong(): boolean {
    return this.code === 'NoSuchBucket' || this.code === 'InvalidBucketName';
  }

  get isRedirect(): boolean {
    return (this.status >= 300 && this.status < 400) || this.code === 'AuthorizationHeaderMalformed';
  }

  static from(error: unknown): S3Failure {
    if (error instanceof S3Failure) return error;
    const { code, message } = error as { code?: string; message?: string };
    const isTimeout = code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT' || code === 'UND_ERR_CONNECT_TIMEOUT';
    return new S3Failure(isTimeout ? 'Timeout' : 'Network', `${code === undefined ? '' : `${code}: `}${message ?? String(error)}`);
  }
}

/** From an answer that is not a success. `wallMs`: our time when it came. */
export function failureOf(status: number, headers: Readonly<Record<string, string | undefined>>, text: string, wallMs: number): S3Failure {
  const code = tag(text, 'Code') ?? (status === 404 ? 'NotFound' : `Http${status}`);
  const date = Date.parse(headers['date'] ?? '');
  const retryAfter = Number(headers['retry-after']);
  return new S3Failure(code, `${status} ${code}${text === '' ? '' : `: ${tag(text, 'Message') ?? ''}`}`, {
    status,
    retryAfterMs: retryAfter > 0 ? retryAfter * 1000 : 0,
    skewMs: Number.isNaN(date) ? 0 : date - wallMs,
    region: headers['x-amz-bucket-region'] ?? tag(text, 'Region'),
  });
}

function tag(text: string, name: string): string | undefined {
  return new RegExp(`<${name}>([^<]*)</${name}>`).exec(text)?.[1];
}
