import { ArmatureError } from '@armature/contracts';
import type { KvArena, KvMemory } from '@armature/contracts';

/** The engine's arena (G1) as memory that the mover and the checksum know. `segment`: what it is registered as with the worker's agent. Nothing is copied. */
export function deviceMemory(arena: KvArena, segment: number): KvMemory {
  const first = arena.segments[0];
  const { blockStrideBytes, pieces, pieceBytes, pieceStrideBytes } = arena;
  if (first === undefined) throw new ArmatureError('KVBM_ARENA_INVALID', 'the engine exposes no KV memory', { hint: 'a block manager needs an engine whose arena has a segment' });
  const { buffer, byteOffset, lengthBytes, wasm } = first;
  const spanBytes = (pieces - 1) * pieceStrideBytes + pieceBytes;
  const blocks = arena.layout?.blocks ?? Math.floor((lengthBytes - spanBytes) / blockStrideBytes) + 1;
  const bytes = new Uint8Array(buffer, byteOffset, lengthBytes);
  return { segment, blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes, bytes, ...(wasm === undefined ? {} : { wasm }) };
}

/** Bytes of one block's content. */
export function contentBytes({ pieces, pieceBytes }: { readonly pieces: number; readonly pieceBytes: number }): number {
  return pieces * pieceBytes;
}
