import { BlockPool, LeaseTable, ReservationTable } from '@armature/blocks';
import type { Clock, KvArena, KvEvent, KvFace, KvLease, KvReservation } from '@armature/contracts';
import { createMemory } from '../checksum/wasm.ts';

export const PIECES = 3;
export const PIECE_BYTES = 320;
const STRIDE_BYTES = PIECE_BYTES + 64; // pieces of one block are apart, as in a layer-major arena
export const BLOCK_SIZE = 4;

/** What the KV of a block must be: a function of its sequence hash. */
export function contentOf(lo: number, hi: number): Uint8Array {
  const bytes = new Uint8Array(PIECES * PIECE_BYTES);
  let state = (lo ^ Math.imul(hi, 0x9e3779b1)) | 1;
  for (let i = 0; i < bytes.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state;
  }
  return bytes;
}

/** Sequence hashes of a prompt: chains of the same seed share their beginning. */
export function promptHashes(seed: number, blocks: number, fork = 0, forkAt = Infinity): Int32Array {
  const words = new Int32Array(2 * blocks);
  for (let row = 0; row < blocks; row++) {
    words[2 * row] = Math.imul(seed * 7919 + row + 1 + (row >= forkAt ? fork * 104_729 : 0), 0x85ebca6b);
    words[2 * row + 1] = Math.imul(seed + 1, 0x9e3779b1) ^ row ^ (row >= forkAt ? fork << 16 : 0);
  }
  return words;
}

export interface FakeEngineOptions {
  readonly clock: Clock;
  readonly blocks: number;
  /** Default: a WebAssembly memory, which is checked in place. */
  readonly isWasm?: boolean;
}

/** An engine's KV face over a real arena, with the tables of the real engines; "computing" writes what a block must hold. */
export class FakeEngine implements KvFace {
  readonly pool: BlockPool;
  readonly leases: LeaseTable;
  readonly reservations: ReservationTable;
  readonly bytes: Uint8Array;
  readonly #wasm: object | undefined;
  #evicted: number[] = [];
  #eventId = 0;
  onEvent: (event: KvEvent) => void = () => undefined;

  constructor({ clock, blocks, isWasm = true }: FakeEngineOptions) {
    this.pool = new BlockPool(blocks, (lo, hi) => this.#evicted.push(lo, hi));
    this.leases = new LeaseTable(this.pool, clock);
    this.reservations = new ReservationTable(this.pool, { clock });
    const lengthBytes = blocks * PIECES * STRIDE_BYTES;
    const memory = createMemory(Math.ceil(lengthBytes / 65_536) + 1);
    this.#wasm = isWasm ? memory : undefined;
    this.bytes = isWasm ? new Uint8Array(memory.buffer, 1024, lengthBytes) : new Uint8Array(new SharedArrayBuffer(lengthBytes));
  }

  arena(): KvArena {
    const { buffer, byteOffset, length } = this.bytes;
    const segment = { buffer: buffer as SharedArrayBuffer, byteOffset, lengthBytes: length, ...(this.#wasm === undefined ? {} : { wasm: this.#wasm }) };
    return { segments: [segment], blockStrideBytes: PIECES * STRIDE_BYTES, pieces: PIECES, pieceBytes: PIECE_BYTES, pieceStrideBytes: STRIDE_BYTES, layoutFingerprint: 'fake-layout' };
  }

  /** Computes what is missing of a prompt and lets go of it. False: the device has no room. */
  compute(hashes: Int32Array, cacheSalt = ''): boolean {
    const rows = hashes.length >> 1;
    const reservation = this.reserve(hashes, rows, 60_000, cacheSalt);
    if (reservation === undefined) return false;
    for (let row = reservation.matchedBlocks; row < rows; row++) this.#write(reservation.blocks[row], contentOf(hashes[2 * row], hashes[2 * row + 1]));
    this.commit(reservation.id, rows);
    this.release(reservation.id);
    return true;
  }

  /** What a request does with a fetch's reservation: reads the blocks that are said to be ready. Returns those that are wrong. */
  adopt(reservation: number, hashes: Int32Array, readyBlocks: number): number[] {
    const { blocks } = this.reservations.get(reservation)!;
    const wrong: number[] = [];
    for (let row = 0; row < readyBlocks; row++) if (!this.holds(blocks[row], hashes[2 * row], hashes[2 * row + 1])) wrong.push(row);
    this.release(reservation);
    return wrong;
  }

  holds(block: number, lo: number, hi: number): boolean {
    return Buffer.compare(this.read(block), contentOf(lo, hi)) === 0;
  }

  /** Registered blocks that do not hold what they must. */
  wrongBlocks(): number {
    let wrong = 0;
    const lineage = new Int32Array(4);
    for (let block = 0; block < this.pool.totalBlocks; block++) {
      if (!this.pool.isRegistered(block)) continue;
      this.pool.lineage(block, lineage);
      if (!this.holds(block, lineage[0], lineage[1])) wrong++;
    }
    return wrong;
  }

  /** Forgets the prefix cache. */
  forget(): void {
    this.pool.clearInactive();
    this.#flush();
  }

  match(hashes: Int32Array): number {
    return this.pool.match(hashes, hashes.length >> 1);
  }

  lease(hashes: Int32Array, from: number, to: number, ttlMs: number, isUse: boolean): KvLease | undefined {
    const blocks: number[] = [];
    for (let row = from; row < Math.min(to, hashes.length >> 1); row++) {
      const block = this.pool.find(hashes[2 * row], hashes[2 * row + 1]);
      if (block === -1) break;
      blocks.push(block);
    }
    return blocks.length === 0 ? undefined : { id: this.leases.lend(Int32Array.from(blocks), ttlMs, isUse), blocks: Int32Array.from(blocks) };
  }

  evictable(limit: number): Int32Array {
    return this.pool.oldestInactive(limit);
  }

  reserve(hashes: Int32Array, blocks: number, ttlMs: number, cacheSalt = ''): KvReservation | undefined {
    const reservation = this.reservations.reserve(hashes, blocks, ttlMs, cacheSalt);
    this.#flush();
    return reservation === undefined ? undefined : { id: reservation.id, matchedBlocks: reservation.matchedBlocks, blocks: reservation.blocks.slice() };
  }

  commit(id: number, blocks: number): void {
    const reservation = this.reservations.get(id);
    if (reservation === undefined) return;
    const { hashes, cacheSalt } = reservation;
    for (let row = reservation.committed; row < blocks; row++) {
      const parent = row === 0 ? new Int32Array(2) : hashes.subarray(2 * row - 2, 2 * row);
      if (!this.pool.register(reservation.blocks[row], hashes[2 * row], hashes[2 * row + 1], parent[0], parent[1])) continue;
      this.onEvent({ type: 'stored', eventId: ++this.#eventId, parent: row === 0 ? new Int32Array(0) : parent.slice(), sequenceHashes: hashes.slice(2 * row, 2 * row + 2), tier: 'device', cacheSalt });
    }
    reservation.committed = Math.max(reservation.committed, blocks);
  }

  release(id: number): void {
    this.reservations.release(id);
  }

  quarantine(id: number): void {
    this.reservations.quarantine(id);
  }

  renewLease(lease: number, ttlMs: number): boolean {
    return this.leases.renew(lease, ttlMs);
  }

  releaseLease(lease: number): 'valid' | 'expired' {
    return this.leases.release(lease);
  }

  counts(): { leases: number; reservations: number; quarantined: number } {
    return { leases: this.leases.size, reservations: this.reservations.size, quarantined: this.reservations.quarantined };
  }

  read(block: number): Uint8Array {
    const content = new Uint8Array(PIECES * PIECE_BYTES);
    for (let piece = 0; piece < PIECES; piece++) content.set(this.#piece(block, piece), piece * PIECE_BYTES);
    return content;
  }

  #write(block: number, content: Uint8Array): void {
    for (let piece = 0; piece < PIECES; piece++) this.#piece(block, piece).set(content.subarray(piece * PIECE_BYTES, (piece + 1) * PIECE_BYTES));
  }

  #piece(block: number, piece: number): Uint8Array {
    const at = (block * PIECES + piece) * STRIDE_BYTES;
    return this.bytes.subarray(at, at + PIECE_BYTES);
  }

  #flush(): void {
    if (this.#evicted.length === 0) return;
    const sequenceHashes = Int32Array.from(this.#evicted);
    this.#evicted = [];
    this.onEvent({ type: 'removed', eventId: ++this.#eventId, sequenceHashes, tier: 'device' });
  }
}
