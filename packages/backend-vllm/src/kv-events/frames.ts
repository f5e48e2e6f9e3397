export interface EventFrame {
  readonly sequence: number;
  readonly payload: Uint8Array;
}

/** `topic | number | payload`, as a subscriber gets it; undefined: something else. */
export function eventFrame(frames: readonly Uint8Array[]): EventFrame | undefined {
  const [, number, payload] = frames;
  if (frames.length !== 3 || number?.length !== 8 || payload === undefined) return undefined;
  return { sequence: u64(number), payload };
}

/** Of the replay socket: with or without the topic (since 0.26), behind an empty frame; a number of -1 ends it. */
export function replayFrame(frames: readonly Uint8Array[]): EventFrame | 'end' | undefined {
  const number = frames.at(-2);
  const payload = frames.at(-1);
  if (frames.length < 2 || frames.length > 4 || number?.length !== 8 || payload === undefined) return undefined;
  if (number.every((byte) => byte === 0xff)) return 'end';
  return { sequence: u64(number), payload };
}

/** Asks for everything from this number on. */
export function replayRequest(from: number): readonly [Buffer, Buffer] {
  const number = Buffer.alloc(8);
  number.writeBigUInt64BE(BigInt(from));
  return [Buffer.alloc(0), number];
}

function u64(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, 8);
  return view.getUint32(0) * 0x1_0000_0000 + view.getUint32(4);
}
