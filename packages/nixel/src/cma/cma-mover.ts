import { TransferStatus } from '@armature/contracts';
import type { DescriptorColumns } from '@armature/contracts';
import { cutRows } from '../local/pieces.ts';
import type { Mover, PeerMemory, Pieces, PieceSources, Rows } from '../local/pieces.ts';
import { libc } from '../native/libc.ts';
import type { PinnedProcess } from '../native/process.ts';

const PIECE_BYTES = 1 << 20;
const EPERM = 1;
const ESRCH = 3;

/** Moves bytes between own memory and a peer's, shared or not: process_vm_readv and process_vm_writev on this thread. */
export const cmaMover: Mover = {
  stepBytes: PIECE_BYTES,
  latencyMicros: 8,
  bytesPerMicro: 6000,
  place: (segment) => (segment.kind === 'dram' ? { address: libc().addressOf(segment.bytes) } : undefined),
  open: (process) => new ProcessMemory(process),
};

class ProcessMemory implements PeerMemory {
  readonly #process: PinnedProcess;

  constructor(process: PinnedProcess) {
    this.#process = process;
  }

  pieces({ plan, local, remote }: PieceSources): Pieces | TransferStatus {
    const here = new Map<number, number>();
    const there = new Map<number, number>();
    for (let i = 0, last = -1, lastMine = -1; i < plan.remote.count; i++) {
      const id = plan.remote.segments[i]!;
      const mine = plan.local.segments[i]!;
      if (id === last && mine === lastMine) continue;
      last = id;
      lastMine = mine;
      if (!here.has(mine)) here.set(mine, libc().addressOf(local(mine)!.bytes));
      if (there.has(id)) continue;
      const facts = remote(id);
      if (facts === undefined) return TransferStatus.NotFound;
      if (facts.place?.['address'] === undefined) return TransferStatus.NotSupported;
      there.set(id, facts.place['address']);
    }
    return new VectorPieces(this.#process, plan.op === 'read', cutRows(plan, PIECE_BYTES), { here, there });
  }

  drop(): void {
    // Holds no memory of the peer.
  }

  close(): void {
    // The process handle belongs to the connection.
  }
}

interface Bases {
  readonly here: ReadonlyMap<number, number>;
  readonly there: ReadonlyMap<number, number>;
}

/** u64 pairs, written as u32 halves: four times cheaper than BigInt. Little endian, as x64 and arm64 Linux are. */
function vectors({ count, segments, offsets, lengths }: DescriptorColumns, bases: ReadonlyMap<number, number>): BigUint64Array {
  const table = new BigUint64Array(2 * count);
  const words = new Uint32Array(table.buffer);
  let last = -1;
  let base = 0;
  for (let i = 0; i < count; i++) {
    if (segments[i] !== last) {
      last = segments[i]!;
      base = bases.get(last)!;
    }
    const address = base + offsets[i]!;
    words[4 * i] = address;
    words[4 * i + 1] = Math.floor(address / 0x1_0000_0000);
    words[4 * i + 2] = lengths[i]!;
  }
  return table;
}

/** Tables of (address, length) pairs, computed once; one call moves up to 1,024 pieces. */
class VectorPieces implements Pieces {
  readonly count: number;
  readonly lengths: Int32Array;
  readonly #process: PinnedProcess;
  readonly #isRead: boolean;
  readonly #local: BigUint64Array;
  readonly #remote: BigUint64Array;

  constructor(process: PinnedProcess, isRead: boolean, rows: Rows, bases: Bases) {
    this.count = rows.local.count;
    this.lengths = rows.local.lengths;
    this.#process = process;
    this.#isRead = isRead;
    this.#local = vectors(rows.local, bases.here);
    this.#remote = vectors(rows.remote, bases.there);
  }

  /**
   * The kernel finds the process by pid. While the pinned process is not reaped its pid is its own, so a look after the call proves whose
   * memory it was; a write is preceded by a look as well.
   */
  copy(from: number, to: number): TransferStatus {
    if (!this.#isRead && !this.#process.exists()) return TransferStatus.RemoteDisconnected;
    let at = from;
    while (at < to) {
      const moved = this.#call(this.#local.subarray(2 * at, 2 * to), this.#remote.subarray(2 * at, 2 * to), to - at);
      if (moved <= 0) return this.#failure(moved);
      let left = moved;
      while (at < to && left >= this.lengths[at]!) left -= this.lengths[at++]!;
      if (left > 0) {
        // Stopped inside a piece: its rest is tried on its own, and fails there when the memory is gone.
        const status = this.#rest(at++, left);
        if (status !== TransferStatus.Done) return status;
      }
    }
    return this.#process.exists() ? TransferStatus.Done : TransferStatus.RemoteDisconnected;
  }

  #rest(piece: number, done: number): TransferStatus {
    const length = this.lengths[piece]!;
    let at = done;
    while (at < length) {
      const local = BigUint64Array.of(this.#local[2 * piece]! + BigInt(at), BigInt(length - at));
      const remote = BigUint64Array.of(this.#remote[2 * piece]! + BigInt(at), BigInt(length - at));
      const moved = this.#call(local, remote, 1);
      if (moved <= 0) return this.#failure(moved);
      at += moved;
    }
    return TransferStatus.Done;
  }

  #call(local: BigUint64Array, remote: BigUint64Array, count: number): number {
    const { processVmReadv, processVmWritev } = libc();
    return this.#isRead ? processVmReadv(this.#process.pid, local, count, remote, count, 0) : processVmWritev(this.#process.pid, local, count, remote, count, 0);
  }

  #failure(moved: number): TransferStatus {
    const errno = moved < 0 ? libc().errno() : 0;
    if (errno === ESRCH) return TransferStatus.RemoteDisconnected;
    return errno === EPERM ? TransferStatus.NotAllowed : TransferStatus.TransportError;
  }
}
