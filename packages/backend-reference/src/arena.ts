import { createHash } from 'node:crypto';
import type { KvArena, KvLayout } from '@armature/contracts';
import type { SharedMemory } from './kernels.ts';
import type { MemoryPlan } from './memory-plan.ts';

/** Version of the bytes of a KV block; changed whenever they mean something else. */
const LAYOUT_VERSION = 1;

/** Equal for runners whose blocks may be copied byte for byte. */
export function layoutFingerprint(plan: MemoryPlan, modelFingerprint: string): string {
  const { layers, kvHeads, headDim } = plan.shape;
  const { blockSize, tensorParallel } = plan.limits;
  const split = tensorParallel === 1 ? {} : { tensorParallel }; // one rank: as it was before there were several, so that stores stay valid
  const text = JSON.stringify({ version: LAYOUT_VERSION, dtype: 'f32', layers, kvHeads, headDim, blockSize, modelFingerprint, ...split });
  return createHash('sha256').update(text).digest('hex').slice(0, 32);
}

/** What lies in a rank's part of the arena. */
function rankLayout({ shape, limits }: MemoryPlan, modelFingerprint: string, tpRank: number): KvLayout {
  return {
    // Within a head, keys lie [dim][token] and values [token][dim]. No layout says that, and none has to while heads move whole: the name keeps engines
    // away that would take them apart.
    model: `${modelFingerprint}/reference-${LAYOUT_VERSION}`,
    dtype: 'f32',
    dtypeBytes: 4,
    blockSize: limits.blockSize,
    layers: shape.layers,
    planes: 2,
    kvHeads: shape.kvHeads,
    headDim: shape.headDim,
    tpSize: limits.tensorParallel,
    tpRank,
    order: ['block', 'layer', 'kv', 'head', 'token', 'dim'],
    blocks: limits.totalBlocks,
  };
}

/** The arena of a loaded model: each rank's part is one region, so that a block is one piece in each. */
export function arenaOf(plan: MemoryPlan, memory: SharedMemory, modelFingerprint: string): KvArena {
  const { arena, rankArenas, rankBlockBytes, limits } = plan;
  const rankBytes = limits.totalBlocks * rankBlockBytes;
  return {
    segments: [{ buffer: memory.buffer, byteOffset: arena, lengthBytes: rankArenas.length * rankBytes, wasm: memory }],
    blockStrideBytes: rankBlockBytes,
    pieces: rankArenas.length,
    pieceBytes: rankBlockBytes,
    pieceStrideBytes: rankBytes,
    layoutFingerprint: layoutFingerprint(plan, modelFingerprint),
    ranks: rankArenas.map((address, rank) => ({ byteOffset: address - arena, lengthBytes: rankBytes, layout: rankLayout(plan, modelFingerprint, rank) })),
  };
}
