import { ArmatureError } from '@armature/contracts';
import type { KvMemoryLayout } from '@armature/contracts';

/** Bytes from block 0 to the end of the last block. */
export function layoutBytes({ blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes }: KvMemoryLayout): number {
  return blocks === 0 ? 0 : (blocks - 1) * blockStrideBytes + (pieces - 1) * pieceStrideBytes + pieceBytes;
}

/** Blocks may not overlap each other, nor pieces of one: a copy into one would change another. */
export function isLayout(layout: KvMemoryLayout, lengthBytes: number): boolean {
  const { blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes } = layout;
  if (![blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes].every((value) => Number.isSafeInteger(value) && value >= 0)) return false;
  if (pieces < 1 || pieceBytes < 1 || pieceBytes > 0x7fff_ffff) return false;
  return (pieces === 1 || pieceStrideBytes >= pieceBytes) && layoutBytes(layout) <= lengthBytes;
}

/** Throws `KVBM_LAYOUT_INVALID`. */
export function assertLayout(layout: KvMemoryLayout, lengthBytes: number): void {
  if (isLayout(layout, lengthBytes)) return;
  const { blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes } = layout;
  throw new ArmatureError('KVBM_LAYOUT_INVALID', `${blocks} blocks every ${blockStrideBytes} bytes, of ${pieces} × ${pieceBytes} bytes every ${pieceStrideBytes}, in memory of ${lengthBytes} bytes`, {
    hint: 'give whole numbers, pieces that do not overlap, and blocks that end inside the memory',
  });
}
