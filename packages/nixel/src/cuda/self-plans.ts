import { TransferStatus } from '@armature/contracts';
import type { DescriptorColumns, MemoryKind, PeerSegment, TransferPlan, TransferSegment, TransportHost } from '@armature/contracts';
import type { CompiledCopies } from './copies.ts';
import { compile, ownSide } from './places.ts';
import type { CudaRuntime } from './runtime.ts';

export interface SelfPlan {
  readonly copies: CompiledCopies;
  /** Of both sides; each must still be registered at every post. */
  readonly locals: readonly TransferSegment[];
}

/** Plans of an agent with itself: host memory to GPU and back, within the GPU. */
export class SelfPlans {
  readonly #host: TransportHost;
  readonly #runtime: CudaRuntime;
  readonly #plans = new WeakMap<TransferPlan, SelfPlan>();

  constructor(host: TransportHost, runtime: CudaRuntime) {
    this.#host = host;
    this.#runtime = runtime;
  }

  /** Everything is checked before the first byte moves. */
  resolve(plan: TransferPlan): SelfPlan | TransferStatus {
    const known = this.#plans.get(plan);
    if (known !== undefined && known.locals.every((segment) => this.#host.segment(segment.id) === segment)) return known;
    const locals = new Set<TransferSegment>();
    for (const columns of [plan.local, plan.remote]) {
      const status = this.#check(columns, plan.local, locals);
      if (status !== TransferStatus.Done) return status;
    }
    const here = ownSide(plan.local, (id) => this.#host.segment(id), this.#runtime);
    const there = ownSide(plan.remote, (id) => this.#host.segment(id), this.#runtime);
    if (typeof here === 'number') return here;
    if (typeof there === 'number') return there;
    const copies = compile(plan, here, there);
    if (typeof copies === 'number') return copies;
    const ready = { copies, locals: [...locals] };
    this.#plans.set(plan, ready);
    return ready;
  }

  #check(columns: DescriptorColumns, { lengths, count }: DescriptorColumns, found: Set<TransferSegment>): TransferStatus {
    if (columns.count !== count) return TransferStatus.InvalidDescriptor;
    for (let i = 0; i < count; i++) {
      const segment = this.#host.segment(columns.segments[i]!);
      if (segment === undefined) return TransferStatus.NotFound;
      const [offset, length] = [columns.offsets[i]!, columns.lengths[i]!];
      if (length !== lengths[i] || !(length >= 0 && offset >= 0 && offset + length <= segment.lengthBytes)) return TransferStatus.InvalidDescriptor;
      found.add(segment);
    }
    return TransferStatus.Done;
  }
}

/** One side at least on a GPU, each side of one kind. `peer`: segments of another agent, which must be on a GPU; undefined: the agent itself. */
export function canMove(plan: TransferPlan, host: TransportHost, peer: ReadonlyMap<number, PeerSegment> | undefined): boolean {
  const here = kindOf(plan.local, (id) => host.segment(id)?.kind);
  if (here !== 'dram' && here !== 'device') return plan.local.count === 0;
  if (peer === undefined) {
    const there = kindOf(plan.remote, (id) => host.segment(id)?.kind);
    return (there === 'dram' || there === 'device') && (here === 'device' || there === 'device');
  }
  // Registered after the metadata was made: the owner tells.
  return kindOf(plan.remote, (id) => (peer.has(id) ? (peer.get(id)!.metadata === undefined ? 'dram' : peer.get(id)!.kind) : 'device')) === 'device';
}

function kindOf({ segments, count }: DescriptorColumns, kindIn: (segment: number) => MemoryKind | undefined): MemoryKind | undefined {
  let kind: MemoryKind | undefined;
  for (let i = 0, last = -1; i < count; i++) {
    const id = segments[i]!;
    if (id === last) continue;
    last = id;
    const found = kindIn(id);
    if (found === undefined || (kind !== undefined && found !== kind)) return undefined;
    kind = found;
  }
  return kind;
}
