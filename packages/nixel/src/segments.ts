import { ArmatureError } from '@armature/contracts';
import type { MemoryKind, SegmentLocation, TransferSegment } from '@armature/contracts';
import type { SegmentAccess } from './grants.ts';
import { checkedLayout } from './layout/kv-layout.ts';
import type { KvLayout } from './layout/kv-layout.ts';

interface CommonOptions {
  /** Default `peers`. */
  readonly access?: SegmentAccess;
  /** What the bytes are, for `prepareBlocks` and for the check before the first byte moves. */
  readonly layout?: KvLayout;
}

/** DRAM: plain memory of this process, or with `location` memory that other processes can map (`SharedMemory`). */
export interface RegisterMemory extends CommonOptions {
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  readonly byteOffset?: number;
  readonly lengthBytes?: number;
  /** Of the segment's first byte. */
  readonly location?: Extract<SegmentLocation, { type: 'shared' }>;
}

/** FILE, OBJECT or DEVICE: bytes that lie elsewhere. Whoever opened the file or allocated the memory closes it after `deregister`. */
export interface RegisterElsewhere extends CommonOptions {
  readonly location: Exclude<SegmentLocation, { type: 'shared' }>;
  readonly lengthBytes: number;
}

export type RegisterOptions = RegisterMemory | RegisterElsewhere;

export interface OwnSegment {
  readonly segment: TransferSegment;
  readonly layout: KvLayout | undefined;
}

const KIND_OF = { file: 'file', object: 'object', device: 'device' } as const satisfies Record<string, MemoryKind>;

function invalid(found: string, hint: string): ArmatureError {
  return new ArmatureError('TRANSFER_SEGMENT_INVALID', found, { hint });
}

/** The memory an agent has registered. */
export class SegmentTable {
  readonly #segments = new Map<number, OwnSegment>();
  #nextId = 1;
  /** Grows when a segment leaves: what was checked before must be checked again. */
  epoch = 0;
  /** Grows with every change. */
  revision = 0;

  /** Throws `TRANSFER_SEGMENT_INVALID`, `TRANSFER_LAYOUT_INVALID`. */
  add(options: RegisterOptions): TransferSegment {
    const segment = 'buffer' in options ? memorySegment(this.#nextId, options) : elsewhereSegment(this.#nextId, options);
    const layout = options.layout === undefined ? undefined : checkedLayout(options.layout, segment.lengthBytes);
    this.#nextId++;
    this.revision++;
    this.#segments.set(segment.id, { segment, layout });
    return segment;
  }

  remove(id: number): void {
    if (!this.#segments.delete(id)) return;
    this.epoch++;
    this.revision++;
  }

  get(id: number): TransferSegment | undefined {
    return this.#segments.get(id)?.segment;
  }

  layoutOf(id: number): KvLayout | undefined {
    return this.#segments.get(id)?.layout;
  }

  /** In order of registration. */
  all(): IterableIterator<OwnSegment> {
    return this.#segments.values();
  }
}

function memorySegment(id: number, options: RegisterMemory): TransferSegment {
  const { buffer, byteOffset = 0, location } = options;
  const lengthBytes = options.lengthBytes ?? buffer.byteLength - byteOffset;
  if (!(byteOffset >= 0 && lengthBytes >= 0 && byteOffset + lengthBytes <= buffer.byteLength)) {
    throw invalid(`bytes ${byteOffset} to ${byteOffset + lengthBytes} are outside a buffer of ${buffer.byteLength}`, 'register a range inside the buffer');
  }
  if ((buffer as { resizable?: boolean }).resizable === true || (buffer as { growable?: boolean }).growable === true) {
    throw invalid('the buffer can be resized', 'register memory of fixed length: transports keep its address');
  }
  return { id, kind: 'dram', bytes: new Uint8Array(buffer, byteOffset, lengthBytes), lengthBytes, location };
}

const NOTHING = new Uint8Array(0);

function elsewhereSegment(id: number, { location, lengthBytes }: RegisterElsewhere): TransferSegment {
  if (!Number.isSafeInteger(lengthBytes) || lengthBytes < 0) throw invalid(`a ${location.type} segment of ${lengthBytes} bytes`, 'pass lengthBytes, a whole number');
  const nameless = (location.type === 'file' && location.path === '') || (location.type === 'object' && location.key === '');
  if (nameless) throw invalid(`a ${location.type} segment without a name`, location.type === 'file' ? 'pass the path of an open file' : 'pass the key of the object');
  return { id, kind: KIND_OF[location.type], bytes: NOTHING, lengthBytes, location };
}
