import { TransferStatus } from '@armature/contracts';
import type { DescriptorColumns, Logger } from '@armature/contracts';
import type { PeerMemory, PieceSources, SegmentFacts } from '../local/pieces.ts';
import type { CompiledCopies, Hold } from './copies.ts';
import { compile, decodePlace, ownSide } from './places.ts';
import type { DevicePlace, ResolvedSide } from './places.ts';
import type { CudaRuntime } from './runtime.ts';

interface OpenedPlace {
  readonly segment: number;
  readonly ordinal: number;
  readonly handle: Uint8Array;
  readonly base: bigint;
}

/** Device memory of one peer: by address within the process, else by IPC handle, opened at first use and closed with its last copy. */
export class PeerDeviceMemory implements PeerMemory {
  readonly #runtime: CudaRuntime;
  readonly #log: Logger;
  readonly #use: (ordinal: number) => void;
  readonly #opened = new Map<string, OpenedPlace>();

  /** `use`: this GPU will be copied on. Pins registered host memory. */
  constructor(runtime: CudaRuntime, log: Logger, use: (ordinal: number) => void) {
    this.#runtime = runtime;
    this.#log = log;
    this.#use = use;
  }

  pieces({ plan, local, remote }: PieceSources): CompiledCopies | TransferStatus {
    const here = ownSide(plan.local, local, this.#runtime);
    if (typeof here === 'number') return here;
    const there = this.#peerSide(plan.remote, remote, here.ordinal);
    if (typeof there === 'number') return there;
    if (here.ordinal !== undefined || there.ordinal === undefined) return compile(plan, here, there);
    // The first use of a GPU pins host memory.
    this.#use(there.ordinal);
    const again = ownSide(plan.local, local, this.#runtime);
    return typeof again === 'number' ? again : compile(plan, again, there);
  }

  drop(segment: number): void {
    for (const [key, opened] of this.#opened) if (opened.segment === segment) this.#close(key, opened);
  }

  close(): void {
    for (const [key, opened] of this.#opened) this.#close(key, opened);
  }

  #peerSide(columns: DescriptorColumns, remote: (id: number) => SegmentFacts | undefined, near: number | undefined): ResolvedSide | TransferStatus {
    const bases = new Map<number, bigint>();
    const holds: (() => Hold)[] = [];
    let ordinal: number | undefined;
    for (let i = 0; i < columns.count; i++) {
      const id = columns.segments[i]!;
      if (bases.has(id)) continue;
      const facts = remote(id);
      if (facts === undefined) return TransferStatus.NotFound;
      const place = facts.place === undefined ? undefined : decodePlace(facts.place);
      if (place === undefined) return TransferStatus.NotSupported;
      const isOurs = place.runtime === this.#runtime.id;
      const at = isOurs ? place.ordinal : (near ?? this.#runtime.ordinalOf(place.uuid));
      if (at === undefined || (!isOurs && place.handle === undefined) || (ordinal !== undefined && ordinal !== at)) return TransferStatus.NotSupported;
      ordinal = at;
      if (isOurs && !this.#isOurs(place, facts.lengthBytes)) return TransferStatus.TransportError;
      const base = isOurs ? place.address : this.#open(id, at, place, facts.lengthBytes);
      if (base === undefined) return TransferStatus.TransportError;
      bases.set(id, base);
      if (!isOurs) holds.push(() => this.#hold(at, place.handle!));
    }
    return { columns, bases, ordinal, isStaged: false, holds };
  }

  /** Told by a peer of this very process: still looked up, an address is a claim. */
  #isOurs({ address }: DevicePlace, lengthBytes: number): boolean {
    const range = this.#runtime.driver.rangeOf(address);
    return range !== undefined && address + BigInt(lengthBytes) <= range.base + BigInt(range.lengthBytes);
  }

  #hold(ordinal: number, handle: Uint8Array): Hold {
    this.#runtime.import(ordinal, handle);
    return { release: () => this.#runtime.closeImport(ordinal, handle) };
  }

  #open(segment: number, ordinal: number, place: DevicePlace, lengthBytes: number): bigint | undefined {
    const key = `${segment}/${ordinal}`;
    let opened = this.#opened.get(key);
    try {
      if (opened === undefined) {
        const handle = place.handle!;
        opened = { segment, ordinal, handle, base: this.#runtime.import(ordinal, handle) };
        this.#opened.set(key, opened);
      }
      const range = this.#runtime.driver.rangeOf(opened.base);
      if (range !== undefined && place.offsetBytes + lengthBytes > range.lengthBytes) throw new RangeError('it does not lie in the allocation it names');
      return opened.base + BigInt(place.offsetBytes);
    } catch (error) {
      this.#log.warn('GPU memory of a peer cannot be opened', { segment, ordinal, error: error instanceof Error ? error.message : String(error) });
      return undefined;
    }
  }

  #close(key: string, { ordinal, handle }: OpenedPlace): void {
    this.#opened.delete(key);
    try {
      this.#runtime.closeImport(ordinal, handle);
    } catch (error) {
      this.#log.warn('GPU memory of a peer was not closed', { ordinal, error: error instanceof Error ? error.message : String(error) });
    }
  }
}
