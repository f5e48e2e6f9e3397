import type { Logger } from '@armature/contracts';
import type { XSubscriber } from 'zeromq';
import { beatTopic, eventTopic, replyTopic, subscribeFrame, unsubscribeFrame } from './frames.ts';
import type { PublisherStream } from './publisher-stream.ts';

export interface PublisherLinkOptions {
  readonly address: string;
  readonly token: string;
  readonly socket: XSubscriber;
  readonly log: Logger;
  /** Made by the owner, so that it can be tested without sockets. */
  readonly stream: (send: (frame: Buffer) => void) => PublisherStream;
}

/** The connection to one publisher. ZeroMQ reconnects by itself and sends the subscriptions again; the stream asks for what was missed. */
export class PublisherLink {
  readonly address: string;
  readonly #socket: XSubscriber;
  readonly #log: Logger;
  readonly #stream: PublisherStream;
  #isConnected = false;
  #isClosed = false;

  constructor(options: PublisherLinkOptions) {
    this.address = options.address;
    this.#socket = options.socket;
    this.#log = options.log;
    this.#stream = options.stream((frame) => this.#send(frame));
    this.#send(subscribeFrame(beatTopic));
    this.#send(subscribeFrame(replyTopic(options.token)));
    this.#watch();
    this.#socket.connect(options.address);
    void this.#receive();
  }

  get isConnected(): boolean {
    return this.#isConnected;
  }
  get stream(): PublisherStream {
    return this.#stream;
  }

  join(prefix: string, sinceMs: number): void {
    this.#send(subscribeFrame(eventTopic(prefix)));
    this.#stream.join(prefix, sinceMs);
  }

  leave(prefix: string): void {
    this.#send(unsubscribeFrame(eventTopic(prefix)));
    this.#stream.leave(prefix);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#stream.close();
    this.#socket.close();
  }

  #watch(): void {
    const { events } = this.#socket;
    const { address } = this;
    events.on('handshake', () => {
      if (this.#isClosed) return;
      this.#isConnected = true;
      this.#log.debug('connected to publisher', { address });
      this.#stream.connected();
    });
    events.on('disconnect', () => {
      if (this.#isClosed) return;
      this.#isConnected = false;
      this.#log.info('publisher disconnected', { address });
      this.#stream.disconnected();
    });
    for (const type of ['handshake:error:auth', 'handshake:error:protocol', 'handshake:error:other'] as const) {
      events.on(type, (event) => {
        const reason = 'error' in event ? String(event.error) : type;
        this.#log.warn('publisher refused the connection, or is none', { code: 'EVENTS_ZMQ_HANDSHAKE_FAILED', address, reason });
      });
    }
  }

  async #receive(): Promise<void> {
    try {
      for await (const [frame] of this.#socket) if (frame !== undefined) this.#stream.receive(frame);
    } catch (error) {
      if (!this.#isClosed) this.#log.error('subscriber socket failed', { code: 'EVENTS_ZMQ_SOCKET_FAILED', address: this.address, error: String(error) });
    }
  }

  #send(frame: Buffer): void {
    if (this.#isClosed) return;
    // Requests that find no room are asked again; subscriptions always find it.
    this.#socket.send(frame).catch((error: unknown) => this.#log.debug('send failed', { address: this.address, error: String(error) }));
  }
}
