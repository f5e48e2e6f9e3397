import { createHash } from 'node:crypto';
import type { Clock, Random } from '@armature/contracts';
import type { BucketAddress } from './endpoint.ts';
import { keyPath } from './endpoint.ts';
import type { ByteSink, ExchangeAnswer, ExchangeRequest, S3Body } from './exchange.ts';
import { Wire } from './exchange.ts';
import { failureOf, S3Failure } from './s3-failure.ts';
import { EMPTY_SHA256, SigV4Signer, UNSIGNED_PAYLOAD } from './sigv4.ts';
import type { Credentials } from './sigv4.ts';

const HASH_SLICE_BYTES = 1 << 20;
/** S3 refuses what is further off than 15 minutes; less than this is no reason to doubt the clock. */
const SKEW_MS = 60_000;
const BACKOFF_MS = 50;
const MAX_BACKOFF_MS = 5_000;

export interface S3ClientOptions {
  readonly address: BucketAddress;
  readonly connections: number;
  readonly requestTimeoutMs: number;
  readonly ca?: string | undefined;
  /** Hash bodies even where the way is private. */
  readonly signPayload: boolean;
  /** Called first, and again when a token has expired. Throws when there are none. */
  readonly credentials: () => Credentials;
  readonly clock: Clock;
  readonly random: Random;
}

export interface S3Call {
  readonly method: ExchangeRequest['method'];
  readonly key: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: S3Body;
  /** Made for each attempt: what an attempt needs may have changed with the one before. Returns undefined when nothing is left to ask for. */
  readonly attempt?: () => { readonly headers: Readonly<Record<string, string>>; readonly sink: ByteSink } | undefined;
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** The S3 requests that the tier needs, of one bucket: signed, retried within their deadline. */
export class S3Client {
  readonly #options: S3ClientOptions;
  readonly #wire: Wire;
  readonly #signer: SigV4Signer;
  readonly #signsBodies: boolean;
  #credentials: Credentials;
  #skewMs: number;
  retries: number;
  #isClosed: boolean;

  constructor(options: S3ClientOptions) {
    this.#options = options;
    this.#credentials = options.credentials();
    this.#wire = new Wire({ origin: options.address.origin, connections: options.connections, requestTimeoutMs: options.requestTimeoutMs, ca: options.ca });
    this.#signer = new SigV4Signer(options.address.region);
    this.#signsBodies = options.signPayload || !options.address.isPrivate;
    this.#skewMs = 0;
    this.retries = 0;
    this.#isClosed = false;
  }

  /** A 2xx answer. Everything else rejects with S3Failure, at the deadline at the latest, and when no byte of body or sink is used any more. */
  async call(call: S3Call): Promise<ExchangeAnswer | undefined> {
    const payloadHash = call.body === undefined ? EMPTY_SHA256 : this.#signsBodies ? await this.#hash(call.body) : UNSIGNED_PAYLOAD;
    const { clock } = this.#options;
    const stop = new AbortController();
    const onCancel = (): void => stop.abort(new S3Failure('Canceled', 'cancelled'));
    if (call.signal?.aborted) onCancel();
    call.signal?.addEventListener('abort', onCancel, { once: true });
    const timer = clock.setTimer(call.deadlineMs - clock.nowMs(), () => stop.abort(new S3Failure('Deadline', `no complete answer by the deadline`)));
    try {
      return await this.#attempts(call, payloadHash, stop.signal);
    } finally {
      clock.clearTimer(timer);
      call.signal?.removeEventListener('abort', onCancel);
    }
  }

  /** After an expired token, or when credentials may have been put right. Keeps the old ones when there are none. */
  reloadCredentials(): boolean {
    try {
      const before = this.#credentials;
      this.#credentials = this.#options.credentials();
      return before.secretAccessKey !== this.#credentials.secretAccessKey || before.sessionToken !== this.#credentials.sessionToken;
    } catch {
      return false;
    }
  }

  /** Ends every call. */
  close(): Promise<void> {
    this.#isClosed = true;
    return this.#wire.close();
  }

  async #attempts(call: S3Call, payloadHash: string, signal: AbortSignal): Promise<ExchangeAnswer | undefined> {
    for (let attempt = 0; ; attempt++) {
      const part = call.attempt?.();
      if (call.attempt !== undefined && part === undefined) return undefined;
      try {
        return await this.#once(call, { ...call.headers, ...part?.headers }, payloadHash, part?.sink, signal);
      } catch (error) {
        if (!(error instanceof S3Failure)) throw error;
        if (signal.aborted) throw signal.reason;
        const isMended = attempt < 2 && this.#mend(error);
        if (this.#isClosed || (!isMended && !error.isRetryable)) throw error;
        const ceiling = Math.min(MAX_BACKOFF_MS, BACKOFF_MS * 2 ** attempt);
        const waitMs = isMended ? 0 : Math.max(error.retryAfterMs, this.#options.random.next() * ceiling);
        // The last failure says more than the deadline that the wait would run into.
        if (this.#options.clock.nowMs() + waitMs >= call.deadlineMs) throw error;
        this.retries++;
        await this.#options.clock.sleep(waitMs, signal);
      }
    }
  }

  async #once(call: S3Call, headers: Record<string, string>, payloadHash: string, sink: ByteSink | undefined, signal: AbortSignal): Promise<ExchangeAnswer> {
    const { address, clock } = this.#options;
    const path = keyPath(address, call.key);
    const signed = this.#signer.sign(
      { method: call.method, path, query: [], headers: { host: address.host, ...headers }, payloadHash, wallMs: clock.wallMs() + this.#skewMs },
      this.#credentials,
    );
    if (call.body !== undefined) signed['content-length'] = String(call.body.lengthBytes);
    const answer = await this.#wire.exchange({ method: call.method, path, headers: signed, body: call.body, sink, signal });
    if (answer.status >= 200 && answer.status < 300) return answer;
    throw failureOf(answer.status, answer.headers, answer.text, clock.wallMs());
  }

  /** What can be put right before the next attempt: our clock, our token. */
  #mend(failure: S3Failure): boolean {
    if (failure.status !== 403 && failure.status !== 400) return false;
    const isSkewed = failure.status === 403 && Math.abs(failure.skewMs - this.#skewMs) > SKEW_MS;
    if (isSkewed) this.#skewMs = failure.skewMs;
    // HEAD has no body to tell an expired token from other refusals: look whether there is a newer one.
    return isSkewed || this.reloadCredentials();
  }

  async #hash(body: S3Body): Promise<string> {
    const hash = createHash('sha256');
    let sinceYield = 0;
    for (const chunk of body.chunks()) {
      for (let at = 0; at < chunk.length; at += HASH_SLICE_BYTES) {
        const slice = chunk.subarray(at, at + HASH_SLICE_BYTES);
        if (sinceYield > 0 && sinceYield + slice.length > HASH_SLICE_BYTES) {
          await new Promise<void>((resolve) => this.#options.clock.defer(resolve));
          sinceYield = 0;
        }
        hash.update(slice);
        sinceYield += slice.length;
      }
    }
    return hash.digest('hex');
  }
}

