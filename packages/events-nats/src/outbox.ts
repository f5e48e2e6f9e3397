import type { Counter } from '@armature/contracts';

export interface OutboxOptions {
  /** Bytes kept while the connection is away or the server does not keep up; a fuller outbox loses its oldest. */
  readonly capacityBytes: number;
  /** Bytes under way that the server has not confirmed to have read. */
  readonly windowBytes: number;
  readonly dropped: Counter;
  readonly send: (subject: string, payload: Uint8Array) => void;
  /** Resolves when the server has read everything sent before. */
  readonly confirm: () => Promise<void>;
}

interface Waiting {
  readonly subject: string;
  readonly payload: Uint8Array;
}

/** What one event costs beside its payload, roughly: its subject and the objects that hold it. */
const EVENT_BYTES = 128;

/** Bounds what waits for the server on this side: nats.js itself and the socket would buffer without end. */
export class Outbox {
  readonly #options: OutboxOptions;
  #waiting: (Waiting | undefined)[] = [];
  #first = 0;
  #waitingBytes = 0;
  #isConnected = false;
  /** Connections so far: a confirmation of an older one says nothing. */
  #generation = 0;
  #inFlightBytes = 0;
  #unmarkedBytes = 0;

  constructor(options: OutboxOptions) {
    this.#options = options;
  }

  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  connected(): void {
    this.#isConnected = true;
    this.#generation++;
    this.#inFlightBytes = 0;
    this.#unmarkedBytes = 0;
    this.#pump();
  }

  disconnected(): void {
    this.#isConnected = false;
  }

  push(subject: string, payload: Uint8Array): void {
    if (this.#first === this.#waiting.length && this.#hasRoom) {
      this.#send(subject, payload);
      return;
    }
    this.#waiting.push({ subject, payload });
    this.#waitingBytes += payload.length + EVENT_BYTES;
    while (this.#waitingBytes > this.#options.capacityBytes && this.#first < this.#waiting.length) {
      this.#shift();
      this.#options.dropped.inc();
    }
  }

  get #hasRoom(): boolean {
    return this.#isConnected && this.#inFlightBytes < this.#options.windowBytes;
  }

  #pump(): void {
    while (this.#hasRoom) {
      const event = this.#shift();
      if (event === undefined) return;
      this.#send(event.subject, event.payload);
    }
  }

  #shift(): Waiting | undefined {
    const event = this.#waiting[this.#first];
    if (event === undefined) return undefined;
    this.#waiting[this.#first++] = undefined;
    this.#waitingBytes -= event.payload.length + EVENT_BYTES;
    if (this.#first === this.#waiting.length || this.#first > 4096) {
      this.#waiting = this.#waiting.slice(this.#first);
      this.#first = 0;
    }
    return event;
  }

  #send(subject: string, payload: Uint8Array): void {
    const bytes = payload.length + EVENT_BYTES;
    this.#options.send(subject, payload);
    this.#inFlightBytes += bytes;
    this.#unmarkedBytes += bytes;
    if (this.#unmarkedBytes < this.#options.windowBytes / 8) return;
    const marked = this.#unmarkedBytes;
    const generation = this.#generation;
    this.#unmarkedBytes = 0;
    const confirmed = (): void => {
      if (generation !== this.#generation) return;
      this.#inFlightBytes -= marked;
      this.#pump();
    };
    this.#options.confirm().then(confirmed, () => undefined); // the next connection begins anew
  }
}
