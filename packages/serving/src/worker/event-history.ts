import type { KvEvent } from '@armature/contracts';

const CAPACITY_EVENTS = 8_192;
const CAPACITY_WORDS = 4 * 1024 * 1024;

/** The last KV events of a worker, so that a router that missed some need not be told the whole state. Bounded by events and by words of hashes (16 MiB). */
export class EventHistory {
  readonly #events: (KvEvent | undefined)[];
  readonly #capacityWords: number;
  /** Ids `first` to `last` are held. */
  #first = 1;
  #last = 0;
  #words = 0;

  constructor(capacityEvents = CAPACITY_EVENTS, capacityWords = CAPACITY_WORDS) {
    this.#events = Array.from({ length: capacityEvents }, () => undefined);
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
    const at = event.eventId % this.#events.length;
    if (this.#last - this.#first >= this.#events.length) this.#drop();
    this.#events[at] = event;
    while (this.#words > this.#capacityWords && this.#first < this.#last) this.#drop();
  }

  /** Events `from` to `to`; undefined when some are gone, or not yet there. */
  slice(from: number, to: number): KvEvent[] | undefined {
    if (!(from >= this.#first && to <= this.#last && from <= to)) return undefined;
    const events: KvEvent[] = [];
    for (let id = from; id <= to; id++) events.push(this.#events[id % this.#events.length]!);
    return events;
  }

  #drop(): void {
    const at = this.#first % this.#events.length;
    const event = this.#events[at];
    if (event !== undefined) this.#words -= wordsOf(event);
    this.#events[at] = undefined;
    this.#first++;
  }
}

function wordsOf(event: KvEvent): number {
  return event.type === 'cleared' ? 0 : event.sequenceHashes.length;
}
