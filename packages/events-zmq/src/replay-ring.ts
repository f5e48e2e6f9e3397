export interface RingEntry {
  readonly seq: number;
  readonly subject: string;
  readonly frame: Buffer;
  /** When it was published, on the publisher's clock. */
  readonly atMs: number;
}

/** The last events of a publisher, bounded by number and by bytes; the oldest go first. The newest is always kept. */
export class ReplayRing {
  readonly #entries: (RingEntry | undefined)[];
  readonly #capacityBytes: number;
  #first = 1;
  #head = 0;
  #bytes = 0;

  constructor(capacityEvents: number, capacityBytes: number) {
    this.#entries = Array.from({ length: capacityEvents }, () => undefined);
    this.#capacityBytes = capacityBytes;
  }

  /** Seq of the newest event, 0 = none. */
  get head(): number {
    return this.#head;
  }
  get bytes(): number {
    return this.#bytes;
  }
  get length(): number {
    return this.#head - this.#first + 1;
  }

  /** `entry.seq` is `head + 1`. */
  push(entry: RingEntry): void {
    if (this.length >= this.#entries.length) this.#drop();
    this.#head = entry.seq;
    this.#bytes += entry.frame.length;
    this.#entries[entry.seq % this.#entries.length] = entry;
    while (this.#bytes > this.#capacityBytes && this.#first < this.#head) this.#drop();
  }

  /** Events after `after`, not older than `sinceMs`, that begin with one of `prefixes`: as many as fit into `limitBytes`, at least one. */
  select(after: number, sinceMs: number, prefixes: readonly string[], limitBytes: number): { readonly events: Buffer[]; readonly upTo: number; readonly more: boolean } {
    const events: Buffer[] = [];
    let bytes = 0;
    for (let seq = Math.max(after + 1, this.#first); seq <= this.#head; seq++) {
      const entry = this.#entries[seq % this.#entries.length]!;
      if (entry.atMs < sinceMs || !prefixes.some((prefix) => entry.subject.startsWith(prefix))) continue;
      if (bytes > 0 && bytes + entry.frame.length > limitBytes) return { events, upTo: seq - 1, more: true };
      events.push(entry.frame);
      bytes += entry.frame.length;
    }
    return { events, upTo: this.#head, more: false };
  }

  #drop(): void {
    const at = this.#first % this.#entries.length;
    this.#bytes -= this.#entries[at]?.frame.length ?? 0;
    this.#entries[at] = undefined;
    this.#first++;
  }
}
