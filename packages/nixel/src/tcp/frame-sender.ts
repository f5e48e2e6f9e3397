import type net from 'node:net';
import { FrameType, header, HEADER_BYTES, writeHeader } from './frames.ts';
import type { ListCursor } from './cursor.ts';
import { descriptorOf, VectorTable } from './vector-io.ts';
import type { VectorIo } from './vector-io.ts';

/** Frames given to Node's queue and not yet taken by the kernel: enough to keep it busy, few enough to stop soon. */
const MAX_PENDING = 2;

/** Writes frames. Payload goes by `writev` straight from the segments while the kernel takes it, else through Node's queue, without copies. */
export class FrameSender {
  readonly #socket: net.Socket;
  readonly #io: VectorIo | undefined;
  readonly #onRoom: () => void;
  readonly #heads = Buffer.allocUnsafeSlow(2 * HEADER_BYTES);
  readonly #table = new VectorTable();
  #pending = 0;

  /** `onRoom` is called when `hasRoom` turns true again. */
  constructor(socket: net.Socket, io: VectorIo | undefined, onRoom: () => void) {
    this.#socket = socket;
    this.#io = io;
    this.#onRoom = onRoom;
  }

  get hasRoom(): boolean {
    return this.#io === undefined ? this.#pending < MAX_PENDING : this.#pending === 0;
  }

  send(type: number, id: number, value: number, body?: Uint8Array): void {
    const socket = this.#socket;
    if (body === undefined || body.length === 0) {
      socket.write(header(type, id, value, 0));
      return;
    }
    socket.cork();
    socket.write(header(type, id, value, body.length));
    socket.write(body);
    socket.uncork();
  }

  /** One Data frame with at most `limit` of the next bytes, and an End when they are the last and `end` is given. False: a segment is gone. */
  data(id: number, cursor: ListCursor, limit: number, end?: number): boolean {
    const bytes = Math.min(limit, cursor.left);
    const fd = this.#io !== undefined && this.#socket.writableLength === 0 ? descriptorOf(this.#socket) : undefined;
    return fd === undefined ? this.#queue(id, cursor, bytes, end) : this.#vectored({ id, cursor, bytes, end, fd, io: this.#io! });
  }

  #vectored({ id, cursor, bytes, end, fd, io }: { id: number; cursor: ListCursor; bytes: number; end: number | undefined; fd: number; io: VectorIo }): boolean {
    const table = this.#table;
    const heads = this.#heads;
    const headsAt = io.addressOf(heads);
    table.clear();
    table.add(headsAt, HEADER_BYTES);
    if (!cursor.vectors(table, bytes, io)) return false;
    const payload = table.bytes - HEADER_BYTES;
    writeHeader(heads, { at: 0, type: FrameType.Data, id, value: 0, bodyBytes: payload });
    const ends = end !== undefined && payload === cursor.left;
    if (ends) {
      writeHeader(heads, { at: HEADER_BYTES, type: FrameType.End, id, value: end, bodyBytes: 0 });
      table.add(headsAt + HEADER_BYTES, HEADER_BYTES);
    }
    const sent = Math.max(0, io.writev(fd, table.words, table.count));
    const sentPayload = Math.min(Math.max(sent - HEADER_BYTES, 0), payload);
    cursor.skip(sentPayload);
    if (sent === table.bytes) return true;
    return this.#rest(cursor, payload - sentPayload, Buffer.from(heads.subarray(Math.min(sent, HEADER_BYTES), HEADER_BYTES)), ends ? Buffer.from(heads.subarray(HEADER_BYTES + Math.max(0, sent - HEADER_BYTES - payload))) : undefined);
  }

  #queue(id: number, cursor: ListCursor, bytes: number, end: number | undefined): boolean {
    const ends = end !== undefined && bytes === cursor.left;
    return this.#rest(cursor, bytes, header(FrameType.Data, id, 0, bytes), ends ? header(FrameType.End, id, end, 0) : undefined);
  }

  /** What the kernel did not take: one run of writes, so that no other frame comes in between. */
  #rest(cursor: ListCursor, bytes: number, head: Buffer, tail: Buffer | undefined): boolean {
    const views = cursor.gather(bytes);
    if (views === undefined) return false;
    const socket = this.#socket;
    this.#pending++;
    const all = [head, ...views, ...(tail === undefined ? [] : [tail])].filter((view) => view.length > 0);
    socket.cork();
    for (let i = 0; i < all.length - 1; i++) socket.write(all[i]!);
    socket.write(all.at(-1)!, this.#taken);
    socket.uncork();
    return true;
  }

  readonly #taken = (): void => {
    const hadRoom = this.hasRoom;
    this.#pending--;
    if (!hadRoom && this.hasRoom) this.#onRoom();
  };
}
