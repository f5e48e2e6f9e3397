import type { KvEvent } from '@armature/contracts';

const CAPACITY_EVENTS = 8_192;
const FIRST_CAPACITY_EVENTS = 64;
const CAPACITY_WORDS = 4 * 1024 * 1024;

/** The last KV events of a worker, so that a router that missed some need not be told the whole state. Bounded by events and by words of hashes (16 MiB). */
export class EventHistory {
  /** Event `id` at `id % length`; grows to the capacity. */
  #events: (KvEvent | undefined)[];
  readonly #capacityEvents: number;
  readonly #capacityWords: number;
  /** Ids `first` to `last` are held. */
  #first = 1;
  #last = 0;
  #words = 0;

  constructor(capacityEvents = CAPACITY_EVENTS, capacityWords = CAPACITY_WORDS) {
    this.#events = emptyRing(Math.min(FIRST_CAPACITY_EVENTS, capacityEvents));
    this.#capacityEvents = capacityEvents;
    this.#capacityWords = capacityWords;
  }

  get lastEventId(): number {
    return this.#last;
  }

  push(event: KvEvent): void {
    if (event.eventId !== this.#last + 1) {
      // The engine skipped ids: what came before cannot be replayed up to here.
      this.#events.fill(undefined);
      this.#first = event.eventId;
      this.#words = 0;
    }
    this.#last = event.eventId;
    this.#words += wordsOf(event);
    if (this.#last - this.#first >= this.#events.length) {
      if (this.#events.length < this.#capacityEvents) this.#grow();
      else this.#drop();
    }
    this.#events[event.eventId % this.#events.length] = event;
    while (this.#words > this.#capacityWords && this.#first < this.#last) this.#drop();
  }

  /** Events `from` to `to`; undefined when some are gone, or not yet there. */
  slice(from: number, to: number): KvEvent[] | undefined {
    if (!(from >= this.#first && to <= this.#last && from <= to)) return undefined;
    const events: KvEvent[] = [];
    for (let id = from; id <= to; id++) events.push(this.#events[id % this.#events.length]!);
    return events;
  }

  #grow(): void {
    const grown = emptyRing(Math.min(this.#events.length * 2, this.#capacityEvents));
    for (let id = this.#first; id < this.#last; id++) grown[id % grown.length] = this.#events[id % this.#events.length];
    this.#events = grown;
  }

  #drop(): void {
    const at = this.#first % this.#events.length;
    const event = this.#events[at];
    if (event !== undefined) this.#words -= wordsOf(event);
    this.#events[at] = undefined;
    this.#first++;
  }
}

function emptyRing(length: number): (KvEvent | undefined)[] {
  return Array.from({ length }, () => undefined);
}

function wordsOf(event: KvEvent): number {
  return event.type === 'cleared' ? 0 : event.sequenceHashes.length;
}
