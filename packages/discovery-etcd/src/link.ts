import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { Timer } from '@armature/contracts';
import { checkCluster, joinCluster } from './cluster-record.ts';
import type { StoreState } from './cluster-record.ts';
import { closedError, etcdError, isFinal } from './errors.ts';
import { EtcdClient } from './etcd-client.ts';
import type { EtcdCredentials } from './etcd-client.ts';
import type { KeySpace } from './keys.ts';
import type { DiscoveryGauges } from './metrics.ts';
import type { EtcdDiscoveryOptions } from './options.ts';
import { within } from './wait.ts';

/** A time during which one endpoint answers. Ends for all its users at once. */
export interface Session {
  readonly client: EtcdClient;
  readonly endpoint: string;
  /** Changes when etcd lost data: revisions and leases of another store mean nothing. */
  readonly store: string;
  /** False once it has ended. */
  readonly isOpen: boolean;
  /** Gives the endpoint up: every user is told `down`, and the link goes on to the next one. */
  fail(error: unknown): void;
}

export interface LinkUser {
  up(session: Session): void;
  down(): void;
}

interface Waiter {
  resolve(session: Session): void;
  reject(error: ArmatureError): void;
}

class OpenSession implements Session {
  isOpen = true;
  readonly client: EtcdClient;
  readonly endpoint: string;
  readonly store: string;
  readonly #onFail: (error: unknown) => void;

  constructor(client: EtcdClient, endpoint: string, store: string, onFail: (error: unknown) => void) {
    this.client = client;
    this.endpoint = endpoint;
    this.store = store;
    this.#onFail = onFail;
  }

  fail(error: unknown): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.#onFail(error);
  }
}

/**
 * Keeps one session to one of the endpoints. A heartbeat (one read of the cluster record) finds hung servers, lost quorums, wiped stores and
 * foreign clusters; after a failure the next endpoint is tried with back-off and jitter, for ever.
 */
export class EtcdLink {
  readonly #options: EtcdDiscoveryOptions;
  readonly #keys: KeySpace;
  readonly #cluster: string;
  readonly #gauges: DiscoveryGauges;
  readonly #users = new Set<LinkUser>();
  readonly #waiters = new Set<Waiter>();
  #credentials: EtcdCredentials | undefined = undefined;
  #session: OpenSession | undefined = undefined;
  #timer: Timer | undefined = undefined;
  #endpoint: number;
  #failures = 0;
  #lastError: ArmatureError | undefined = undefined;
  #lastStore: StoreState | undefined = undefined;
  /** Times that the revision went back: etcd was restored from a backup. */
  #rollbacks = 0;
  #hasBeenUp = false;
  #isBeating = false;
  #isStarted = false;
  #isClosed = false;

  constructor(options: EtcdDiscoveryOptions, keys: KeySpace, cluster: string, gauges: DiscoveryGauges) {
    this.#options = options;
    this.#keys = keys;
    this.#cluster = cluster;
    this.#gauges = gauges;
    this.#endpoint = options.random.below(options.config.endpoints.length);
  }

  get session(): Session | undefined {
    return this.#session;
  }

  /** Resolves with the first session. Throws after `startTimeoutMs`, and at once where waiting cannot help. */
  async start(): Promise<void> {
    const { startTimeoutMs } = this.#options.config;
    if (!this.#isStarted) {
      this.#credentials = await this.#readCredentials();
      this.#isStarted = true;
      void this.#connect();
    }
    await this.#whenUp(startTimeoutMs, `within ${startTimeoutMs} ms of start`);
  }

  /** The user is told of the running session at once, and of every later one. */
  attach(user: LinkUser): void {
    this.#users.add(user);
    if (this.#session !== undefined) user.up(this.#session);
  }

  detach(user: LinkUser): void {
    this.#users.delete(user);
  }

  /**
   * Runs `job` on the session, again on the next one when the endpoint fails, until `operationTimeoutMs` is over: `job` must be safe to repeat.
   * Throws a coded error.
   */
  async call<T>(job: (session: Session) => Promise<T>): Promise<T> {
    const { clock, config } = this.#options;
    const giveUpAtMs = clock.nowMs() + config.operationTimeoutMs;
    for (;;) {
      const session = this.#session ?? (await this.#whenUp(giveUpAtMs - clock.nowMs(), `within ${config.operationTimeoutMs} ms`));
      try {
        return await this.once(session, () => job(session), giveUpAtMs - clock.nowMs());
      } catch (error) {
        const coded = ArmatureError.from(error);
        if (!coded.retryable || this.#isClosed || clock.nowMs() + config.reconnectMinMs >= giveUpAtMs) throw coded;
        await clock.sleep(config.reconnectMinMs);
      }
    }
  }

  /** Runs `job` once on this session. Throws coded errors. Whether a failure means the end of the session, the heartbeat decides: one slow write does not. */
  async once<T>(session: Session, job: (client: EtcdClient) => Promise<T>, limitMs = Number.POSITIVE_INFINITY): Promise<T> {
    const { clock, config } = this.#options;
    const silent = (): ArmatureError => etcdError(new Error(`no answer within ${config.requestTimeoutMs} ms`), session.endpoint);
    try {
      return await within(clock, Math.min(limitMs, config.requestTimeoutMs + 100), job(session.client), silent);
    } catch (error) {
      const coded = etcdError(error, session.endpoint);
      if (coded.retryable && session === this.#session && !this.#isBeating) {
        this.#clearTimer();
        void this.#heartbeat(this.#session);
      }
      throw coded;
    }
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#clearTimer();
    const session = this.#session;
    this.#session = undefined;
    if (session !== undefined) {
      session.isOpen = false;
      for (const user of this.#users) user.down();
      session.client.close();
    }
    for (const waiter of this.#waiters) waiter.reject(closedError('etcd was asked'));
    this.#waiters.clear();
    this.#users.clear();
  }

  // ---------------------------------------------------------------- one attempt after the other

  async #connect(): Promise<void> {
    const { config } = this.#options;
    const endpoint = config.endpoints[this.#endpoint % config.endpoints.length] as string;
    let client: EtcdClient | undefined;
    try {
      client = new EtcdClient({ endpoint, credentials: this.#credentials as EtcdCredentials, requestTimeoutMs: config.requestTimeoutMs, clock: this.#options.clock });
      const silent = (): ArmatureError => etcdError(new Error(`no answer within ${config.requestTimeoutMs} ms`), endpoint);
      const state = await within(this.#options.clock, config.requestTimeoutMs, joinCluster(client, this.#keys.cluster, this.#cluster), silent);
      if (this.#isClosed) client.close();
      else this.#opened(client, endpoint, state);
    } catch (error) {
      client?.close();
      this.#attemptFailed(etcdError(error, endpoint));
    }
  }

  #opened(client: EtcdClient, endpoint: string, state: StoreState): void {
    const last = this.#lastStore;
    if (last !== undefined && last.store === state.store && state.revision < last.revision) this.#rollbacks++;
    this.#lastStore = state;
    const session = new OpenSession(client, endpoint, `${state.store}/${this.#rollbacks}`, (error) => this.#ended(session, error));
    this.#session = session;
    this.#gauges.connected(true);
    if (this.#hasBeenUp) this.#gauges.reconnects.inc();
    this.#options.log.info(this.#hasBeenUp ? 'etcd is back' : 'connected to etcd', { endpoint, cluster: this.#cluster });
    this.#hasBeenUp = true;
    this.#options.health.set('discovery', 'ready');
    this.#timer = this.#options.clock.setTimer(this.#options.config.heartbeatMs, () => void this.#heartbeat(session));
    for (const waiter of this.#waiters) waiter.resolve(session);
    this.#waiters.clear();
    for (const user of [...this.#users]) if (session.isOpen) user.up(session);
  }

  async #heartbeat(session: OpenSession): Promise<void> {
    this.#isBeating = true;
    try {
      const state = await this.once(session, (client) => checkCluster(client, this.#keys.cluster, this.#cluster));
      if (!session.isOpen) return;
      const last = this.#lastStore as StoreState;
      if (state === undefined || state.store !== last.store || state.revision < last.revision) throw etcdError(new Error('the store was wiped or restored'), session.endpoint);
      this.#lastStore = state;
      this.#failures = 0; // only a session that lived to its first heartbeat starts the back-off anew
      this.#timer = this.#options.clock.setTimer(this.#options.config.heartbeatMs, () => void this.#heartbeat(session));
    } catch (error) {
      session.fail(error);
    } finally {
      this.#isBeating = false;
    }
  }

  #ended(session: OpenSession, error: unknown): void {
    if (this.#session !== session) return;
    this.#session = undefined;
    this.#clearTimer();
    this.#gauges.connected(false);
    for (const user of [...this.#users]) user.down();
    session.client.close();
    const coded = etcdError(error, session.endpoint);
    this.#options.log.warn('etcd is lost; what is known stays', { code: coded.code, endpoint: session.endpoint, reason: coded.message });
    this.#attemptFailed(coded);
  }

  #attemptFailed(error: ArmatureError): void {
    if (this.#isClosed) return;
    const { config, clock, random, health, log } = this.#options;
    this.#lastError = error;
    this.#endpoint++;
    const isFirst = this.#failures === 0;
    const fullMs = Math.min(config.reconnectMaxMs, config.reconnectMinMs * 2 ** Math.min(this.#failures++, 20));
    if (isFinal(error)) {
      health.set('discovery', 'failed', `${error.message}; ${error.hint ?? ''}`);
      if (isFirst) log.error(error.message, { code: error.code, hint: error.hint });
      for (const waiter of this.#waiters) waiter.reject(error);
      this.#waiters.clear();
    } else if (this.#hasBeenUp) {
      health.set('discovery', 'degraded', `${error.message}; known entries stay until etcd is back`);
    }
    // Half fixed, half chance: a thousand processes that lost etcd together do not come back together.
    this.#timer = clock.setTimer(fullMs * (0.5 + 0.5 * random.next()), () => void this.#connect());
  }

  #whenUp(limitMs: number, until: string): Promise<Session> {
    if (this.#isClosed) return Promise.reject(closedError('etcd was asked'));
    if (this.#session !== undefined) return Promise.resolve(this.#session);
    let waiter: Waiter | undefined;
    const up = new Promise<Session>((resolvePromise, reject) => this.#waiters.add((waiter = { resolve: resolvePromise, reject })));
    return within(this.#options.clock, limitMs, up, () => {
      if (waiter !== undefined) this.#waiters.delete(waiter);
      const last = this.#lastError;
      const hint = last?.hint ?? 'check that etcd runs and that discovery.config.endpoints name it';
      const endpoints = this.#options.config.endpoints.join(', ');
      const reason = last === undefined ? '' : `; last: ${last.message}`;
      return new ArmatureError(last?.code ?? 'DISCOVERY_UNREACHABLE', `no etcd of ${endpoints} could be used ${until}${reason}`, { hint, retryable: true, ...(last === undefined ? {} : { cause: last }) });
    });
  }

  #clearTimer(): void {
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  async #readCredentials(): Promise<EtcdCredentials> {
    const { username, password, tls, endpoints } = this.#options.config;
    const pem = async (file: string): Promise<Buffer | undefined> => {
      if (file === '') return undefined;
      try {
        return await readFile(resolve(this.#options.baseDir, file));
      } catch (error) {
        throw new ArmatureError('DISCOVERY_TLS_FILE_UNREADABLE', `${file} cannot be read: ${(error as Error).message}`, { hint: 'check the paths in discovery.config.tls', cause: error });
      }
    };
    const [rootCertificate, certChain, privateKey] = await Promise.all([pem(tls.caFile), pem(tls.certFile), pem(tls.keyFile)]);
    const isSecure = endpoints.some((endpoint) => endpoint.startsWith('https:'));
    return { username, password, serverName: tls.serverName, tls: isSecure ? { rootCertificate, certChain, privateKey } : undefined };
  }
}
