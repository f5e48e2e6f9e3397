import type { Clock, Codec, Counter, Logger, Timer } from '@armature/contracts';
import { parseDownstream, requestFrame } from './frames.ts';
import type { Beat, Downstream, EventFrame, ReplayReply } from './frames.ts';
import { HeldFrames } from './held-frames.ts';

export interface StreamCounters {
  /** Gaps found, whether they could be closed or not. */
  readonly gaps: Counter;
  /** Events that came by replay and had not come before. */
  readonly replayed: Counter;
  /** Events that were published and could not be had any more. */
  readonly lost: Counter;
  /** Frames that were none, or another publisher's. */
  readonly refused: Counter;
}
export interface StreamSettings {
  /** Longest wait for an answer. */
  readonly replayTimeoutMs: number;
  /** How often is asked before later events are delivered with the gap. */
  readonly replayAttempts: number;
  /** Live events kept while a replay runs. */
  readonly heldBytes: number;
  /** A new subscription gets events that were published so long before it, too: the way of the request is not known. */
  readonly joinOverlapMs: number;
}
export interface PublisherStreamOptions extends StreamSettings {
  readonly publisher: string;
  readonly token: string;
  readonly clock: Clock;
  readonly codec: Codec;
  readonly log: Logger;
  readonly counters: StreamCounters;
  readonly deliver: (subject: string, payload: Uint8Array) => void;
  /** To the publisher, behind the subscriptions sent before. */
  readonly send: (frame: Buffer) => void;
}

/** `joining`: its past is being asked for. `unchecked`: the publisher did not answer; the first event of each subject is taken as it comes. */
interface Interest {
  readonly sinceMs: number;
  /** Events up to here were delivered, or are older than the subscription. */
  floor: number | 'joining' | 'unchecked';
}
interface Pending {
  readonly id: number;
  readonly after: number;
  readonly prefixes: readonly string[];
  /** Whose past is asked for, the longest-standing first; none: a gap is to be closed. */
  readonly joining: readonly Interest[];
  sent: number;
  timer: Timer | undefined;
}

/** Subjects whose last event is remembered; see `EventSourceOptions.maxSubjects`. */
const MAX_SUBJECTS = 65_536;

/**
 * What one subscriber knows of one publisher: puts its events in order, each once, and asks for what is missing before it delivers what
 * follows. No sockets: frames in, frames out.
 */
export class PublisherStream {
  readonly #options: PublisherStreamOptions;
  readonly #interests = new Map<string, Interest>();
  readonly #last = new Map<string, { seq: number; ordinal: number }>();
  readonly #held: HeldFrames;
  /** Everything up to here on every prefix was delivered, or is known to be gone. */
  #complete = 0;
  #isConnected = false;
  #isClosed = false;
  #hasGap = false;
  #pending: Pending | undefined;
  #requests = 0;

  constructor(options: PublisherStreamOptions) {
    this.#options = options;
    this.#held = new HeldFrames(options.heldBytes);
  }

  get heldBytes(): number {
    return this.#held.bytes;
  }
  /** Nothing is asked for and nothing is held. */
  get isLive(): boolean {
    return this.#isConnected && this.#pending === undefined;
  }

  /** The subscription frames of all prefixes are on the way: what is asked now is answered behind them. */
  connected(): void {
    // The first time there is nothing to make good: the joins ask.
    if ([...this.#interests.values()].some((interest) => interest.floor !== 'joining')) this.#hasGap = true;
    this.#isConnected = true;
    this.#dropPending();
    this.#next();
  }

  disconnected(): void {
    this.#isConnected = false;
    this.#dropPending();
  }

  /** Call after the subscription was sent. `sinceMs`: when it was made. */
  join(prefix: string, sinceMs: number): void {
    if (this.#interests.has(prefix)) return;
    const wider = [...this.#interests].find(([other]) => prefix.startsWith(other));
    this.#interests.set(prefix, wider === undefined ? { sinceMs, floor: 'joining' } : wider[1]);
    this.#next();
  }

  leave(prefix: string): void {
    this.#interests.delete(prefix);
    for (const subject of this.#last.keys()) if (this.#floorOf(subject) === undefined) this.#last.delete(subject);
  }

  receive(bytes: Buffer): void {
    if (this.#isClosed) return;
    try {
      const frame = parseDownstream(this.#options.codec, bytes);
      const from = frame.kind === 'event' ? frame.event.publisher : frame.publisher;
      if (from !== this.#options.publisher) this.#options.counters.refused.inc();
      else if (frame.kind === 'reply') this.#answered(frame.reply);
      else if (this.#pending !== undefined) this.#held.push(frame, bytes.length);
      else this.#take(frame, bytes.length);
    } catch (error) {
      this.#options.counters.refused.inc();
      this.#options.log.debug('frame refused', { code: 'EVENTS_ZMQ_FRAME_INVALID', error: String(error) });
    }
  }

  close(): void {
    this.#isClosed = true;
    this.#dropPending();
    this.#held.clear();
  }

  /** A live frame with nothing held before it. */
  #take(frame: Downstream, bytes: number): void {
    if (frame.kind === 'beat') this.#beat(frame.beat);
    else if (frame.kind === 'event') {
      if (this.#isConnected && this.#followsGap(frame.event)) {
        this.#hasGap = true;
        this.#options.counters.gaps.inc();
        this.#held.push(frame, bytes);
        this.#next();
      } else this.#accept(frame.event);
    }
  }

  #beat(beat: Beat): void {
    if (beat.head <= this.#complete) return;
    const isMissing = ([subject, seq]: readonly [string, number]): boolean => {
      const last = this.#lastOf(subject);
      return last !== undefined && last < seq;
    };
    if (beat.from <= this.#complete && beat.changed?.some(isMissing) === false) {
      this.#complete = beat.head;
      return;
    }
    if (beat.changed?.some(isMissing) === true) this.#options.counters.gaps.inc();
    this.#hasGap = true;
    this.#next();
  }

  /** Last seq delivered, or up to which nothing is wanted; undefined: anything may come. */
  #lastOf(subject: string): number | undefined {
    const last = this.#last.get(subject)?.seq;
    if (last !== undefined) return last;
    const floor = this.#floorOf(subject);
    if (floor === undefined) return Infinity;
    return typeof floor === 'number' ? Math.max(floor, this.#complete) : undefined;
  }

  #followsGap(event: EventFrame): boolean {
    const last = this.#lastOf(event.subject);
    // A replay went up to `#complete`: what is missing before is gone, not late.
    return last !== undefined && event.prev > last && event.seq > this.#complete;
  }

  #floorOf(subject: string): Interest['floor'] | undefined {
    let found: Interest['floor'] | undefined;
    for (const [prefix, { floor }] of this.#interests) {
      if (!subject.startsWith(prefix)) continue;
      if (typeof floor !== 'number') return floor;
      if (found === undefined || floor < (found as number)) found = floor;
    }
    return found;
  }

  /** 0 while one of them is none. */
  #lowestFloor(): number {
    let lowest = Infinity;
    for (const { floor } of this.#interests.values()) lowest = Math.min(lowest, typeof floor === 'number' ? floor : 0);
    return lowest === Infinity ? 0 : lowest;
  }

  /** True when it was new. What is missing before it is lost. */
  #accept(event: EventFrame): boolean {
    const { subject, seq, prev, ordinal } = event;
    const last = this.#lastOf(subject);
    if (last !== undefined && seq <= last) return false;
    const known = this.#last.get(subject);
    if (last !== undefined && prev > last) this.#options.counters.lost.inc(Math.max(1, known === undefined ? 1 : ordinal - known.ordinal - 1));
    if (known === undefined) {
      if (this.#last.size >= MAX_SUBJECTS) this.#last.delete(this.#last.keys().next().value as string);
      this.#last.set(subject, { seq, ordinal });
    } else {
      known.seq = seq;
      known.ordinal = ordinal;
    }
    this.#options.deliver(subject, event.payload);
    return true;
  }

  /** Asks for the next thing that is missing; when nothing is, what was held is delivered. */
  #next(): void {
    if (!this.#isConnected || this.#pending !== undefined || this.#isClosed) return;
    const joining = [...this.#interests].filter(([, interest]) => interest.floor === 'joining').sort(([, a], [, b]) => a.sinceMs - b.sinceMs);
    const first = joining[0];
    if (first !== undefined) {
      const together = joining.filter(([, interest]) => interest.sinceMs - first[1].sinceMs <= this.#options.joinOverlapMs);
      this.#ask(0, together.map(([prefix]) => prefix), together.map(([, interest]) => interest));
    } else if (this.#hasGap && this.#interests.size > 0) this.#ask(this.#complete, [...this.#interests.keys()], []);
    else {
      this.#hasGap = false;
      this.#release();
    }
  }

  #ask(after: number, prefixes: readonly string[], joining: readonly Interest[]): void {
    this.#pending = { id: ++this.#requests, after, prefixes, joining, sent: 0, timer: undefined };
    this.#send(this.#pending);
  }

  #send(pending: Pending): void {
    const { publisher, token, clock, codec, joinOverlapMs, replayTimeoutMs } = this.#options;
    const { id, after, prefixes, joining } = pending;
    pending.sent++;
    pending.timer = clock.setTimer(replayTimeoutMs, () => {
      if (this.#pending !== pending) return;
      if (pending.sent < this.#options.replayAttempts) this.#send(pending);
      else this.#giveUp(pending);
    });
    const sinceMs = joining[0]?.sinceMs;
    const maxAgeMs = sinceMs === undefined ? Infinity : clock.nowMs() - sinceMs + joinOverlapMs;
    this.#options.send(requestFrame(codec, { publisher, token, request: id, after, maxAgeMs, prefixes }));
  }

  #answered(reply: ReplayReply): void {
    const pending = this.#pending;
    if (pending === undefined || reply.request !== pending.id) return; // an answer to an older attempt
    this.#dropPending();
    for (const bytes of reply.events) {
      const frame = parseDownstream(this.#options.codec, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
      if (frame.kind === 'event' && this.#accept(frame.event)) this.#options.counters.replayed.inc();
    }
    if (this.#isClosed) return;
    if (reply.more) {
      this.#ask(reply.upTo, pending.prefixes, pending.joining);
      return;
    }
    for (const interest of pending.joining) interest.floor = reply.head;
    if (pending.joining.length === 0) {
      this.#hasGap = false;
      this.#complete = reply.head;
    } else this.#complete = Math.max(this.#complete, this.#lowestFloor());
    this.#next();
  }

  /** The publisher does not answer: what it still sends is delivered, with the gap counted. */
  #giveUp(pending: Pending): void {
    this.#dropPending();
    this.#options.log.warn('publisher did not answer a replay', { code: 'EVENTS_ZMQ_REPLAY_FAILED', publisher: this.#options.publisher, attempts: pending.sent });
    for (const interest of pending.joining) interest.floor = 'unchecked';
    this.#hasGap = false;
    for (let frame = this.#held.shift(); frame !== undefined; frame = this.#held.shift()) {
      if (frame.kind === 'event') this.#accept(frame.event);
      const upTo = frame.kind === 'event' ? frame.event.seq : frame.kind === 'beat' ? frame.beat.head : 0;
      if (pending.joining.length === 0 && upTo > this.#complete) this.#complete = upTo;
    }
    this.#next();
  }

  #release(): void {
    while (this.#pending === undefined && !this.#hasGap) {
      const entry = this.#held.peek();
      if (entry === undefined) return;
      // What shows a gap stays where it is, at the head of what is held.
      if (entry.frame.kind === 'event' && this.#followsGap(entry.frame.event)) {
        this.#hasGap = true;
        this.#options.counters.gaps.inc();
        this.#next();
        return;
      }
      this.#held.shift();
      this.#take(entry.frame, entry.bytes);
    }
  }

  #dropPending(): void {
    if (this.#pending?.timer !== undefined) this.#options.clock.clearTimer(this.#pending.timer);
    this.#pending = undefined;
  }
}

