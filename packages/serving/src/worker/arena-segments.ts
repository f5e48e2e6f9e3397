import { ArmatureError } from '@armature/contracts';
import type { KvArena, KvLayout, KvSegment } from '@armature/contracts';
import type { Agent } from '@armature/nixel';

/** By convention the KV arena is the first segment that a worker's agent registers; the parts of its ranks, where there are several, are the next ones. */
export const ARENA_SEGMENT = 1;

/** A segment that holds one tensor-parallel rank's part of an arena. */
export interface RankSegment {
  readonly segment: number;
  readonly layout: KvLayout;
}

/** Registers an engine's arena, whole and by rank: the same bytes, nothing is copied. The agent must be new. */
export function registerArena(agent: Agent, arena: KvArena, owner: string): void {
  const segment = arena.segments[0];
  if (segment === undefined) throw new ArmatureError('SERVING_ARENA_EMPTY', `engine of ${owner} has an empty KV arena`);
  const ranks = arenaRanks(arena);
  const layout = ranks[0]?.segment === ARENA_SEGMENT ? ranks[0].layout : undefined;
  agent.register({ ...segment, access: 'peers-read', ...(layout === undefined ? {} : { layout }) });
  if (layout === undefined) arena.ranks?.forEach((rank) => agent.register({ ...partOf(segment, rank.byteOffset, rank.lengthBytes), access: 'peers-read', layout: rank.layout }));
}

function partOf({ buffer, byteOffset, location }: KvSegment, offset: number, lengthBytes: number): KvSegment {
  const part = { buffer, byteOffset: byteOffset + offset, lengthBytes };
  if (location === undefined) return part;
  const { mapping } = location;
  return { ...part, location: { ...location, mapping: { ...mapping, offsetBytes: mapping.offsetBytes + offset, address: mapping.address + BigInt(offset) } } };
}

/** The rank segments of such an agent; none: the engine does not say what its bytes are. */
export function arenaRanks({ layout, ranks = [] }: KvArena): readonly RankSegment[] {
  if (ranks.length > 1) return ranks.map((rank, i) => ({ segment: ARENA_SEGMENT + 1 + i, layout: rank.layout }));
  const whole = ranks[0]?.layout ?? layout;
  return whole === undefined ? [] : [{ segment: ARENA_SEGMENT, layout: whole }];
}

/** The same of a peer, by what its metadata says of its segments. */
export function peerRanks(layoutOf: (segment: number) => KvLayout | undefined): readonly RankSegment[] {
  const whole = layoutOf(ARENA_SEGMENT);
  if (whole !== undefined) return [{ segment: ARENA_SEGMENT, layout: whole }];
  const ranks: RankSegment[] = [];
  for (let rank = 0, size = 1; rank < size; rank++) {
    const segment = ARENA_SEGMENT + 1 + rank;
    const layout = layoutOf(segment);
    if (layout === undefined || layout.tpRank !== rank || (rank > 0 && layout.tpSize !== size)) return [];
    size = layout.tpSize;
    ranks.push({ segment, layout });
  }
  return ranks;
}

/**
 * Equal for arenas that differ at most in how heads are split over ranks: their blocks are converted on the way. Undefined: blocks move byte for byte
 * only. Not a hash, so that people see what differs.
 */
export function kvConversionOf(arena: KvArena): string | undefined {
  const layout = arenaRanks(arena)[0]?.layout;
  if (layout === undefined) return undefined;
  const { model, dtype, dtypeBytes, blockSize, layers, planes, kvHeads, headDim, order } = layout;
  return `${model} ${dtype}/${dtypeBytes} ${layers}x${planes}x${kvHeads}x${headDim} block ${blockSize} ${order.join(',')}`;
}

/** What decides whether one worker can read another's blocks. */
export interface KvIdentity {
  readonly layoutFingerprint: string;
  readonly kvConversion?: string;
}

/** Blocks go from one to the other: byte for byte, or converted. */
export function canExchangeKv(a: KvIdentity, b: KvIdentity): boolean {
  return a.layoutFingerprint === b.layoutFingerprint || (a.kvConversion !== undefined && a.kvConversion === b.kvConversion);
}

/** `SERVING_KV_INCOMPATIBLE`: nothing would be won by trying again. */
export function kvIncompatible(prefillWorker: string): ArmatureError {
  return new ArmatureError('SERVING_KV_INCOMPATIBLE', `the decode worker cannot read the KV blocks of ${prefillWorker}: their layouts differ in more than ranks`, {
    hint: 'give both pools the same engine, model, element type and block size; see `kvConversion` and `layoutFingerprint` of /workers',
  });
}
