import { ArmatureError } from '@armature/contracts';
import type { ModelShape } from './checkpoint/shape.ts';

/** What one tensor-parallel rank computes: some query heads, and the KV heads that those look at. */
export interface RankHeads {
  readonly firstHead: number;
  readonly heads: number;
  readonly firstKvHead: number;
  readonly kvHeads: number;
}

/**
 * Query and KV heads over ranks, in order. More ranks than KV heads: neighbours hold copies of one, as in vLLM. Throws `ENGINE_CONFIG_INVALID`
 * when a rank would get a part of a head, or query heads of a KV head that another rank holds.
 */
export function splitHeads(shape: ModelShape, tensorParallel: number): readonly RankHeads[] {
  const { heads, kvHeads } = shape;
  const isEven = heads % tensorParallel === 0 && (kvHeads % tensorParallel === 0 || tensorParallel % kvHeads === 0);
  if (!isEven) {
    const fitting = [1, 2, 4].filter((ranks) => heads % ranks === 0 && (kvHeads % ranks === 0 || ranks % kvHeads === 0));
    throw new ArmatureError('ENGINE_CONFIG_INVALID', `tensorParallel is ${tensorParallel}, the model has ${heads} query heads and ${kvHeads} KV heads, which that many ranks cannot share evenly`, {
      hint: `set tensorParallel to ${fitting.join(' or ')}`,
    });
  }
  const perRank = heads / tensorParallel;
  const kvPerRank = Math.max(1, kvHeads / tensorParallel);
  return Array.from({ length: tensorParallel }, (_, rank) => ({
    firstHead: rank * perRank,
    heads: perRank,
    firstKvHead: Math.floor((rank * kvHeads) / tensorParallel),
    kvHeads: kvPerRank,
  }));
}

/** Bytes of one rank's part of a KV block: keys and values of its heads in all layers, f32, contiguous. */
export function rankBlockBytes(shape: ModelShape, heads: RankHeads, blockSize: number): number {
  return shape.layers * 2 * heads.kvHeads * shape.headDim * blockSize * 4;
}
