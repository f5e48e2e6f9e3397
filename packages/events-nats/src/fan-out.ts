import type { Codec, Counter, EventListener, Logger } from '@armature/contracts';

export interface FanOutOptions {
  readonly codec: Codec;
  readonly log: Logger;
  /** Undelivered events of one subscriber; a fuller buffer loses its oldest. */
  readonly bufferEvents: number;
  readonly delivered: Counter;
  readonly dropped: Counter;
}

interface PackedEvent {
  readonly subject: string;
  readonly payload: Uint8Array;
}

/** Subjects whose subscribers are remembered; beyond it the memory starts anew. */
const MAX_REMEMBERED_SUBJECTS = 8192;

class Subscriber {
  readonly group: string;
  readonly prefix: string;
  readonly listener: EventListener;
  isOpen = true;
  isReady = false;
  #events: (PackedEvent | undefined)[] = [];
  #first = 0;

  constructor(group: string, prefix: string, listener: EventListener) {
    this.group = group;
    this.prefix = prefix;
    this.listener = listener;
  }

  /** True when an event was lost for it. */
  push(event: PackedEvent, bound: number): boolean {
    const isFull = this.#events.length - this.#first >= bound;
    if (isFull) this.#events[this.#first++] = undefined;
    this.#events.push(event);
    if (this.#first > 1024 && this.#first * 2 > this.#events.length) {
      this.#events = this.#events.slice(this.#first);
      this.#first = 0;
    }
    return isFull;
  }

  shift(): PackedEvent | undefined {
    const event = this.#events[this.#first];
    if (event === undefined) {
      this.#events = [];
      this.#first = 0;
      return undefined;
    }
    this.#events[this.#first++] = undefined;
    return event;
  }

  close(): void {
    this.isOpen = false;
    this.#events = [];
    this.#first = 0;
  }
}

/**
 * The subscribers of one process: packed events in, listeners called, each with a copy of its own. An event pushed inside a listener
 * is delivered after the running one. While a listener runs its buffer fills up to `bufferEvents` and then loses its oldest.
 */
export class FanOut {
  readonly #options: FanOutOptions;
  readonly #subscribers = new Set<Subscriber>();
  #bySubject = new Map<string, readonly Subscriber[]>();
  #ready: Subscriber[] = [];
  #isDraining = false;

  constructor(options: FanOutOptions) {
    this.#options = options;
  }

  /** `group`: which subscription on the wire brings its events. `closed` is called once, by the first `close`. */
  add(group: string, prefix: string, listener: EventListener, closed: () => void): { close(): void } {
    const subscriber = new Subscriber(group, prefix, listener);
    this.#subscribers.add(subscriber);
    this.#bySubject.clear();
    return {
      close: () => {
        if (!this.#subscribers.delete(subscriber)) return;
        subscriber.close();
        this.#bySubject.clear();
        closed();
      },
    };
  }

  /** To the subscribers of `group`; undefined: to all (an event of this process). */
  push(subject: string, payload: Uint8Array, group?: string): void {
    const subscribers = this.#matching(subject, group);
    if (subscribers.length === 0) return;
    const event = { subject, payload };
    for (const subscriber of subscribers) {
      if (subscriber.push(event, this.#options.bufferEvents)) this.#options.dropped.inc();
      if (!subscriber.isReady) {
        subscriber.isReady = true;
        this.#ready.push(subscriber);
      }
    }
    this.#drain();
  }

  close(): void {
    for (const subscriber of this.#subscribers) subscriber.close();
    this.#subscribers.clear();
    this.#bySubject.clear();
  }

  #drain(): void {
    if (this.#isDraining) return;
    this.#isDraining = true;
    for (let subscriber = this.#ready.shift(); subscriber !== undefined; subscriber = this.#ready.shift()) {
      for (let event = subscriber.shift(); event !== undefined; event = subscriber.shift()) this.#deliver(subscriber, event);
      subscriber.isReady = false;
    }
    this.#isDraining = false;
  }

  #deliver(subscriber: Subscriber, event: PackedEvent): void {
    try {
      const payload = this.#options.codec.decode(event.payload);
      this.#options.delivered.inc();
      subscriber.listener(event.subject, payload);
    } catch (error) {
      this.#options.log.error('event listener threw, or the event was unreadable', { subject: event.subject, error: String(error) });
    }
  }

  #matching(subject: string, group: string | undefined): readonly Subscriber[] {
    const key = `${group ?? ''} ${subject}`; // no group has a space
    let found = this.#bySubject.get(key);
    if (found === undefined) {
      found = [...this.#subscribers].filter((subscriber) => (group === undefined || subscriber.group === group) && subject.startsWith(subscriber.prefix));
      if (this.#bySubject.size >= MAX_REMEMBERED_SUBJECTS) this.#bySubject = new Map();
      this.#bySubject.set(key, found);
    }
    return found;
  }
}
