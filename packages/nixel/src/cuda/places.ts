import { TransferStatus } from '@armature/contracts';
import type { DescriptorColumns, Logger, TransferPlan, TransferSegment } from '@armature/contracts';
import type { PeerMemory, PieceSources, SegmentFacts } from '../local/pieces.ts';
import { IPC_HANDLE_BYTES, UUID_BYTES } from './binding.ts';
import { CompiledCopies } from './copies.ts';
import type { Hold } from './copies.ts';
import type { CudaRuntime } from './runtime.ts';

/** Where device memory of an agent lies: as numbers, told on the control socket to peers that may touch it. */
export interface DevicePlace {
  readonly ordinal: number;
  /** Of the runtime (process) that the address belongs to. */
  readonly runtime: number;
  readonly address: bigint;
  readonly uuid: string;
  /** Undefined for memory that cannot be shared between processes. */
  readonly handle: Uint8Array | undefined;
  /** Of the segment within the allocation that the handle names. */
  readonly offsetBytes: number;
}

type Numbers = Readonly<Record<string, number>>;

/** Throws `TRANSFER_CUDA_FAILED`. Undefined: the segment is no device memory of this process. The GPU's context is retained. */
export function placeOf(segment: TransferSegment, runtime: CudaRuntime): DevicePlace | undefined {
  if (segment.location?.type !== 'device') return undefined;
  const { ordinal, address } = segment.location;
  runtime.enter(ordinal);
  const range = runtime.driver.rangeOf(address);
  if (range === undefined || address + BigInt(segment.lengthBytes) > range.base + BigInt(range.lengthBytes)) return undefined;
  let handle: Uint8Array | undefined;
  try {
    handle = runtime.handleOf(range.base);
  } catch {
    handle = undefined;
  }
  return { ordinal, runtime: runtime.id, address, uuid: runtime.uuidOf(ordinal), handle, offsetBytes: Number(address - range.base) };
}

export function encodePlace({ ordinal, runtime, address, uuid, handle, offsetBytes }: DevicePlace): Numbers {
  const numbers: Record<string, number> = { ordinal, runtime, address: Number(address), offsetBytes };
  putBytes(numbers, 'u', Buffer.from(uuid, 'hex'));
  if (handle !== undefined) putBytes(numbers, 'h', handle);
  return numbers;
}

/** From an untrusted peer; undefined when torn. */
export function decodePlace(numbers: Numbers): DevicePlace | undefined {
  const { ordinal, runtime, address, offsetBytes } = numbers;
  const uuid = takeBytes(numbers, 'u', UUID_BYTES);
  if (ordinal === undefined || runtime === undefined || address === undefined || offsetBytes === undefined || uuid === undefined) return undefined;
  return { ordinal, runtime, address: BigInt(address), uuid: Buffer.from(uuid).toString('hex'), handle: takeBytes(numbers, 'h', IPC_HANDLE_BYTES), offsetBytes };
}

function putBytes(numbers: Record<string, number>, name: string, bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let i = 0; 4 * i < bytes.length; i++) numbers[`${name}${i}`] = view.getUint32(4 * i);
}

function takeBytes(numbers: Numbers, name: string, length: number): Uint8Array | undefined {
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  for (let i = 0; 4 * i < length; i++) {
    const word = numbers[`${name}${i}`];
    if (word === undefined || word > 0xffff_ffff) return undefined;
    view.setUint32(4 * i, word);
  }
  return bytes;
}

/** One side of a plan: all of it host memory, or all of it on one GPU. */
export interface ResolvedSide {
  readonly columns: DescriptorColumns;
  readonly bases: Map<number, bigint>;
  /** Undefined: host memory. */
  readonly ordinal: number | undefined;
  readonly isStaged: boolean;
  /** What its copies hold while they run. */
  readonly holds: (() => Hold | undefined)[];
}

/** The side of a plan that is this agent's. */
export function ownSide(columns: DescriptorColumns, segment: (id: number) => TransferSegment | undefined, runtime: CudaRuntime): ResolvedSide | TransferStatus {
  const side = { bases: new Map<number, bigint>(), holds: [] as (() => Hold | undefined)[] };
  let ordinal: number | undefined;
  let isStaged = false;
  let kind: string | undefined;
  for (let i = 0; i < columns.count; i++) {
    const id = columns.segments[i]!;
    if (side.bases.has(id)) continue;
    const found = segment(id);
    if (found === undefined) return TransferStatus.NotFound;
    if (kind !== undefined && kind !== found.kind) return TransferStatus.NotSupported;
    kind = found.kind;
    if (found.kind === 'dram') {
      const pin = runtime.pins.find(found.bytes);
      if (pin === undefined) isStaged = true;
      else side.holds.push(() => runtime.pins.find(found.bytes));
      side.bases.set(id, runtime.driver.addressOf(found.bytes));
      pin?.release();
    } else if (found.location?.type === 'device' && (ordinal === undefined || ordinal === found.location.ordinal)) {
      ordinal = found.location.ordinal;
      side.bases.set(id, found.location.address);
    } else return TransferStatus.NotSupported;
  }
  return { columns, ...side, ordinal, isStaged };
}

/** Copies between two sides, one of them at least on a GPU. `fallback`: GPU for an empty plan. */
export function compile(plan: TransferPlan, here: ResolvedSide, there: ResolvedSide): CompiledCopies | TransferStatus {
  const ordinal = here.ordinal ?? there.ordinal ?? (plan.bytes === 0 ? 0 : undefined);
  if (ordinal === undefined) return TransferStatus.NotSupported;
  const [target, source] = plan.op === 'read' ? [here, there] : [there, here];
  const direction = target.ordinal === undefined ? 'fromDevice' : source.ordinal === undefined ? 'toDevice' : 'onDevice';
  const holds = [...here.holds, ...there.holds];
  const hold = (): Hold[] => holds.map((take) => take()).filter((taken) => taken !== undefined);
  return new CompiledCopies({ direction, ordinal, target, source, isStaged: here.isStaged || there.isStaged, hold });
}

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
