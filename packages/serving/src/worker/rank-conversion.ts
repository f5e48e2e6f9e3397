import { ArmatureError } from '@armature/contracts';
import type { DescriptorColumns } from '@armature/contracts';
import { allocateDescriptors, LayoutConversion, layoutDifferences, sourceRanks } from '@armature/nixel';
import type { RankSegment } from './arena-segments.ts';

interface RankPair {
  readonly here: number;
  readonly there: number;
  readonly conversion: LayoutConversion;
}

/** True: rank by rank the same, so that blocks move byte for byte. */
export function areSameRanks(here: readonly RankSegment[], there: readonly RankSegment[]): boolean {
  return here.length === there.length && here.every(({ layout }, i) => layoutDifferences(layout, there[i]!.layout).length === 0);
}

/**
 * How blocks of a peer's ranks become blocks of own ranks: each own rank takes each of its KV heads from one of the peer's ranks. Worked out once per
 * life of a peer.
 */
export class RankConversion {
  readonly #pairs: readonly RankPair[];

  /** Throws `TRANSFER_LAYOUT_MISMATCH` when nothing bridges the layouts, `TRANSFER_LAYOUT_SCATTERED` when their runs are too short to be described one by one. */
  constructor(here: readonly RankSegment[], there: readonly RankSegment[]) {
    this.#pairs = here.flatMap((own) =>
      sourceRanks(own.layout.kvHeads, own.layout, there.length).map(({ rank }) => {
        const source = there[rank];
        if (source === undefined) throw new ArmatureError('TRANSFER_LAYOUT_MISMATCH', `the peer's KV has no rank ${rank}`, { hint: 'give both workers the same model' });
        return { here: own.segment, there: source.segment, conversion: new LayoutConversion(own.layout, source.layout) };
      }),
    );
    const scattered = this.#pairs.find(({ conversion }) => conversion.isScattered);
    if (scattered !== undefined) {
      throw new ArmatureError('TRANSFER_LAYOUT_SCATTERED', `KV blocks of the two workers share runs of only ${scattered.conversion.pieceBytes} bytes`, { hint: 'use engines whose blocks have the same order' });
    }
  }

  /** One list for all ranks: one transfer moves a block whole or not at all, and ends when no rank's bytes can change any more. */
  descriptors(localBlocks: Int32Array, remoteBlocks: Int32Array): { readonly local: DescriptorColumns; readonly remote: DescriptorColumns } {
    const parts = this.#pairs.map(({ here, there, conversion }) => conversion.descriptors({ segment: here, blocks: localBlocks }, { segment: there, blocks: remoteBlocks }));
    return { local: joined(parts.map((part) => part.here)), remote: joined(parts.map((part) => part.there)) };
  }
}

function joined(parts: readonly DescriptorColumns[]): DescriptorColumns {
  const all = allocateDescriptors(parts.reduce((sum, { count }) => sum + count, 0));
  let at = 0;
  for (const { count, segments, offsets, lengths } of parts) {
    all.segments.set(segments, at);
    all.offsets.set(offsets, at);
    all.lengths.set(lengths, at);
    at += count;
  }
  return all;
}
