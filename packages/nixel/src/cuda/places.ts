import { TransferStatus } from '@armature/contracts';
import type { DescriptorColumns, TransferPlan, TransferSegment } from '@armature/contracts';
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
