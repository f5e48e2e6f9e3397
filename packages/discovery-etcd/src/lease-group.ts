import { randomInt } from 'node:crypto';
import type { ArmatureError, Timer } from '@armature/contracts';
import { etcdError } from './errors.ts';
import type { KeepAliveStream } from './etcd-client.ts';
import type { EtcdLink, Session } from './link.ts';
import type { DiscoveryGauges } from './metrics.ts';
import type { Leaves } from './options.ts';

const MAX_LEASE_ID = 2 ** 48 - 1;

/**
 * One lease for all registrations of this process with one time to live, renewed at a third of it over one stream.
 * `onLost` is called when etcd has ended the lease: its keys have gone and must be written again under the next one.
 */
export class LeaseGroup {
  readonly ttlMs: number;
  readonly #leaves: Leaves;
  readonly #link: EtcdLink;
  readonly #gauges: DiscoveryGauges;
  readonly #onLost: () => void;
  #leaseId: string | undefined = undefined;
  /** The store that granted it. */
  #store = '';
  #granting: Promise<string> | undefined = undefined;
  #stream: KeepAliveStream | undefined = undefined;
  #timer: Timer | undefined = undefined;
  /** When the oldest unanswered renewal was sent. */
  #askedAtMs: number | undefined = undefined;
  #isClosed = false;

  constructor(ttlMs: number, parts: { readonly leaves: Leaves; readonly link: EtcdLink; readonly gauges: DiscoveryGauges; readonly onLost: () => void }) {
    this.ttlMs = ttlMs;
    this.#leaves = parts.leaves;
    this.#link = parts.link;
    this.#gauges = parts.gauges;
    this.#onLost = parts.onLost;
  }

  /** The lease that keys are to be written under; undefined until one is granted, or after it was lost. */
  get leaseId(): string | undefined {
    return this.#leaseId;
  }

  /** The lease, granted now if there is none. Concurrent callers share one grant. */
  lease(session: Session): Promise<string> {
    if (this.#leaseId !== undefined && this.#store === session.store) return Promise.resolve(this.#leaseId);
    return (this.#granting ??= this.#grant(session).finally(() => {
      this.#granting = undefined;
    }));
  }

  /** A new session: goes on renewing the lease, or finds that it has gone. */
  up(session: Session): void {
    this.down();
    if (this.#leaseId === undefined || this.#isClosed) return;
    if (this.#store === session.store) void this.#renew(session);
    else this.lost(this.#leaseId);
  }

  down(): void {
    if (this.#timer !== undefined) this.#leaves.clock.clearTimer(this.#timer);
    this.#timer = undefined;
    this.#askedAtMs = undefined;
    this.#stream?.cancel();
    this.#stream = undefined;
  }

  /** etcd says that this lease has gone. */
  lost(leaseId: string): void {
    if (this.#leaseId !== leaseId) return;
    this.down();
    this.#leaseId = undefined;
    this.#gauges.leaseLosses.inc();
    this.#leaves.log.warn('the discovery lease is lost; its entries are registered again', { leaseId, ttlMs: this.ttlMs });
    if (!this.#isClosed) this.#onLost();
  }

  /** Ends the lease and with it every key below it. Without a session it lapses by itself. */
  async close(session: Session | undefined): Promise<void> {
    this.#isClosed = true;
    this.down();
    const leaseId = this.#leaseId ?? (await this.#granting?.catch(() => undefined));
    this.#leaseId = undefined;
    if (leaseId === undefined || session?.isOpen !== true) return;
    await this.#link.once(session, (client) => client.leases.leaseRevoke({ ID: leaseId })).catch((error: ArmatureError) => {
      this.#leaves.log.info('a discovery lease was not revoked; it ends by itself', { leaseId, ttlMs: this.ttlMs, reason: error.message });
    });
  }

  async #grant(session: Session): Promise<string> {
    // etcd counts in seconds, and raises what is below 1.5 election timeouts (2 s with its defaults).
    const TTL = Math.max(1, Math.ceil(this.ttlMs / 1000));
    // An id of our own below 2^53: where protobufjs finds no `long` (Node run with `--conditions import`, as vitest does), etcd's 63-bit ids come rounded.
    const ID = String(randomInt(1, MAX_LEASE_ID));
    await this.#link.once(session, (client) => client.leases.leaseGrant({ TTL, ID }));
    this.#leaseId = ID;
    this.#store = session.store;
    if (!this.#isClosed) void this.#renew(session);
    return ID;
  }

  async #renew(session: Session): Promise<void> {
    try {
      const stream = await session.client.keepAlive();
      stream.on('error', (error) => this.#stream === stream && session.fail(etcdError(error, session.endpoint)));
      if (!session.isOpen || this.#isClosed || this.#leaseId === undefined || this.#stream !== undefined) return void stream.cancel();
      this.#stream = stream;
      stream.on('end', () => this.#stream === stream && session.fail(etcdError(new Error('the keep-alive stream ended'), session.endpoint)));
      stream.on('data', ({ ID, TTL }) => {
        if (this.#stream !== stream) return;
        this.#askedAtMs = undefined;
        if (Number(TTL) <= 0) this.lost(String(ID)); // '0', or 0 where there is no `long`
      });
      this.#ask(session, stream);
    } catch (error) {
      session.fail(etcdError(error, session.endpoint));
    }
  }

  #ask(session: Session, stream: KeepAliveStream): void {
    const { clock, config } = this.#leaves;
    if (this.#leaseId === undefined || this.#stream !== stream) return;
    if (this.#askedAtMs !== undefined && clock.nowMs() - this.#askedAtMs >= config.requestTimeoutMs) {
      session.fail(etcdError(new Error(`a lease renewal was not answered within ${config.requestTimeoutMs} ms`), session.endpoint));
      return;
    }
    this.#askedAtMs ??= clock.nowMs();
    stream.write({ ID: this.#leaseId });
    this.#timer = clock.setTimer(this.ttlMs / 3, () => this.#ask(session, stream));
  }
}
