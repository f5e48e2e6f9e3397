import { Etcd3 } from 'etcd3';
import type { IOptions, IWatchResponse } from 'etcd3';
import type { Clock } from '@armature/contracts';

export type WatchStream = Awaited<ReturnType<Etcd3['watchClient']['watch']>>;
export type WatchAnswer = IWatchResponse;
export type KeepAliveStream = Awaited<ReturnType<Etcd3['leaseClient']['leaseKeepAlive']>>;

export interface EtcdCredentials {
  readonly username: string;
  readonly password: string;
  readonly tls: { readonly rootCertificate: Buffer | undefined; readonly privateKey: Buffer | undefined; readonly certChain: Buffer | undefined } | undefined;
  readonly serverName: string;
}

export interface EtcdClientOptions {
  readonly endpoint: string;
  readonly credentials: EtcdCredentials;
  readonly requestTimeoutMs: number;
  readonly clock: Clock;
}

/** The part of etcd3's connection pool that hands out the token of a call. */
interface TokenSource {
  getMetadata(): Promise<{ set(key: string, value: string): void }>;
  invalidateMetadata(): void;
}

/** etcd3's retries and circuit breaker (5 s open) would delay our own: `EtcdLink` alone decides when to try what. */
const passThrough = { execute: async <T>(run: (context: object) => PromiseLike<T> | T): Promise<T> => run({}) } as unknown;
/** A fresh token refused within this time is not fetched again. */
const TOKEN_RETRY_MS = 1000;

/** One connection to one etcd member. Every unary call has a deadline; made anew for each session, so that no state of gRPC outlives it. */
export class EtcdClient {
  readonly #etcd: Etcd3;
  readonly #options: EtcdClientOptions;
  #token: string | undefined = undefined;
  #tokenAtMs = Number.NEGATIVE_INFINITY;
  #fetching: Promise<string> | undefined = undefined;

  constructor(options: EtcdClientOptions) {
    this.#options = options;
    this.#etcd = this.#connect();
    if (options.credentials.username !== '') this.#installToken();
  }

  get kv(): Etcd3['kv'] {
    return this.#etcd.kv;
  }

  get leases(): Etcd3['leaseClient'] {
    return this.#etcd.leaseClient;
  }

  watch(): Promise<WatchStream> {
    return this.#etcd.watchClient.watch();
  }

  keepAlive(): Promise<KeepAliveStream> {
    return this.#etcd.leaseClient.leaseKeepAlive();
  }

  close(): void {
    this.#etcd.close();
  }

  #connect(): Etcd3 {
    const { endpoint, credentials, requestTimeoutMs, clock } = this.#options;
    const channel: NonNullable<IOptions['grpcOptions']> = {
      // With the process-wide pool a new client would inherit the back-off (up to 120 s) of the one that failed.
      'grpc.use_local_subchannel_pool': 1,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1000,
      'grpc.max_receive_message_length': -1,
      ...(credentials.serverName === '' ? {} : { 'grpc.ssl_target_name_override': credentials.serverName, 'grpc.default_authority': credentials.serverName }),
    };
    return new Etcd3({
      hosts: endpoint,
      grpcOptions: channel,
      ...(credentials.tls === undefined ? {} : { credentials: credentials.tls as NonNullable<IOptions['credentials']> }),
      defaultCallOptions: (call) => (call.isStream ? {} : { deadline: clock.wallMs() + requestTimeoutMs }),
      faultHandling: { host: () => passThrough as never, global: passThrough as never },
    });
  }

  /**
   * etcd3's own authenticator opens a channel per attempt that it never closes, in the process-wide pool, without a deadline, and retries a refused
   * token without end. This one replaces it.
   */
  #installToken(): void {
    const pool = (this.#etcd as unknown as { readonly pool: { authenticator: TokenSource } }).pool;
    const bare = pool.authenticator;
    pool.authenticator = {
      getMetadata: async () => {
        const metadata = await bare.getMetadata();
        metadata.set('token', this.#token ?? (await (this.#fetching ??= this.#fetch())));
        return metadata;
      },
      invalidateMetadata: () => {
        const isFresh = this.#options.clock.nowMs() - this.#tokenAtMs < TOKEN_RETRY_MS;
        this.#token = undefined;
        if (isFresh) this.#fetching = refused();
      },
    };
  }

  async #fetch(): Promise<string> {
    const { username: name, password } = this.#options.credentials;
    const door = this.#connect();
    try {
      this.#token = (await door.auth.authenticate({ name, password })).token;
      this.#tokenAtMs = this.#options.clock.nowMs();
      return this.#token;
    } finally {
      this.#fetching = undefined;
      door.close();
    }
  }
}

function refused(): Promise<never> {
  const promise = Promise.reject<never>(new Error('etcdserver: a new auth token was refused'));
  promise.catch(() => undefined);
  return promise;
}
