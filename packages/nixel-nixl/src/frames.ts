// What travels in NIXL notifications: a type byte, then the body. Everything here comes from other processes.

export const FrameType = { User: 0, Bye: 1, Gone: 2, Ping: 3, Hello: 4 } as const;

export type Frame =
  /** A notification of the agent. */
  | { readonly type: 'user'; readonly payload: Uint8Array }
  /** The sender closes. */
  | { readonly type: 'bye' }
  /** Segments of the sender that are no longer registered. */
  | { readonly type: 'gone'; readonly segments: readonly number[] }
  /** Shows the sender that its connection stands; says nothing. */
  | { readonly type: 'ping' }
  /** How to reach the sender, who may have come here without being known: it wants to hear `gone` and `bye`. */
  | { readonly type: 'hello'; readonly connection: Uint8Array };

/** Notifications are sent eagerly by every backend; larger ones belong into a transfer. */
export const MAX_NOTIFICATION_BYTES = 64 << 10;
const MAX_SEGMENTS = 4096;

export const BYE: Uint8Array = Uint8Array.of(FrameType.Bye);
export const PING: Uint8Array = Uint8Array.of(FrameType.Ping);

export function userFrame(payload: Uint8Array): Uint8Array {
  const frame = new Uint8Array(1 + payload.length);
  frame.set(payload, 1);
  return frame;
}

export function helloFrame(connection: Uint8Array): Uint8Array {
  const frame = userFrame(connection);
  frame[0] = FrameType.Hello;
  return frame;
}

export function goneFrame(segment: number): Uint8Array {
  const frame = new Uint8Array(5);
  frame[0] = FrameType.Gone;
  new DataView(frame.buffer).setUint32(1, segment, true);
  return frame;
}

/** Undefined for anything malformed. */
export function decodeFrame(bytes: Uint8Array): Frame | undefined {
  if (bytes.length === 0 || bytes.length > MAX_NOTIFICATION_BYTES + 1) return undefined;
  switch (bytes[0]) {
    case FrameType.User:
      return { type: 'user', payload: bytes.subarray(1) };
    case FrameType.Bye:
      return bytes.length === 1 ? { type: 'bye' } : undefined;
    case FrameType.Ping:
      return bytes.length === 1 ? { type: 'ping' } : undefined;
    case FrameType.Hello:
      return bytes.length > 1 ? { type: 'hello', connection: bytes.subarray(1) } : undefined;
    case FrameType.Gone:
      return decodeGone(bytes);
    default:
      return undefined;
  }
}

function decodeGone(bytes: Uint8Array): Frame | undefined {
  const count = (bytes.length - 1) / 4;
  if (!Number.isInteger(count) || count === 0 || count > MAX_SEGMENTS) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset + 1);
  return { type: 'gone', segments: Array.from({ length: count }, (_, i) => view.getUint32(i * 4, true)) };
}

/** Name of the NIXL agent of one life of an agent: metadata of an earlier life never fits a later one. */
export function nixlName(agent: string, incarnation: string): string {
  return `${encodeURIComponent(agent)}#${encodeURIComponent(incarnation)}`;
}

/** The agent's name in a NIXL name; undefined when it is not one of ours. */
export function agentOf(name: string): string | undefined {
  const parts = name.split('#');
  if (parts.length !== 2 || parts[0] === '') return undefined;
  try {
    return decodeURIComponent(parts[0]!);
  } catch {
    return undefined;
  }
}
