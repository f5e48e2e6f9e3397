import type net from 'node:net';
import { frameInvalid, header } from '../tcp/frames.ts';
import type { SegmentFacts } from './pieces.ts';

/** The control socket speaks the frames of the tcp transport (challenge, hello, welcome, notify, error) and two of its own. */
export const LocalFrame = {
  /** c→s, value 0 read or 1 write, body: descriptor table of the owner's memory. */
  Ask: 32,
  /** s→c, value: `Done` or why not; body: facts of the segments named, as JSON. */
  Verdict: 33,
  /** s→c, value: a segment that was deregistered. */
  Gone: 34,
} as const;

/** Rows of one Ask. */
export const MAX_ASK_ROWS = 65_536;
export const MAX_VERDICT_BYTES = 1 << 20;
/** A peer that reads nothing is cut off, its notifications are refused. */
export const MAX_QUEUED_BYTES = 16 << 20;

export interface Verdict {
  /** Of the control page when the question was answered. */
  readonly epoch: number;
  readonly segments: readonly SegmentFacts[];
}

export function encodeVerdict(verdict: Verdict): Buffer {
  return Buffer.from(JSON.stringify(verdict));
}

/** Throws `TRANSFER_FRAME_INVALID`. */
export function decodeVerdict(body: Buffer): Verdict {
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8'));
  } catch {
    throw frameInvalid('a verdict that is no JSON');
  }
  const { epoch, segments } = (value ?? {}) as Partial<Record<keyof Verdict, unknown>>;
  if (!Number.isInteger(epoch) || !Array.isArray(segments)) throw frameInvalid('a verdict without epoch or segments');
  return { epoch: epoch as number, segments: segments.map(checkedFacts) };
}

function checkedFacts(value: unknown): SegmentFacts {
  const { id, lengthBytes, isWhole, place } = (value ?? {}) as Partial<Record<keyof SegmentFacts, unknown>>;
  const isPlain = place === undefined || (typeof place === 'object' && place !== null && Object.values(place).every((fact) => Number.isSafeInteger(fact) && (fact as number) >= 0));
  if (!Number.isInteger(id) || !Number.isSafeInteger(lengthBytes) || (lengthBytes as number) < 0 || typeof isWhole !== 'boolean' || !isPlain) throw frameInvalid('a verdict with a torn segment');
  return { id: id as number, lengthBytes: lengthBytes as number, isWhole, place: place as Record<string, number> | undefined };
}

export function send(socket: net.Socket, type: number, id: number, value: number, body?: Uint8Array): void {
  socket.cork();
  socket.write(header(type, id, value, body?.length ?? 0));
  if (body !== undefined && body.length > 0) socket.write(body);
  socket.uncork();
}

/** Descriptor of a connected pipe; undefined when Node hides it. */
export function socketFd(socket: net.Socket): number | undefined {
  const fd = (socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd;
  return typeof fd === 'number' && fd >= 0 ? fd : undefined;
}

