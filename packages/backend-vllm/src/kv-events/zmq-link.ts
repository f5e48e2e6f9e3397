import { ArmatureError } from '@armature/contracts';
import type { Logger } from '@armature/contracts';
import type * as Zmq from 'zeromq';
import { eventFrame, replayFrame, replayRequest } from './frames.ts';

export interface ZmqLinkOptions {
  /** Where the engine publishes, or, with `listen`, where it connects to (port 0 or * = any). */
  readonly endpoint: string;
  readonly listen: boolean;
  /** Empty: none. */
  readonly replayEndpoint: string;
  /** Only messages whose topic begins so. */
  readonly topic: string;
  readonly log: Logger;
}

export interface ZmqLinkEvents {
  /** There is a connection (again): what was sent before may be lost. */
  connected(): void;
  /** No connection is left. It is made again as soon as somebody is there. */
  disconnected(): void;
  message(sequence: number, payload: Uint8Array): void;
  replayed(sequence: number, payload: Uint8Array): void;
  replayEnded(): void;
}

/** As vLLM's publisher has it. What does not fit makes a gap, which the replay fills. */
const HIGH_WATER_MARK = 100_000;
const RECONNECT_MS = 200;
const RECONNECT_MAX_MS = 2000;

type ZmqModule = typeof Zmq;

/** Subscriber and replay sockets to one publisher of events. ZeroMQ reconnects by itself. */
export class ZmqLink {
  readonly #options: ZmqLinkOptions;
  readonly #events: ZmqLinkEvents;
  readonly #zmq: ZmqModule;
  readonly #subscriber: Zmq.Subscriber;
  #replay: Zmq.Dealer | undefined;
  /** With `listen` that of a dead engine may end after that of the next one has begun. */
  #connections: number;
  #isClosed: boolean;

  private constructor(zmq: ZmqModule, options: ZmqLinkOptions, events: ZmqLinkEvents) {
    this.#options = options;
    this.#events = events;
    this.#zmq = zmq;
    this.#subscriber = new zmq.Subscriber({ linger: 0, receiveHighWaterMark: HIGH_WATER_MARK, reconnectInterval: RECONNECT_MS, reconnectMaxInterval: RECONNECT_MAX_MS });
    this.#replay = undefined;
    this.#connections = 0;
    this.#isClosed = false;
  }

  /** Throws `VLLM_EVENTS_ADDON_MISSING`, `VLLM_EVENTS_ENDPOINT`. */
  static async open(options: ZmqLinkOptions, events: ZmqLinkEvents): Promise<ZmqLink> {
    const link = new ZmqLink(await loadZmq(), options, events);
    try {
      await link.#start();
    } catch (error) {
      link.close();
      throw new ArmatureError('VLLM_EVENTS_ENDPOINT', `${options.endpoint} cannot be used for KV events: ${String(error)}`, {
        hint: options.listen ? 'the address is taken, or not one of this machine: choose another for engine.config.kvEvents.endpoint and --kv-events-config' : 'write it as tcp://HOST:PORT, as vLLM has it in --kv-events-config, with its host instead of *',
        cause: error,
      });
    }
    return link;
  }

  /** With `listen`: the address in use, its port resolved. */
  get endpoint(): string {
    return this.#options.listen ? (this.#subscriber.lastEndpoint ?? this.#options.endpoint) : this.#options.endpoint;
  }

  /** A socket of its own for each request: what an earlier one still sends is not mixed in. */
  requestReplay(from: number): void {
    if (this.#isClosed) return;
    this.#replay?.close();
    const replay = new this.#zmq.Dealer({ linger: 0, receiveHighWaterMark: HIGH_WATER_MARK, reconnectInterval: RECONNECT_MS, reconnectMaxInterval: RECONNECT_MAX_MS });
    this.#replay = replay;
    replay.connect(this.#options.replayEndpoint);
    replay.send([...replayRequest(from)]).catch(() => undefined); // closed meanwhile: another request follows, or none
    void this.#readReplay(replay);
  }

  /** Idempotent. */
  close(): void {
    this.#isClosed = true;
    this.#subscriber.close();
    this.#replay?.close();
  }

  async #start(): Promise<void> {
    const { endpoint, listen, topic } = this.#options;
    this.#subscriber.events.on('handshake', () => {
      this.#connections++;
      if (!this.#isClosed) this.#events.connected();
    });
    this.#subscriber.events.on('disconnect', () => {
      // One that ends without a handshake does so too.
      this.#connections = Math.max(0, this.#connections - 1);
      if (this.#connections === 0 && !this.#isClosed) this.#events.disconnected();
    });
    this.#subscriber.subscribe(topic);
    if (listen) await this.#subscriber.bind(endpoint);
    else this.#subscriber.connect(endpoint);
    void this.#read();
  }

  async #read(): Promise<void> {
    try {
      for await (const frames of this.#subscriber) {
        const frame = eventFrame(frames);
        if (frame === undefined) this.#options.log.debug('a message of KV events has other frames', { frames: frames.length });
        else this.#events.message(frame.sequence, frame.payload);
      }
    } catch (error) {
      if (!this.#isClosed) this.#options.log.error('the socket of KV events failed', { code: 'VLLM_EVENTS_ENDPOINT', error: String(error) });
    }
  }

  async #readReplay(replay: Zmq.Dealer): Promise<void> {
    try {
      for await (const frames of replay) {
        if (this.#replay !== replay || this.#isClosed) return;
        const frame = replayFrame(frames);
        if (frame === 'end') return this.#events.replayEnded();
        if (frame !== undefined) this.#events.replayed(frame.sequence, frame.payload);
      }
    } catch {
      // closed for another request; one that stays silent ends by its deadline
    }
  }
}

/** Throws `VLLM_EVENTS_ADDON_MISSING`. */
async function loadZmq(): Promise<ZmqModule> {
  try {
    const module = (await import('zeromq')) as ZmqModule & { readonly default?: ZmqModule };
    return module.default ?? module;
  } catch (error) {
    throw new ArmatureError('VLLM_EVENTS_ADDON_MISSING', `the native addon of the npm package zeromq cannot be loaded on ${process.platform}-${process.arch}: ${String(error)}`, {
      hint: 'run `npm install zeromq@6.8.0` on this kind of machine, or leave engine.config.kvEvents out',
      cause: error,
    });
  }
}
