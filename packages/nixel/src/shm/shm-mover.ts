import { closeSync } from 'node:fs';
import { TransferStatus } from '@armature/contracts';
import type { Logger } from '@armature/contracts';
import { cutRows } from '../local/pieces.ts';
import type { Mover, PeerMemory, Pieces, PieceSources, SegmentFacts } from '../local/pieces.ts';
import { Mapping, mappingFailed, openPeerMemory } from '../native/mapping.ts';
import { PinnedProcess } from '../native/process.ts';
import { copiesOf } from './copies.ts';

/** From 1 MiB on glibc's memcpy goes another way, twice as fast here (7 and 20 GB/s over 16 MiB): long rows are not cut below that. */
const PIECE_BYTES = 1 << 20;
const STEP_BYTES = 256 << 10;

/** Moves bytes between own memory and a peer's mapped memfd: plain copies on this thread. */
export function shmMover(log: Logger): Mover {
  return {
    stepBytes: STEP_BYTES,
    latencyMicros: 2,
    bytesPerMicro: 8000,
    place(segment) {
      if (segment.location?.type !== 'shared') return undefined;
      const { pid, startTicks, fd, offsetBytes } = segment.location.mapping;
      return { pid, startTicks, fd, offsetBytes };
    },
    open: () => new MappedMemory(log),
  };
}

interface Mapped {
  readonly mapping: Mapping;
  /** Segments that lie in it. */
  readonly users: Set<number>;
}

/** Memory of one peer, mapped at first use: for reading only until a write is allowed, each memfd once per way. */
class MappedMemory implements PeerMemory {
  readonly #log: Logger;
  /** By inode, and `w` for writable. */
  readonly #mapped = new Map<string, Mapped>();
  /** By segment, whose id is never used for another one. */
  readonly #views = { read: new Map<number, Uint8Array>(), write: new Map<number, Uint8Array>() };

  constructor(log: Logger) {
    this.#log = log;
  }

  pieces({ plan, local, remote }: PieceSources): Pieces | TransferStatus {
    const views = new Map<number, Uint8Array>();
    for (let i = 0, last = -1; i < plan.remote.count; i++) {
      const id = plan.remote.segments[i]!;
      if (id === last || views.has(id)) continue;
      last = id;
      const facts = remote(id);
      if (facts === undefined) return TransferStatus.NotFound;
      if (facts.place === undefined) return TransferStatus.NotSupported;
      const view = this.#views[plan.op].get(id) ?? this.#view(facts, plan.op === 'write');
      // Writing may be refused by the kernel where the owner allows it (memory for readers only): another transport can.
      if (view === undefined) return plan.op === 'write' ? TransferStatus.NotSupported : TransferStatus.TransportError;
      this.#views[plan.op].set(id, view);
      views.set(id, view);
    }
    return copiesOf(cutRows(plan, PIECE_BYTES), plan.op === 'read', (id) => local(id)!.bytes, (id) => views.get(id)!);
  }

  drop(segment: number): void {
    this.#views.read.delete(segment);
    this.#views.write.delete(segment);
    for (const [key, { mapping, users }] of this.#mapped) {
      if (!users.delete(segment) || users.size > 0) continue;
      this.#mapped.delete(key);
      mapping.release();
    }
  }

  close(): void {
    for (const { mapping } of this.#mapped.values()) mapping.release();
    this.#mapped.clear();
    this.#views.read.clear();
    this.#views.write.clear();
  }

  /** The segment's bytes. Undefined when the memory cannot be mapped so. */
  #view(facts: SegmentFacts, isWritable: boolean): Uint8Array | undefined {
    const { pid = 0, startTicks = 0, fd = -1, offsetBytes = 0 } = facts.place ?? {};
    // The owner of the memfd may be another process than the peer: a pool that several processes have mapped.
    const owner = PinnedProcess.open(pid, startTicks);
    try {
      if (owner === undefined) throw mappingFailed(`process ${pid} that owns segment ${facts.id} has ended`);
      const mapping = this.#map(pid, fd, facts.id, isWritable);
      if (offsetBytes + facts.lengthBytes > mapping.lengthBytes) throw mappingFailed(`segment ${facts.id} does not lie in the memory it names`);
      return new Uint8Array(mapping.buffer, offsetBytes, facts.lengthBytes);
    } catch (error) {
      this.#log.warn('transfer memory of a peer cannot be mapped', { segment: facts.id, isWritable, error: error instanceof Error ? error.message : String(error) });
      return undefined;
    } finally {
      owner?.close();
    }
  }

  #map(pid: number, fd: number, segment: number, isWritable: boolean): Mapping {
    const file = openPeerMemory(pid, fd, isWritable);
    try {
      const key = `${file.inode}${isWritable ? 'w' : ''}`;
      let known = this.#mapped.get(key);
      if (known === undefined) {
        known = { mapping: Mapping.of(file.fd, file.lengthBytes, isWritable), users: new Set() };
        this.#mapped.set(key, known);
      }
      known.users.add(segment);
      return known.mapping;
    } finally {
      closeSync(file.fd);
    }
  }
}
