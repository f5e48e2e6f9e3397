import { TransferStatus } from '@armature/contracts';
import type { TransferPeer, TransferPlan } from '@armature/contracts';
import { NixlMemory } from './binding.ts';
import type { NixlAgent, NixlHandle } from './binding.ts';
import { compilePlan } from './compiled-plan.ts';
import type { CompiledPlan } from './compiled-plan.ts';
import { LinkEstimate } from './estimate.ts';
import { BASE64_LIMIT } from './segments.ts';
import type { LocalSegments, NixlSegment } from './segments.ts';

export interface LinkOptions {
  readonly agent: NixlAgent;
  readonly segments: LocalSegments;
  readonly fabric: NixlHandle;
  readonly storage: NixlHandle | undefined;
  readonly splitBytes: number;
  /** The peer is this agent itself: its files and its memory. */
  readonly isSelf: boolean;
}

/**
 * `new`: nothing loaded · `up` · `closing`: cut, waiting until nothing moves any more · `down`: lost, may be loaded again ·
 * `left`: the peer has said good-bye, only a new `connect` helps.
 */
export type LinkState = 'new' | 'up' | 'closing' | 'down' | 'left';

const MAX_PLANS = 512;

/** What one peer is to NIXL: its metadata as loaded, its segments, the plans compiled against both. */
export class PeerLink {
  readonly peer: TransferPeer;
  readonly nixlName: string;
  readonly isSelf: boolean;
  readonly estimate = new LinkEstimate();
  state: LinkState = 'new';
  /** The loss has been told to the agent. */
  isTold = false;
  /** Earliest time of the next attempt after a loss. */
  retryAtMs = 0;
  lastPingMs = 0;
  readonly #options: LinkOptions;
  readonly #loaded = new Set<number>();
  readonly #gone = new Set<number>();
  /** Oldest first. */
  readonly #plans = new Map<TransferPlan, CompiledPlan>();

  constructor(peer: TransferPeer, nixlName: string, options: LinkOptions) {
    this.peer = peer;
    this.nixlName = nixlName;
    this.isSelf = options.isSelf;
    this.#options = options;
  }

  /** Loads how to connect. False: NIXL does not take it. */
  open(): boolean {
    if (this.state === 'up') return true;
    if (this.state === 'closing' || this.state === 'left') return false;
    if (!this.isSelf && this.#load(this.peer.metadata['connection']) !== this.nixlName) return false;
    this.state = 'up';
    return true;
  }

  /** The peer has given these up. Their ids never come back. */
  forget(segments: readonly number[]): void {
    for (const id of segments) this.#gone.add(id);
    for (const [plan, compiled] of this.#plans) {
      if (!compiled.remoteSegments.some((id) => this.#gone.has(id))) continue;
      this.#plans.delete(plan);
      compiled.release();
    }
  }

  /** The plan ready to run, or why not. First use prepares it; later ones look at its segments only. */
  compiled(plan: TransferPlan): CompiledPlan | TransferStatus {
    const known = this.#plans.get(plan);
    if (known !== undefined) {
      const status = this.#stillThere(known);
      if (status === TransferStatus.Done) return known;
      this.#plans.delete(plan);
      known.release();
      return status;
    }
    const { agent, segments, splitBytes } = this.#options;
    const compiled = compilePlan(plan, {
      agent,
      backend: this.#backend(plan),
      peer: this.nixlName,
      splitBytes,
      local: (id) => segments.get(id) ?? TransferStatus.NotFound,
      remote: (id) => this.#remote(id, plan.op),
    });
    if (typeof compiled === 'number') return compiled;
    if (this.#plans.size >= MAX_PLANS) this.#dropOldest();
    this.#plans.set(plan, compiled);
    return compiled;
  }

  /** Whether the kinds of memory on both sides can meet here. Segments are not loaded. */
  serves(plan: TransferPlan): boolean {
    const kinds = new Set<string>();
    for (const id of new Set(plan.local.segments.subarray(0, plan.local.count))) kinds.add(this.#options.segments.get(id)?.kind ?? 'unknown');
    for (const id of new Set(plan.remote.segments.subarray(0, plan.remote.count))) kinds.add(this.peer.segments.get(id)?.kind ?? 'unknown');
    if (kinds.has('object') || kinds.has('unknown')) return false;
    return !kinds.has('file') || (this.isSelf && this.#options.storage !== undefined);
  }

  /** Gives up everything NIXL holds for this peer. Requests that run are the caller's, before this. */
  close(): void {
    for (const compiled of this.#plans.values()) compiled.release();
    this.#plans.clear();
    this.#loaded.clear();
    if (!this.isSelf) this.#options.agent.invalidate(this.nixlName);
  }

  #stillThere(compiled: CompiledPlan): TransferStatus {
    for (const id of compiled.localSegments) if (this.#options.segments.get(id) === undefined) return TransferStatus.NotFound;
    for (const id of compiled.remoteSegments) if (this.#gone.has(id) || !this.peer.segments.has(id)) return TransferStatus.NotFound;
    return TransferStatus.Done;
  }

  #backend(plan: TransferPlan): NixlHandle {
    const { fabric, storage, segments } = this.#options;
    if (!this.isSelf || storage === undefined) return fabric;
    const isFile = (id: number): boolean => segments.get(id)?.memory === NixlMemory.File;
    return plan.local.segments.some(isFile) || plan.remote.segments.some(isFile) ? storage : fabric;
  }

  #remote(id: number, op: 'read' | 'write'): NixlSegment | TransferStatus {
    if (this.isSelf) return this.#options.segments.get(id) ?? TransferStatus.NotFound;
    const segment = this.peer.segments.get(id);
    if (segment === undefined || this.#gone.has(id)) return TransferStatus.NotFound;
    if (segment.kind !== 'dram' && segment.kind !== 'device') return TransferStatus.NotSupported;
    const { lengthBytes, kind, metadata } = segment;
    if (lengthBytes === 0) return { id, kind, memory: NixlMemory.Dram, address: 0n, device: 0n, lengthBytes };
    if (metadata === undefined) return TransferStatus.NotSupported;
    const { access, address, device, memory, key } = metadata;
    if (access === 'none' || (access === 'read' && op === 'write')) return TransferStatus.NotAllowed;
    if (typeof address !== 'string' || !/^[0-9a-f]{1,16}$/.test(address) || !Number.isSafeInteger(device) || Number(device) < 0) return TransferStatus.InvalidDescriptor;
    if (memory !== NixlMemory.Dram && memory !== NixlMemory.Vram) return TransferStatus.InvalidDescriptor;
    if (!this.#loaded.has(id)) {
      if (this.#load(key) !== this.nixlName) return TransferStatus.TransportError;
      this.#loaded.add(id);
    }
    return { id, kind, memory, address: BigInt(`0x${address}`), device: BigInt(device as number), lengthBytes };
  }

  /** Returns the NIXL name that the metadata is of. */
  #load(base64: unknown): string | undefined {
    if (typeof base64 !== 'string' || base64.length > BASE64_LIMIT) return undefined;
    const name = this.#options.agent.load(Buffer.from(base64, 'base64'));
    return typeof name === 'string' ? name : undefined;
  }

  #dropOldest(): void {
    const [plan, compiled] = this.#plans.entries().next().value!;
    this.#plans.delete(plan);
    compiled.release();
  }
}
