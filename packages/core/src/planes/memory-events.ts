import type { Counter, EventListener, EventPlane, PlainData } from '@armature/contracts';
import type { MemoryPlaneOptions } from './memory-discovery.ts';
import { SerialQueue } from './serial-queue.ts';

export interface MemoryEventOptions extends MemoryPlaneOptions {
  /** Undelivered events of one subscriber; a fuller buffer loses its oldest. */
  readonly bufferEvents: number;
  /** Counts what is lost. */
  readonly droppedEvents?: Counter;
}

interface Subscriber {
  readonly prefix: string;
  readonly listener: EventListener;
  /** Events not yet delivered, oldest first, from `first` on. */
  buffer: { readonly subject: string; readonly payload: PlainData }[];
  isOpen: boolean;
}

/** Subjects whose subscribers are remembered; beyond it the memory starts anew. */
const MAX_REMEMBERED_SUBJECTS = 8192;

/**
 * Events inside one process, delivered before `publish` returns. An event published inside a listener is delivered after the running
 * one, in order. A subscriber with `bufferEvents` undelivered events loses its oldest.
 */
export class MemoryEventPlane implements EventPlane {
  readonly supports = { processes: false } as const;
  readonly #options: MemoryEventOptions;
  readonly #subscribers = new Set<Subscriber>();
  #bySubject = new Map<string, readonly Subscriber[]>();
  readonly #queue: SerialQueue;
  #dropped = 0;
  #isClosed = false;

  constructor(options: MemoryEventOptions) {
    this.#options = options;
    this.#queue = new SerialQueue((error) => options.log.error('event listener threw', { error: String(error) }));
  }

  /** Events that slow subscribers lost. */
  get dropped(): number {
    return this.#dropped;
  }

  publish(subject: string, payload: PlainData): void {
    if (this.#isClosed) return;
    const subscribers = this.#matching(subject);
    if (subscribers.length === 0) return;
    const packed = this.#options.encode ? this.#options.codec.encode(payload) : payload;
    for (const subscriber of subscribers) {
      if (subscriber.buffer.length >= this.#options.bufferEvents) {
        subscriber.buffer.shift();
        this.#dropped++;
        this.#options.droppedEvents?.inc();
      }
      subscriber.buffer.push({ subject, payload: packed });
      this.#queue.push(() => this.#deliver(subscriber));
    }
    this.#queue.drain();
  }

  subscribe(prefix: string, listener: EventListener): { close(): void } {
    const subscriber: Subscriber = { prefix, listener, buffer: [], isOpen: !this.#isClosed };
    if (!this.#isClosed) this.#subscribers.add(subscriber);
    this.#bySubject.clear();
    return {
      close: () => {
        subscriber.isOpen = false;
        subscriber.buffer = [];
        this.#subscribers.delete(subscriber);
        this.#bySubject.clear();
      },
    };
  }

  close(): void {
    this.#isClosed = true;
    for (const subscriber of this.#subscribers) {
      subscriber.isOpen = false;
      subscriber.buffer = [];
    }
    this.#subscribers.clear();
    this.#bySubject.clear();
  }

  /** One event per call: as many calls are queued as events were buffered; those of dropped events find nothing. */
  #deliver(subscriber: Subscriber): void {
    const event = subscriber.buffer.shift();
    if (event === undefined || !subscriber.isOpen) return;
    const { codec, encode } = this.#options;
    subscriber.listener(event.subject, encode ? codec.decode(event.payload as Uint8Array) : event.payload);
  }

  #matching(subject: string): readonly Subscriber[] {
    let found = this.#bySubject.get(subject);
    if (found === undefined) {
      found = [...this.#subscribers].filter((subscriber) => subject.startsWith(subscriber.prefix));
      if (this.#bySubject.size >= MAX_REMEMBERED_SUBJECTS) this.#bySubject = new Map();
      this.#bySubject.set(subject, found);
    }
    return found;
  }
}
