import { ArmatureError } from '@armature/contracts';
import type { Codec, PlainData } from '@armature/contracts';

/**
 * What travels, version 1. All numbers little-endian; `0xff` never occurs in UTF-8, so it ends the topic.
 *
 *     publisher → subscribers (XPUB), one frame each
 *       event   'e' subject 0xff  publisher[8] seq:u64 prev:u64 ordinal:u32  payload (codec)
 *       beat    'b' 0xff          publisher[8]  codec({ from, head, changed: [subject, seq, …] | null })
 *       reply   'r' token[8] 0xff publisher[8]  codec({ request, head, upTo, more, events: [event frame, …] })
 *     subscriber → publisher (XSUB, in order with its subscriptions)
 *       0x01 prefix · 0x00 prefix   subscribe, unsubscribe (ZeroMQ's own)
 *       0x02 codec({ v: 1, publisher, token, request, after, maxAgeMs, prefixes })
 *
 * `seq` counts all events of the publisher from 1; `prev` is the seq of its last event on the same subject (0: none), `ordinal` counts
 * the events of the subject.
 */
export interface EventFrame {
  readonly subject: string;
  readonly publisher: string;
  readonly seq: number;
  readonly prev: number;
  readonly ordinal: number;
  readonly payload: Uint8Array;
}
export interface Beat {
  /** Events after `from` up to `head` were on the subjects in `changed`; undefined: too many subjects to name. */
  readonly from: number;
  readonly head: number;
  readonly changed: readonly (readonly [subject: string, seq: number])[] | undefined;
}
export interface ReplayReply {
  readonly request: number;
  /** Newest event of the publisher when it answered; what follows on the wire is newer. */
  readonly head: number;
  /** All wanted events up to here are in this reply, or gone. */
  readonly upTo: number;
  readonly more: boolean;
  readonly events: readonly Uint8Array[];
}
export interface ReplayRequest {
  /** Whose events: another publisher that answers at the same address ignores the request. */
  readonly publisher: string;
  /** 16 hexadecimal digits: where the reply goes. */
  readonly token: string;
  readonly request: number;
  readonly after: number;
  /** Only events published in the last so many milliseconds of the publisher's clock; Infinity: all. */
  readonly maxAgeMs: number;
  readonly prefixes: readonly string[];
}

const EVENT = 0x65;
const BEAT = 0x62;
const REPLY = 0x72;
const END = 0xff;
const REQUEST = 0x02;
const ID_BYTES = 8;
const HEADER_BYTES = ID_BYTES + 8 + 8 + 4;
const VERSION = 1;

export const eventTopic = (prefix: string): Buffer => Buffer.from(`e${prefix}`, 'utf8');
export const beatTopic: Buffer = Buffer.from([BEAT]);
export const replyTopic = (token: string): Buffer => Buffer.concat([Buffer.from([REPLY]), Buffer.from(token, 'hex')]);
export const subscribeFrame = (topic: Buffer): Buffer => Buffer.concat([Buffer.from([1]), topic]);
export const unsubscribeFrame = (topic: Buffer): Buffer => Buffer.concat([Buffer.from([0]), topic]);

/** Its parts are not checked: `publisher` is 8 bytes. */
export function eventFrame(subject: string, publisher: Uint8Array, [seq, prev, ordinal]: readonly [number, number, number], payload: Uint8Array): Buffer {
  const subjectBytes = Buffer.byteLength(subject);
  const frame = Buffer.allocUnsafe(2 + subjectBytes + HEADER_BYTES + payload.length);
  frame[0] = EVENT;
  frame.write(subject, 1, 'utf8');
  let at = 1 + subjectBytes;
  frame[at++] = END;
  frame.set(publisher, at);
  writeU64(frame, seq, at + ID_BYTES);
  writeU64(frame, prev, at + ID_BYTES + 8);
  frame.writeUInt32LE(ordinal >>> 0, at + ID_BYTES + 16);
  frame.set(payload, at + HEADER_BYTES);
  return frame;
}

export function beatFrame(codec: Codec, publisher: Uint8Array, beat: Beat): Buffer {
  const changed = beat.changed?.flatMap((entry) => [...entry]) ?? null;
  return Buffer.concat([Buffer.from([BEAT, END]), publisher, codec.encode({ from: beat.from, head: beat.head, changed })]);
}

export function replyFrame(codec: Codec, publisher: Uint8Array, token: string, reply: ReplayReply): Buffer {
  return Buffer.concat([replyTopic(token), Buffer.from([END]), publisher, codec.encode({ ...reply })]);
}

export function requestFrame(codec: Codec, request: ReplayRequest): Buffer {
  const maxAgeMs = Number.isFinite(request.maxAgeMs) ? request.maxAgeMs : null;
  return Buffer.concat([Buffer.from([REQUEST]), codec.encode({ v: VERSION, ...request, maxAgeMs })]);
}

export type Downstream =
  | { readonly kind: 'event'; readonly event: EventFrame }
  | { readonly kind: 'beat'; readonly publisher: string; readonly beat: Beat }
  | { readonly kind: 'reply'; readonly publisher: string; readonly reply: ReplayReply };

/** Throws `EVENTS_ZMQ_FRAME_INVALID`. The payload is a view. */
export function parseDownstream(codec: Codec, frame: Buffer): Downstream {
  const kind = frame[0];
  // A token may contain 0xff: its length is known.
  const end = kind === REPLY ? 1 + ID_BYTES : frame.indexOf(END);
  const body = end + 1 + ID_BYTES;
  if (end < 1 || frame[end] !== END || body > frame.length) throw invalid(frame.length, 'its topic does not end');
  const publisher = frame.toString('hex', end + 1, body);
  if (kind === EVENT) return { kind: 'event', event: parseEvent(frame, end, publisher) };
  const value = record(codec.decode(frame.subarray(body)), frame.length);
  if (kind === BEAT) return { kind: 'beat', publisher, beat: parseBeat(value, frame.length) };
  if (kind === REPLY) return { kind: 'reply', publisher, reply: parseReply(value, frame.length) };
  throw invalid(frame.length, `it begins with ${kind}`);
}

/** Throws `EVENTS_ZMQ_FRAME_INVALID`; undefined: none of ours (ZeroMQ's own subscriptions). */
export function parseUpstream(codec: Codec, frame: Buffer): ReplayRequest | undefined {
  if (frame[0] !== REQUEST) return undefined;
  const value = record(codec.decode(frame.subarray(1)), frame.length);
  const { v, publisher, token, prefixes, maxAgeMs } = value;
  if (v !== VERSION) throw invalid(frame.length, `it speaks version ${String(v)}, this side version ${VERSION}`);
  const isWhole =
    typeof publisher === 'string' && typeof token === 'string' && /^[0-9a-f]{16}$/.test(token) && Array.isArray(prefixes) && prefixes.every((prefix) => typeof prefix === 'string');
  if (!isWhole || !(maxAgeMs === null || typeof maxAgeMs === 'number')) throw invalid(frame.length, 'a field is missing');
  return {
    publisher: publisher as string,
    token: token as string,
    request: count(value['request'], frame.length),
    after: count(value['after'], frame.length),
    maxAgeMs: (maxAgeMs as number | null) ?? Infinity,
    prefixes: prefixes as readonly string[],
  };
}

function parseEvent(frame: Buffer, end: number, publisher: string): EventFrame {
  const at = end + 1 + ID_BYTES;
  if (frame.length < end + 1 + HEADER_BYTES) throw invalid(frame.length, 'its header is cut');
  return {
    subject: frame.toString('utf8', 1, end),
    publisher,
    seq: readU64(frame, at),
    prev: readU64(frame, at + 8),
    ordinal: frame.readUInt32LE(at + 16),
    payload: frame.subarray(end + 1 + HEADER_BYTES),
  };
}

function parseBeat(value: Fields, length: number): Beat {
  const { changed } = value;
  const pairs: [string, number][] = [];
  if (Array.isArray(changed)) {
    for (let i = 0; i < changed.length; i += 2) pairs.push([String(changed[i]), count(changed[i + 1] as PlainData, length)]);
  }
  return { from: count(value['from'], length), head: count(value['head'], length), changed: changed === null ? undefined : pairs };
}

function parseReply(value: Fields, length: number): ReplayReply {
  const { events, more } = value;
  if (!Array.isArray(events) || !events.every((event) => event instanceof Uint8Array)) throw invalid(length, 'it has no events');
  return { request: count(value['request'], length), head: count(value['head'], length), upTo: count(value['upTo'], length), more: more === true, events: events as readonly Uint8Array[] };
}

type Fields = { readonly [key: string]: PlainData };

function record(value: PlainData, length: number): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || ArrayBuffer.isView(value)) throw invalid(length, 'it holds no fields');
  return value as Fields;
}

function count(value: PlainData, length: number): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw invalid(length, 'a count is none');
  return value;
}

function writeU64(frame: Buffer, value: number, at: number): void {
  frame.writeUInt32LE(value % 0x1_0000_0000, at);
  frame.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4);
}

function readU64(frame: Buffer, at: number): number {
  return frame.readUInt32LE(at) + frame.readUInt32LE(at + 4) * 0x1_0000_0000;
}

function invalid(length: number, why: string): ArmatureError {
  return new ArmatureError('EVENTS_ZMQ_FRAME_INVALID', `${length} bytes are no frame of this event plane: ${why}`, {
    hint: 'something else, or another version of Armature, publishes at an announced address',
  });
}
