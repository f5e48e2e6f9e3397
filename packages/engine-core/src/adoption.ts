import type { Reservation } from '@armature/blocks';
import type { KvParts } from './engine-parts.ts';
import type { Sequence } from './sequence.ts';

/**
 * A sequence takes over a reservation's blocks: the KV of its first `readyTokens` tokens lies in them, the rest is computed. A block that
 * others may match is never written to: its tokens are computed again in a block of the sequence. What the prefix cache has beyond them is added
 * when the sequence is admitted. False: the reservation was made for
 * other tokens; its blocks have gone back, everything is computed.
 */
export function adopt(sequence: Sequence, reservation: Reservation, readyTokens: number, { pool, registry }: KvParts): boolean {
  const { blockSize } = sequence.hasher;
  const { blocks, committed, hashes } = reservation;
  if (!isSame(hashes, sequence.hasher.sequenceHashes)) {
    pool.releaseAll(blocks, blocks.length);
    return false;
  }
  registry.register(reservation, 0, committed); // a copy whose first one was evicted meanwhile becomes the first one
  registry.share(reservation, 0, committed);
  const ready = Math.min(Math.max(readyTokens, committed * blockSize), sequence.length - 1);
  const nextBlock = Math.floor(ready / blockSize);
  const kept = Math.min(nextBlock < committed ? nextBlock : blocks.length, Math.ceil(sequence.length / blockSize));
  for (let i = 0; i < kept; i++) sequence.addBlock(blocks[i]);
  for (let i = blocks.length - 1; i >= kept; i--) pool.release(blocks[i]);
  sequence.computed = Math.min(ready, kept * blockSize);
  sequence.registered = Math.min(committed, Math.floor(sequence.computed / blockSize));
  sequence.isAdopted = true;
  return true;
}

/** Equal as far as both go. */
function isSame(a: Int32Array, b: Int32Array): boolean {
  for (let i = 0; i < a.length && i < b.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
