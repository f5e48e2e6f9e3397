import { ArmatureError } from '@armature/contracts';
import type { KvArena } from '@armature/contracts';
import { decodeMetadata } from '@armature/nixel';
import type { Agent, PreparedList } from '@armature/nixel';
import { ARENA_SEGMENT, arenaRanks, peerRanks } from './arena-segments.ts';
import type { RankSegment } from './arena-segments.ts';
import { areSameRanks, RankConversion } from './rank-conversion.ts';

/** One life of a peer, as its metadata told it. */
export class PullSource {
  readonly name: string;
  readonly incarnation: string;
  /** Its arena's blocks; or, where they lie differently, how they are converted on the way. */
  readonly blocks: PreparedList | RankConversion;
  /** A pull from it has ended well. */
  hasWorked = false;

  constructor(name: string, incarnation: string, blocks: PreparedList | RankConversion) {
    this.name = name;
    this.incarnation = incarnation;
    this.blocks = blocks;
  }
}

/** All blocks that lie in `lengthBytes` of an arena like `arena`, own ones or a peer's, which may have more blocks or fewer. */
export function arenaBlocks(agent: Agent, arena: KvArena, peer: string | undefined, lengthBytes: number): PreparedList {
  const { blockStrideBytes, pieces, pieceBytes } = arena;
  // Pieces in regions of their own, which fill the segment: theirs are as far apart as their regions are long.
  const hasRegions = pieces > 1 && arena.pieceStrideBytes * pieces === arena.segments[0]!.lengthBytes;
  const pieceStrideBytes = hasRegions ? lengthBytes / pieces : arena.pieceStrideBytes;
  const rest = lengthBytes - (pieces - 1) * pieceStrideBytes - pieceBytes;
  const blocks = rest < 0 ? 0 : Math.floor(rest / blockStrideBytes) + 1;
  const layout = { blockStrideBytes, pieces, pieceBytes, pieceStrideBytes };
  return agent.prepareList({ ...(peer === undefined ? {} : { peer }), segment: ARENA_SEGMENT, layout, blocks });
}

/** Peers by their metadata bytes, which are a constant of a peer's life: read, checked and listed once. */
export class PullSources {
  readonly #agent: Agent;
  readonly #arena: KvArena;
  readonly #ranks: readonly RankSegment[];
  readonly #capacity: number;
  /** In order of use. */
  readonly #known = new Map<string, PullSource>();
  /** By name: what the agent was last told. */
  readonly #current = new Map<string, PullSource>();

  /** Beyond `capacity` the one unused for longest is forgotten, and read again when it comes back. */
  constructor(agent: Agent, arena: KvArena, capacity: number) {
    this.#agent = agent;
    this.#arena = arena;
    this.#ranks = arenaRanks(arena);
    this.#capacity = capacity;
  }

  /** Throws what `addPeer`, `prepareList` and `RankConversion` throw, and `TRANSFER_PEER_STALE`. */
  of(metadata: Uint8Array): PullSource {
    const key = Buffer.from(metadata.buffer, metadata.byteOffset, metadata.byteLength).toString('latin1');
    const known = this.#known.get(key);
    const source = known !== undefined && this.#isCurrent(known) ? known : this.#learn(metadata);
    this.#known.delete(key);
    this.#known.set(key, source);
    if (this.#known.size > this.#capacity) this.#forgetOldest();
    return source;
  }

  /**
   * False: another life is current and has not shown that it runs, so that this one may be it. Blocks of an earlier life are never looked
   * for in the one that followed it, nor does metadata that is late disturb transfers with that.
   */
  #isCurrent(known: PullSource): boolean {
    if (this.#agent.peerIncarnation(known.name) === known.incarnation) return true;
    if (this.#current.get(known.name)?.hasWorked !== true) return false;
    throw new ArmatureError('TRANSFER_PEER_STALE', `agent "${known.name}" has begun another life`, { hint: 'ask the worker that runs now' });
  }

  #learn(metadata: Uint8Array): PullSource {
    const { incarnation } = decodeMetadata(metadata);
    const name = this.#agent.addPeer(metadata);
    let blocks: PreparedList | RankConversion;
    try {
      blocks = this.#blocksOf(name);
    } catch (error) {
      if (!this.#current.has(name)) this.#agent.removePeer(name); // nobody would forget it
      throw error;
    }
    const source = new PullSource(name, incarnation, blocks);
    this.#current.set(name, source);
    return source;
  }

  #blocksOf(name: string): PreparedList | RankConversion {
    const ranks = peerRanks((segment) => this.#agent.peerSegmentLayout(name, segment));
    if (this.#ranks.length > 0 && ranks.length > 0 && !areSameRanks(this.#ranks, ranks)) return new RankConversion(this.#ranks, ranks);
    return arenaBlocks(this.#agent, this.#arena, name, this.#agent.peerSegmentBytes(name, ARENA_SEGMENT) ?? 0);
  }

  #forgetOldest(): void {
    for (const [key, source] of this.#known) {
      this.#known.delete(key);
      if (this.#current.get(source.name) !== source) return;
      this.#current.delete(source.name);
      this.#agent.removePeer(source.name);
      return;
    }
  }
}
