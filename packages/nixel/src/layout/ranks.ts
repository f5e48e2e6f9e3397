import { headsOf } from './kv-layout.ts';

/** A rank to move heads from (or to), and which. */
export interface RankShare {
  readonly rank: number;
  readonly firstHead: number;
  readonly heads: number;
}

/**
 * The ranks of a group of `fromTp` from which rank `toRank` of a group of `toTp` takes its KV heads; together they hold each head once.
 * Where several hold copies of a head (`fromTp > kvHeads`), takers are spread over the copies.
 */
export function sourceRanks(kvHeads: number, to: { readonly tpSize: number; readonly tpRank: number }, fromTp: number): RankShare[] {
  const wanted = headsOf(kvHeads, to.tpSize, to.tpRank);
  const end = wanted.first + wanted.count;
  if (fromTp > kvHeads) {
    const copies = fromTp / kvHeads;
    return Array.from({ length: wanted.count }, (_, i) => ({ rank: (wanted.first + i) * copies + (to.tpRank % copies), firstHead: wanted.first + i, heads: 1 }));
  }
  const perRank = kvHeads / fromTp;
  const shares: RankShare[] = [];
  for (let head = wanted.first; head < end; ) {
    const rank = Math.floor(head / perRank);
    const until = Math.min(end, (rank + 1) * perRank);
    shares.push({ rank, firstHead: head, heads: until - head });
    head = until;
  }
  return shares;
}

/** The inverse, for writes: the ranks of a group of `toTp` that take heads from rank `fromRank` of `fromTp`. */
export function targetRanks(kvHeads: number, from: { readonly tpSize: number; readonly tpRank: number }, toTp: number): RankShare[] {
  const shares: RankShare[] = [];
  for (let tpRank = 0; tpRank < toTp; tpRank++) {
    for (const share of sourceRanks(kvHeads, { tpSize: toTp, tpRank }, from.tpSize)) {
      if (share.rank === from.tpRank) shares.push({ rank: tpRank, firstHead: share.firstHead, heads: share.heads });
    }
  }
  return shares;
}
