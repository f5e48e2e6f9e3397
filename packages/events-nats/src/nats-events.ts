import { ArmatureError } from '@armature/contracts';
import type { Clock, Codec, Counter, EventListener, EventPlane, Health, Logger, PlainData, Random } from '@armature/contracts';
import type { NatsConnection, Subscription } from 'nats';
import { connectNats } from './connect.ts';
import type { NatsConnectionConfig } from './connect.ts';
import { FanOut } from './fan-out.ts';
import { Outbox } from './outbox.ts';
import { fromNatsSubject, toNatsSubject, toWildcard } from './subjects.ts';

export interface NatsEventsConfig extends NatsConnectionConfig {
  /** First token of all NATS subjects: clusters with different ones do not see each other. */
  readonly subjectRoot: string;
  readonly bufferEvents: number;
  readonly outboxBytes: number;
  readonly windowBytes: number;
  readonly drainTimeoutMs: number;
}
export interface NatsEventMetrics {
  readonly published: Counter;
  readonly delivered: Counter;
  readonly dropped: Counter;
  readonly outboxDropped: Counter;
  readonly refused: Counter;
  readonly reconnects: Counter;
}
export interface NatsEventsOptions {
  readonly config: NatsEventsConfig;
  readonly clock: Clock;
  readonly random: Random;
  readonly codec: Codec;
  readonly log: Logger;
  readonly health: Health;
  readonly metrics: NatsEventMetrics;
  /** In place of a connection to `config.servers`. */
  readonly connect?: typeof connectNats;
}

const COMPONENT = 'events nats';
/** Subjects whose NATS form is remembered. */
const MAX_REMEMBERED_SUBJECTS = 8192;

/** Events by way of a NATS server; subscribers of the same process are served at once, with or without it. */
export class NatsEvents implements EventPlane {
  readonly supports = { processes: true } as const;
  readonly #options: NatsEventsOptions;
  readonly #fanOut: FanOut;
  readonly #outbox: Outbox;
  /** By wildcard. A subscriber gets the events of its own wildcard only, so that overlapping ones bring none twice. */
  readonly #wire = new Map<string, { count: number; subscription: Subscription | undefined }>();
  #natsSubjects = new Map<string, string>();
  #connection: NatsConnection | undefined;
  #isClosed = false;

  constructor(options: NatsEventsOptions) {
    const { codec, log, config, metrics } = options;
    this.#options = options;
    this.#fanOut = new FanOut({ codec, log, bufferEvents: config.bufferEvents, delivered: metrics.delivered, dropped: metrics.dropped });
    this.#outbox = new Outbox({
      capacityBytes: config.outboxBytes,
      windowBytes: config.windowBytes,
      dropped: metrics.outboxDropped,
      send: (subject, payload) => this.#connection?.publish(subject, payload),
      confirm: () => this.#connection?.flush() ?? Promise.reject(new ArmatureError('EVENTS_NATS_CLOSED', 'the connection has ended', { hint: 'none: the process closes' })),
    });
  }

  /** Bytes that wait for the server. */
  get outboxBytes(): number {
    return this.#outbox.waitingBytes;
  }

  async start(): Promise<void> {
    this.#options.health.set(COMPONENT, 'starting');
    await this.#connect();
  }

  publish(subject: string, payload: PlainData): void {
    if (this.#isClosed) return;
    const { codec, metrics, log } = this.#options;
    const packed = codec.encode(payload);
    metrics.published.inc();
    const limit = this.#connection?.info?.max_payload ?? Infinity;
    if (packed.length > limit) {
      metrics.refused.inc();
      log.error('event too large for the NATS server: other processes do not get it', {
        code: 'EVENTS_NATS_EVENT_TOO_LARGE',
        subject,
        lengthBytes: packed.length,
        limitBytes: limit,
        hint: 'raise max_payload of nats-server',
      });
    } else this.#outbox.push(this.#natsSubject(subject), packed);
    this.#fanOut.push(subject, packed);
  }

  subscribe(prefix: string, listener: EventListener): { close(): void } {
    if (this.#isClosed) return { close: () => undefined };
    const wildcard = toWildcard(this.#options.config.subjectRoot, prefix);
    const subscription = this.#fanOut.add(wildcard, prefix, listener, () => this.#leave(wildcard));
    const known = this.#wire.get(wildcard);
    if (known !== undefined) known.count++;
    else this.#wire.set(wildcard, { count: 1, subscription: this.#subscribeWire(wildcard) });
    return subscription;
  }

  /** Resolves when the server has taken over all subscriptions and events so far. */
  async flush(): Promise<void> {
    await this.#connection?.flush();
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const { clock, config, health } = this.#options;
    this.#fanOut.close();
    const connection = this.#connection;
    if (connection !== undefined && !connection.isClosed()) {
      const timeout = new AbortController();
      const tooLate = clock.sleep(config.drainTimeoutMs, timeout.signal).catch(() => undefined);
      await Promise.race([connection.drain().catch(() => undefined), tooLate]);
      timeout.abort();
      await connection.close();
    }
    health.remove(COMPONENT);
  }

  #subscribeWire(wildcard: string): Subscription | undefined {
    if (this.#connection === undefined || this.#connection.isClosed()) return undefined;
    const root = this.#options.config.subjectRoot;
    return this.#connection.subscribe(wildcard, {
      callback: (error, message) => {
        const subject = error === null ? fromNatsSubject(root, message.subject) : undefined;
        if (subject !== undefined) this.#fanOut.push(subject, message.data, wildcard);
        else this.#refused(wildcard, error ?? `subject ${message.subject}`);
      },
    });
  }

  #refused(wildcard: string, error: unknown): void {
    this.#options.metrics.refused.inc();
    this.#options.log.error('NATS refused a subscription, or a subject is not of this plane', { code: 'EVENTS_NATS_REFUSED', wildcard, error: String(error) });
  }

  #leave(wildcard: string): void {
    const entry = this.#wire.get(wildcard);
    if (entry === undefined || --entry.count > 0) return;
    this.#wire.delete(wildcard);
    if (this.#connection?.isClosed() === false) entry.subscription?.unsubscribe();
  }

  async #watchStatus(connection: NatsConnection): Promise<void> {
    const { health, log, metrics } = this.#options;
    for await (const { type, data } of connection.status()) {
      if (this.#isClosed) return;
      if (type === 'disconnect') {
        this.#outbox.disconnected();
        health.set(COMPONENT, 'degraded', `no connection to NATS (last: ${String(data)}): events of other processes do not arrive; start the server, or correct \`servers\``);
        log.warn('NATS disconnected', { code: 'EVENTS_NATS_DISCONNECTED', server: String(data) });
      } else if (type === 'reconnect') {
        metrics.reconnects.inc();
        this.#outbox.connected();
        health.set(COMPONENT, 'ready');
        log.info('NATS connected again', { server: String(data) });
      } else if (type === 'error') log.error('NATS reports an error', { code: 'EVENTS_NATS_REFUSED', error: String(data) });
    }
  }

  async #connect(): Promise<void> {
    const { config, clock, random, health, log, connect = connectNats } = this.#options;
    const connection = await connect(config, clock, random);
    if (this.#isClosed) {
      await connection.close();
      return;
    }
    this.#connection = connection;
    for (const [wildcard, entry] of this.#wire) entry.subscription = this.#subscribeWire(wildcard);
    this.#outbox.connected();
    void this.#watchStatus(connection);
    void connection.closed().then((error) => this.#begunAnew(error));
    health.set(COMPONENT, 'ready');
    log.info('connected to NATS', { server: connection.getServer() });
  }

  /**
   * nats.js connects again by itself and is told never to give up. When it ends for good all the same, a new connection takes its place:
   * an event plane that is silent until somebody restarts the process would be worse.
   */
  async #begunAnew(error: Error | void): Promise<void> {
    const { clock, config, health, log, metrics } = this.#options;
    this.#outbox.disconnected();
    for (let reason = String(error); !this.#isClosed; ) {
      health.set(COMPONENT, 'degraded', `NATS ended the connection (${reason}): events of other processes do not arrive`);
      log.warn('NATS ended the connection', { code: 'EVENTS_NATS_DISCONNECTED', reason });
      try {
        await this.#connect();
        metrics.reconnects.inc();
        return;
      } catch (failure) {
        reason = String(failure);
        await clock.sleep(config.maxReconnectMs);
      }
    }
  }

  #natsSubject(subject: string): string {
    let mapped = this.#natsSubjects.get(subject);
    if (mapped === undefined) {
      mapped = toNatsSubject(this.#options.config.subjectRoot, subject);
      if (this.#natsSubjects.size >= MAX_REMEMBERED_SUBJECTS) this.#natsSubjects = new Map();
      this.#natsSubjects.set(subject, mapped);
    }
    return mapped;
  }
}
