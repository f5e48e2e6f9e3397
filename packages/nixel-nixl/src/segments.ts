import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { Logger, MemoryKind, TransferSegment, TransportHost, TransportMetadata } from '@armature/contracts';
import { NixlMemory } from './binding.ts';
import type { NixlAgent, NixlHandle, NixlLibrary, NixlRegistration } from './binding.ts';

/** How one segment is known to NIXL. */
export interface NixlSegment {
  readonly id: number;
  readonly kind: MemoryKind;
  readonly memory: NixlMemory;
  /** Of its first byte; 0 for files, whose addresses are offsets. */
  readonly address: bigint;
  /**
   * DRAM: the segment's id, which NIXL does not interpret but compares. Ids are never reused, so a key of memory that was registered, given
   * up and registered again is another entry at the peer: NIXL refuses to replace a key and then loses the whole peer.
   */
  readonly device: bigint;
  readonly lengthBytes: number;
}

/** What peers may do with a segment over a fabric, which cannot check more than "has the key". */
export type FabricAccess = 'all' | 'read' | 'none';

interface Entry {
  readonly segment: NixlSegment;
  readonly access: FabricAccess;
  readonly registrations: Map<NixlHandle, NixlRegistration>;
  /** Keeps the memory alive while NIXL may touch it. */
  readonly bytes: Uint8Array;
}

export interface SegmentsOptions {
  readonly host: TransportHost;
  readonly library: NixlLibrary;
  readonly agent: NixlAgent;
  readonly fabric: NixlHandle;
  /** Backend for files, when configured. */
  readonly storage: NixlHandle | undefined;
  readonly log: Logger;
}

/** Nobody has this name: what it may do, everybody may. */
const ANYONE = '';
export const BASE64_LIMIT = 256 << 10;

/** Own segments: registered with the backends that can reach them, and described to peers. */
export class LocalSegments {
  readonly #options: SegmentsOptions;
  readonly #entries = new Map<number, Entry>();

  constructor(options: SegmentsOptions) {
    this.#options = options;
  }

  get(id: number): NixlSegment | undefined {
    return this.#entries.get(id)?.segment;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Never throws: memory that NIXL refuses is left to other transports, with a log line. */
  add(segment: TransferSegment): void {
    const known = this.#describe(segment);
    if (known === undefined || segment.lengthBytes === 0 || this.#entries.has(segment.id)) return;
    const registrations = new Map<NixlHandle, NixlRegistration>();
    const { agent, fabric, storage, log } = this.#options;
    const row = { address: known.address, length: known.lengthBytes, device: known.device };
    try {
      if (known.memory !== NixlMemory.File) registrations.set(fabric, agent.register(fabric, known.memory, row));
      if (storage !== undefined && known.memory !== NixlMemory.Vram) registrations.set(storage, agent.register(storage, known.memory, row));
    } catch (error) {
      const { message, hint } = ArmatureError.from(error, 'TRANSFER_NIXL_FAILED');
      for (const registration of registrations.values()) agent.deregister(registration);
      log.warn('NIXL does not take a segment', { segment: segment.id, kind: segment.kind, reason: message, hint });
      return;
    }
    this.#entries.set(segment.id, { segment: known, access: this.#access(segment), registrations, bytes: segment.bytes });
  }

  /** False when it was not registered. */
  remove(id: number): boolean {
    const entry = this.#entries.get(id);
    if (entry === undefined) return false;
    this.#entries.delete(id);
    for (const registration of entry.registrations.values()) this.#options.agent.deregister(registration);
    return true;
  }

  removeAll(): void {
    for (const id of [...this.#entries.keys()]) this.remove(id);
  }

  /** Address and key of a segment for peers. Of one that not everybody may touch: that it exists, no key. */
  metadata(id: number): TransportMetadata | undefined {
    const entry = this.#entries.get(id);
    const registration = entry?.registrations.get(this.#options.fabric);
    if (entry === undefined || registration === undefined) return undefined;
    if (entry.access === 'none') return { access: 'none' };
    const key = Buffer.from(this.#options.agent.metadata(this.#options.fabric, registration)).toString('base64');
    if (key.length > BASE64_LIMIT) return undefined;
    const { address, device, memory } = entry.segment;
    return { access: entry.access, address: address.toString(16), device: Number(device), memory, key };
  }

  /**
   * A key opens the whole registered region to whoever holds it. So only segments open to everybody get one; those with grants per peer are
   * refused, and "read only" is kept by the reader's side alone.
   */
  #access(segment: TransferSegment): FabricAccess {
    const may = (op: 'read' | 'write'): boolean => this.#options.host.allows(ANYONE, segment.id, 0, segment.lengthBytes, op) === TransferStatus.Done;
    if (!may('read')) return 'none';
    return may('write') ? 'all' : 'read';
  }

  #describe(segment: TransferSegment): NixlSegment | undefined {
    const { id, kind, lengthBytes, location } = segment;
    const common = { id, kind, lengthBytes };
    if (kind === 'dram') return { ...common, memory: NixlMemory.Dram, address: lengthBytes === 0 ? 0n : this.#options.library.address(segment.bytes), device: BigInt(id) };
    if (location?.type === 'device') return { ...common, memory: NixlMemory.Vram, address: location.address, device: BigInt(location.ordinal) };
    if (location?.type === 'file' && this.#options.storage !== undefined && location.fd >= 0) return { ...common, memory: NixlMemory.File, address: 0n, device: BigInt(location.fd) };
    return undefined;
  }
}
