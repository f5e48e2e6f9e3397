import assert from 'node:assert/strict';
import fs from 'node:fs';
import { TransferStatus } from '../transfer-transport.ts';
import type { KvBlockMover, KvMemory, KvMemoryLayout, KvOperation } from '../kv-tier.ts';

interface Registered {
  readonly bytes: Uint8Array | undefined;
  readonly fd: number;
  readonly lengthBytes: number;
}

/**
 * A `KvBlockMover` over plain memory and files, for tests of tiers without a transfer agent: one system call for each piece, memory copied in the next turn
 * of the event loop.
 */
export class PlainMover implements KvBlockMover {
  readonly #segments = new Map<number, Registered>();
  #nextSegment = 1;
  #running = 0;

  /** Copies that have not ended. */
  get running(): number {
    return this.#running;
  }

  registerMemory({ bytes }: { readonly bytes: Uint8Array }, layout: KvMemoryLayout): KvMemory {
    return this.#register({ bytes, fd: -1, lengthBytes: bytes.length }, layout);
  }

  registerFile(file: { readonly fd: number }, lengthBytes: number, layout: KvMemoryLayout): KvMemory {
    return this.#register({ bytes: undefined, fd: file.fd, lengthBytes }, layout);
  }

  view(memory: KvMemory, layout: KvMemoryLayout): KvMemory {
    const registered = this.#segments.get(memory.segment);
    assert.ok(registered !== undefined, `segment ${memory.segment} is not registered`);
    return memoryOf(memory.segment, registered, layout);
  }

  deregister({ segment }: KvMemory): void {
    this.#segments.delete(segment);
  }

  copy(from: KvMemory, fromBlocks: Int32Array, to: KvMemory, toBlocks: Int32Array, deadlineMs: number, done: (status: TransferStatus) => void): KvOperation {
    const source = this.#segments.get(from.segment);
    const target = this.#segments.get(to.segment);
    if (source === undefined || target === undefined) return ended(done, TransferStatus.NotFound);
    const isSame = from.pieces === to.pieces && from.pieceBytes === to.pieceBytes && fromBlocks.length === toBlocks.length;
    if (!isSame || !areBlocks(fromBlocks, from.blocks) || !areBlocks(toBlocks, to.blocks)) return ended(done, TransferStatus.InvalidDescriptor);
    const sides = { from, fromBlocks: fromBlocks.slice(), to, toBlocks: toBlocks.slice(), source, target, isCanceled: false };
    const expiresAtMs = performance.now() + deadlineMs;
    this.#running++;
    setImmediate(() => {
      void this.#move(sides, expiresAtMs).then((status) => {
        this.#running--;
        done(status);
      });
    });
    return { cancel: () => void (sides.isCanceled = true) };
  }

  async #move(sides: Sides, expiresAtMs: number): Promise<TransferStatus> {
    const { from, fromBlocks, to, toBlocks } = sides;
    for (let row = 0; row < fromBlocks.length; row++) {
      for (let piece = 0; piece < from.pieces; piece++) {
        if (sides.isCanceled) return TransferStatus.Canceled;
        if (performance.now() >= expiresAtMs) return TransferStatus.TimedOut;
        const at = fromBlocks[row] * from.blockStrideBytes + piece * from.pieceStrideBytes;
        const target = toBlocks[row] * to.blockStrideBytes + piece * to.pieceStrideBytes;
        if (!(await movePiece(sides, at, target))) return TransferStatus.TransportError;
      }
    }
    return TransferStatus.Done;
  }

  #register(registered: Registered, layout: KvMemoryLayout): KvMemory {
    const segment = this.#nextSegment++;
    this.#segments.set(segment, registered);
    return memoryOf(segment, registered, layout);
  }
}

interface Sides {
  readonly from: KvMemory;
  readonly fromBlocks: Int32Array;
  readonly to: KvMemory;
  readonly toBlocks: Int32Array;
  readonly source: Registered;
  readonly target: Registered;
  isCanceled: boolean;
}

async function movePiece({ from, source, target }: Sides, at: number, targetAt: number): Promise<boolean> {
  const bytes = from.pieceBytes;
  if (source.bytes !== undefined && target.bytes !== undefined) {
    target.bytes.set(source.bytes.subarray(at, at + bytes), targetAt);
    return true;
  }
  const isRead = target.bytes !== undefined;
  const memory = isRead ? target.bytes.subarray(targetAt, targetAt + bytes) : source.bytes!.subarray(at, at + bytes);
  for (let moved = 0; moved < bytes; ) {
    const rest = memory.subarray(moved);
    const now = await new Promise<number>((resolve) => {
      const over = (error: Error | null, count: number): void => resolve(error === null ? count : 0);
      if (isRead) fs.read(source.fd, rest, 0, rest.length, at + moved, over);
      else fs.write(target.fd, rest, 0, rest.length, targetAt + moved, over);
    });
    if (now === 0) return false;
    moved += now;
  }
  return true;
}

function ended(done: (status: TransferStatus) => void, status: TransferStatus): KvOperation {
  done(status);
  return { cancel: () => undefined };
}

function areBlocks(blocks: Int32Array, count: number): boolean {
  return blocks.every((block) => block >= 0 && block < count);
}

function memoryOf(segment: number, { bytes, lengthBytes }: Registered, layout: KvMemoryLayout): KvMemory {
  const { blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes } = layout;
  const end = blocks === 0 ? 0 : (blocks - 1) * blockStrideBytes + (pieces - 1) * pieceStrideBytes + pieceBytes;
  assert.ok(end <= lengthBytes, `blocks end at byte ${end} of ${lengthBytes}`);
  return { segment, bytes, blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes };
}
