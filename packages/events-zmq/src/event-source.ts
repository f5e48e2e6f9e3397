import { randomBytes } from 'node:crypto';
import type { Clock, Codec } from '@armature/contracts';
import { beatFrame, eventFrame, parseUpstream, replyFrame } from './frames.ts';
import { ReplayRing } from './replay-ring.ts';

export interface EventSourceOptions {
  readonly clock: Clock;
  readonly codec: Codec;
  readonly replayEvents: number;
  readonly replayBytes: number;
  /** Subjects whose last event is remembered; of more the one known longest is forgotten, and a gap before its next event is not seen. */
  readonly maxSubjects?: number;
}

/** Of one reply; a subscriber asks for the next when it has read this one, so that no publisher buffers for a slow one. */
const REPLY_BYTES = 256 * 1024;
/** A beat that would name more subjects names none. */
const BEAT_SUBJECTS = 512;

/** One publisher's numbering, replay buffer and answers; no sockets. Every start is a new publisher with an id of its own. */
export class EventSource {
  readonly idBytes: Uint8Array = randomBytes(8);
  readonly id: string = Buffer.from(this.idBytes).toString('hex');
  readonly #options: EventSourceOptions;
  readonly #ring: ReplayRing;
  readonly #subjects = new Map<string, { seq: number; ordinal: number }>();
  #changed = new Map<string, number>();
  #beatHead = 0;

  constructor(options: EventSourceOptions) {
    this.#options = options;
    this.#ring = new ReplayRing(options.replayEvents, options.replayBytes);
  }

  get head(): number {
    return this.#ring.head;
  }
  get replayBytes(): number {
    return this.#ring.bytes;
  }

  /** The frame to send; it is kept for replay and must not be changed. */
  publish(subject: string, payload: Uint8Array): Buffer {
    const seq = this.#ring.head + 1;
    const last = this.#subjects.get(subject);
    const ordinal = (last?.ordinal ?? 0) + 1;
    const frame = eventFrame(subject, this.idBytes, [seq, last?.seq ?? 0, ordinal], payload);
    if (last === undefined) this.#remember(subject, seq);
    else {
      last.seq = seq;
      last.ordinal = ordinal;
    }
    if (this.#changed.size <= BEAT_SUBJECTS) this.#changed.set(subject, seq);
    this.#ring.push({ seq, subject, frame, atMs: this.#options.clock.nowMs() });
    return frame;
  }

  /** Tells subscribers which subjects have news, so that a lost last event is missed too. */
  beat(): Buffer {
    const from = this.#beatHead;
    const changed = this.#changed.size > BEAT_SUBJECTS ? undefined : [...this.#changed];
    this.#beatHead = this.#ring.head;
    this.#changed = new Map();
    return beatFrame(this.#options.codec, this.idBytes, { from, head: this.#ring.head, changed });
  }

  /** Answer to a frame from a subscriber; undefined when it is not for this publisher. Throws on broken frames. */
  answer(frame: Buffer): Buffer | undefined {
    const { codec, clock } = this.#options;
    const request = parseUpstream(codec, frame);
    if (request === undefined || request.publisher !== this.id) return undefined;
    const { events, upTo, more } = this.#ring.select(request.after, clock.nowMs() - request.maxAgeMs, request.prefixes, REPLY_BYTES);
    return replyFrame(codec, this.idBytes, request.token, { request: request.request, head: this.#ring.head, upTo, more, events });
  }

  #remember(subject: string, seq: number): void {
    const bound = this.#options.maxSubjects ?? 65_536;
    if (this.#subjects.size >= bound) this.#subjects.delete(this.#subjects.keys().next().value as string);
    this.#subjects.set(subject, { seq, ordinal: 1 });
  }
}
