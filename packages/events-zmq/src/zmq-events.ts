import { randomBytes } from 'node:crypto';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Codec, Discovery, EventListener, EventPlane, Health, Logger, PlainData, Registration, Timer } from '@armature/contracts';
import type { Context, XPublisher } from 'zeromq';
import { EventSource } from './event-source.ts';
import { FanOut } from './fan-out.ts';
import type { EventMetrics } from './metrics.ts';
import { PublisherLink } from './publisher-link.ts';
import { PublisherStream } from './publisher-stream.ts';
import type { StreamSettings } from './publisher-stream.ts';
import { guardClients, loadZmq, newContext, publisherSocket, subscriberSocket } from './sockets.ts';
import type { CurveKeys, ZmqModule } from './sockets.ts';

export interface ZmqEventsConfig extends StreamSettings {
  readonly host: string;
  readonly port: number;
  /** Host name that others reach this process by; empty: `host`. */
  readonly advertise: string;
  readonly bufferEvents: number;
  readonly replayEvents: number;
  readonly replayBytes: number;
  readonly sendHighWaterMark: number;
  readonly heartbeatMs: number;
  readonly curve?: CurveKeys;
}
export interface ZmqEventsOptions {
  readonly config: ZmqEventsConfig;
  readonly discovery: Discovery;
  readonly clock: Clock;
  readonly codec: Codec;
  readonly log: Logger;
  readonly health: Health;
  readonly metrics: EventMetrics;
  /** In place of the npm package. */
  readonly load?: () => Promise<unknown>;
}

/** Where publishers announce themselves: `{ address, curve }`. */
export const ANNOUNCEMENTS = 'events/zmq/';
/** How long a publisher that left is still listened to: its last events may be on the way. */
const RETIRE_MS = 1_000;
const COMPONENT = 'events zmq';

/** Every process publishes on a socket of its own and connects to those of all others. */
export class ZmqEvents implements EventPlane {
  readonly supports = { processes: true } as const;
  readonly #options: ZmqEventsOptions;
  readonly #source: EventSource;
  readonly #fanOut: FanOut;
  readonly #prefixes = new Map<string, { count: number; readonly sinceMs: number }>();
  readonly #links = new Map<string, PublisherLink>();
  readonly #retiring = new Map<string, Timer>();
  #zmq: ZmqModule | undefined;
  #context: Context | undefined;
  #socket: XPublisher | undefined;
  #guard: { close(): void } | undefined;
  #registration: Registration | undefined;
  #watch: { close(): void } | undefined;
  #beatTimer: Timer | undefined;
  #stopCollect: (() => void) | undefined;
  #isClosed = false;

  constructor(options: ZmqEventsOptions) {
    const { clock, codec, log, config, metrics } = options;
    this.#options = options;
    this.#source = new EventSource({ clock, codec, replayEvents: config.replayEvents, replayBytes: config.replayBytes });
    this.#fanOut = new FanOut({ codec, log, bufferEvents: config.bufferEvents, delivered: metrics.delivered, dropped: metrics.dropped });
  }

  /** Of this start of this process; the key of its announcement. */
  get publisherId(): string {
    return this.#source.id;
  }
  /** Connections to announced publishers. */
  get links(): ReadonlyMap<string, PublisherLink> {
    return this.#links;
  }

  async start(): Promise<void> {
    try {
      await this.#open();
    } catch (error) {
      await this.close(); // a half-open socket would be announced to nobody
      throw error;
    }
  }

  async #open(): Promise<void> {
    const { config, discovery, health, log, load } = this.#options;
    health.set(COMPONENT, 'starting');
    this.#zmq = await loadZmq(load);
    this.#context = newContext(this.#zmq);
    if (config.curve !== undefined) this.#guard = await guardClients(this.#zmq, this.#context, config.curve, () => this.#options.metrics.refused.inc());
    const address = await this.#bind();
    this.#scheduleBeat();
    this.#stopCollect = this.#options.metrics.collect(() => ({
      announced: this.#links.size,
      connected: [...this.#links.values()].filter((link) => link.isConnected).length,
      replayBytes: this.#source.replayBytes,
    }));
    this.#registration = await discovery.register(ANNOUNCEMENTS + this.#source.id, { address, curve: config.curve !== undefined });
    this.#watch = await discovery.watch(ANNOUNCEMENTS, {
      put: ({ key, value }) => this.#announced(key.slice(ANNOUNCEMENTS.length), value),
      removed: (key) => this.#left(key.slice(ANNOUNCEMENTS.length)),
    });
    health.set(COMPONENT, 'ready');
    log.info('publishing events', { address, publisher: this.#source.id });
  }

  publish(subject: string, payload: PlainData): void {
    if (this.#isClosed) return;
    const packed = this.#options.codec.encode(payload);
    const frame = this.#source.publish(subject, packed);
    this.#options.metrics.published.inc();
    this.#send(frame);
    this.#fanOut.push(subject, packed);
  }

  subscribe(prefix: string, listener: EventListener): { close(): void } {
    if (this.#isClosed) return { close: () => undefined };
    const subscription = this.#fanOut.add(prefix, listener, () => this.#leave(prefix));
    const known = this.#prefixes.get(prefix);
    if (known !== undefined) known.count++;
    else {
      const sinceMs = this.#options.clock.nowMs();
      this.#prefixes.set(prefix, { count: 1, sinceMs });
      for (const link of this.#links.values()) link.join(prefix, sinceMs);
    }
    return subscription;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const { clock, health } = this.#options;
    if (this.#beatTimer !== undefined) clock.clearTimer(this.#beatTimer);
    for (const timer of this.#retiring.values()) clock.clearTimer(timer);
    this.#stopCollect?.();
    this.#watch?.close();
    this.#fanOut.close();
    for (const link of this.#links.values()) link.close();
    this.#links.clear();
    await this.#registration?.close().catch((error: unknown) => this.#options.log.warn('announcement could not be taken back; it lapses', { error: String(error) }));
    this.#socket?.close(); // what is queued is sent for half a second
    this.#guard?.close();
    health.remove(COMPONENT);
  }

  async #bind(): Promise<string> {
    const { host, port, advertise } = this.#options.config;
    const socket = publisherSocket(this.#zmq!, this.#context!, { ...this.#options.config, curve: this.#options.config.curve });
    const at = host.includes(':') && !host.startsWith('[') ? `[${host}]` : host;
    try {
      await socket.bind(`tcp://${at}:${port === 0 ? '*' : port}`);
    } catch (error) {
      socket.close();
      throw new ArmatureError('EVENTS_ZMQ_BIND_FAILED', `cannot listen on ${host}:${port}: ${String(error)}`, {
        hint: 'choose an address of this host and a free port, or port 0',
        cause: error,
      });
    }
    this.#socket = socket;
    void this.#listen(socket);
    const bound = socket.lastEndpoint ?? '';
    return advertise === '' ? bound : `tcp://${advertise}:${bound.slice(bound.lastIndexOf(':') + 1)}`;
  }

  /** Requests for replay. */
  async #listen(socket: XPublisher): Promise<void> {
    try {
      for await (const [frame] of socket) if (frame !== undefined) this.#answer(frame);
    } catch (error) {
      if (!this.#isClosed) this.#options.log.error('publisher socket failed', { code: 'EVENTS_ZMQ_SOCKET_FAILED', error: String(error) });
    }
  }

  #answer(frame: Buffer): void {
    try {
      const reply = this.#source.answer(frame);
      if (reply !== undefined) this.#send(reply);
    } catch (error) {
      this.#options.metrics.refused.inc();
      this.#options.log.debug('request refused', { code: 'EVENTS_ZMQ_FRAME_INVALID', error: String(error) });
    }
  }

  #send(frame: Buffer): void {
    this.#socket?.send(frame).catch((error: unknown) => this.#options.log.debug('send failed', { error: String(error) }));
  }

  #scheduleBeat(): void {
    this.#beatTimer = this.#options.clock.setTimer(this.#options.config.heartbeatMs, () => {
      this.#send(this.#source.beat());
      this.#scheduleBeat();
    });
  }

  #announced(id: string, value: PlainData): void {
    if (id === this.#source.id || this.#isClosed) return;
    const { address, curve } = (value ?? {}) as { readonly address?: PlainData; readonly curve?: PlainData };
    const { config, log } = this.#options;
    const retiring = this.#retiring.get(id);
    if (retiring !== undefined) this.#options.clock.clearTimer(retiring);
    this.#retiring.delete(id);
    if (typeof address !== 'string' || !/^[0-9a-f]{16}$/.test(id) || curve !== (config.curve !== undefined)) {
      log.warn('publisher ignored: its announcement does not fit this process', { code: 'EVENTS_ZMQ_ANNOUNCEMENT_INVALID', publisher: id, address, curve });
      return;
    }
    if (this.#links.get(id)?.address === address) return;
    this.#links.get(id)?.close();
    this.#links.set(id, this.#connect(id, address));
  }

  #connect(publisher: string, address: string): PublisherLink {
    const { clock, codec, config, log, metrics } = this.#options;
    const token = randomBytes(8).toString('hex');
    const link = new PublisherLink({
      address,
      token,
      log,
      socket: subscriberSocket(this.#zmq!, this.#context!, { ...config, curve: config.curve }),
      stream: (send) => {
        const deliver = (subject: string, payload: Uint8Array): void => this.#fanOut.push(subject, payload);
        return new PublisherStream({ ...config, publisher, token, clock, codec, log, counters: metrics, deliver, send });
      },
    });
    for (const [prefix, { sinceMs }] of this.#prefixes) link.join(prefix, sinceMs);
    return link;
  }

  #left(id: string): void {
    if (!this.#links.has(id) || this.#retiring.has(id)) return;
    const timer = this.#options.clock.setTimer(RETIRE_MS, () => {
      this.#retiring.delete(id);
      this.#links.get(id)?.close();
      this.#links.delete(id);
    });
    this.#retiring.set(id, timer);
  }

  #leave(prefix: string): void {
    const known = this.#prefixes.get(prefix);
    if (known === undefined || --known.count > 0) return;
    this.#prefixes.delete(prefix);
    for (const link of this.#links.values()) link.leave(prefix);
  }
}
