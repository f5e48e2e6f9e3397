import type { MemoryKind, PeerSegment, TransferPeer, TransferPlan, TransferTransport, TransportEndpoint } from '@armature/contracts';
import { Exploration } from './estimate.ts';
import type { KvLayout } from './layout/kv-layout.ts';
import type { AgentMetadata, SegmentMetadata } from './metadata.ts';

/** A transport opened for this agent. */
export interface Opened {
  readonly name: string;
  readonly transport: TransferTransport;
  readonly endpoint: TransportEndpoint;
}

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 10_000;

/** One way to one peer. After a failure it rests for a while, longer each time, as long as there is another way. */
export class Path {
  readonly name: string;
  readonly endpoint: TransportEndpoint;
  readonly notifies: boolean;
  readonly kinds: readonly MemoryKind[];
  /** As the transport's TransferPeer shows them: a live view. */
  readonly segments: Map<number, PeerSegment>;
  restsUntilMs: number;
  readonly exploration: Exploration;
  /** A transfer over it has ended well. */
  hasWorked: boolean;
  #pauseMs: number;

  constructor(opened: Opened) {
    this.name = opened.name;
    this.endpoint = opened.endpoint;
    this.notifies = opened.transport.supports.notifications;
    this.kinds = opened.transport.supports.kinds;
    this.segments = new Map();
    this.restsUntilMs = -Infinity;
    this.exploration = new Exploration();
    this.hasWorked = false;
    this.#pauseMs = FIRST_PAUSE_MS;
  }

  failed(nowMs: number): void {
    this.exploration.failed();
    this.restsUntilMs = nowMs + this.#pauseMs;
    this.#pauseMs = Math.min(this.#pauseMs * 2, LONGEST_PAUSE_MS);
  }

  worked(): void {
    this.hasWorked = true;
    if (this.#pauseMs === FIRST_PAUSE_MS) return;
    this.#pauseMs = FIRST_PAUSE_MS;
    this.restsUntilMs = -Infinity;
  }

  /** Whether the transport can run it: its own word, or without one that both sides are memory. */
  canMove(plan: TransferPlan, kindHere: (segment: number) => MemoryKind | undefined): boolean {
    if (this.endpoint.canMove !== undefined) return this.endpoint.canMove(plan);
    return allDram(plan.local.segments, plan.local.count, kindHere) && allDram(plan.remote.segments, plan.remote.count, (id) => this.segments.get(id)?.kind);
  }
}

function allDram(segments: Int32Array, count: number, kindOf: (segment: number) => MemoryKind | undefined): boolean {
  let last = -1;
  for (let i = 0; i < count; i++) {
    const id = segments[i]!;
    if (id === last) continue;
    if (kindOf(id) !== 'dram') return false;
    last = id;
  }
  return true;
}

interface KnownSegment {
  readonly lengthBytes: number;
  readonly layout: KvLayout | undefined;
}

/** Segment ids remembered as taken away, so that metadata from before cannot bring them back. */
const MAX_REMEMBERED = 65_536;

/** A peer in one of its lives. */
export class Peer {
  readonly name: string;
  readonly incarnation: string;
  readonly paths: readonly Path[];
  readonly #segments = new Map<number, KnownSegment>();
  readonly #gone = new Set<number>();
  /** Grows when a segment leaves or the peer does: what was checked before must be checked again. */
  epoch: number;
  isRemoved: boolean;
  /** Transfers posted to it and not ended. */
  running: number;
  #revision: number;

  constructor(name: string, incarnation: string, opened: readonly Opened[]) {
    this.name = name;
    this.incarnation = incarnation;
    this.paths = opened.map((each) => new Path(each));
    this.epoch = 0;
    this.isRemoved = false;
    this.running = 0;
    this.#revision = -1;
  }

  get revision(): number {
    return this.#revision;
  }

  connect(facts: AgentMetadata['transports']): void {
    for (const path of this.paths) {
      const peer: TransferPeer = { name: this.name, incarnation: this.incarnation, metadata: facts[path.name]!, segments: path.segments };
      path.endpoint.connect(peer);
    }
  }

  remove(): void {
    this.isRemoved = true;
    this.epoch++;
    for (const { endpoint } of this.paths) endpoint.disconnect(this.name);
  }

  /** Takes in metadata of the same life. Returns the ids of segments that whole metadata no longer names. */
  refresh(facts: AgentMetadata): number[] {
    if (facts.revision < this.#revision) return [];
    if (!facts.isPartial && facts.revision > this.#revision) this.#gone.clear();
    this.#revision = facts.revision;
    for (const segment of facts.segments) if (!this.#gone.has(segment.id)) this.put(segment);
    if (facts.isPartial) return [];
    const named = new Set(facts.segments.map(({ id }) => id));
    const gone = [...this.#segments.keys()].filter((id) => !named.has(id));
    this.drop(gone);
    return gone;
  }

  put({ id, kind, lengthBytes, transports, layout }: SegmentMetadata): void {
    this.#segments.set(id, { lengthBytes, layout });
    for (const path of this.paths) path.segments.set(id, { id, kind, lengthBytes, metadata: transports[path.name] });
  }

  /** Later posts that name these end as NotFound. */
  drop(ids: readonly number[]): void {
    let isKnown = false;
    for (const id of ids) {
      isKnown = this.#segments.delete(id) || isKnown;
      for (const path of this.paths) path.segments.delete(id);
      if (this.#gone.size < MAX_REMEMBERED) this.#gone.add(id);
    }
    if (isKnown) this.epoch++;
  }

  lengthOf(id: number): number | undefined {
    return this.#segments.get(id)?.lengthBytes;
  }

  layoutOf(id: number): KvLayout | undefined {
    return this.#segments.get(id)?.layout;
  }
}
