import type { KvEvent } from '@armature/contracts';
import { continueHashesInto, noSalt, sequenceHashesInto, U64Map } from '@armature/tokens';
import { BlockTable, MAX_RANKS, TIERS } from './block-table.ts';
import type { WireBlock, WireData, WireEvent } from './wire.ts';

/** What became of the events, since the start. */
export interface EngineCacheCounts {
  readonly events: number;
  readonly storedBlocks: number;
  readonly removedBlocks: number;
  /** With fewer tokens than a block has: the end of a sequence. Left out. */
  readonly partialBlocks: number;
  /** With more tokens than a block of ours has: left out. */
  readonly misshapenBlocks: number;
  /** Behind a block that is not known: left out. */
  readonly orphanBlocks: number;
  /** Whose hash has more in it than tokens: left out. */
  readonly foreignBlocks: number;
  /** Of blocks that were left out, or never told. */
  readonly unknownRemovals: number;
  /** Of smaller attention windows than the model's largest, or of ranks beyond 32: left out. */
  readonly otherEvents: number;
}

/**
 * What the engine holds, under our hashes: its events in, ours out. Its own hashes stay inside; ours are made from the tokens of each block and the hash of
 * the block before. Our events count from 1 without gaps, whatever the engine's own numbers do.
 */
export class EngineCache {
  readonly #blockSize: number;
  readonly #listener: (event: KvEvent) => void;
  readonly #table: BlockTable;
  readonly #counts: { -readonly [name in keyof EngineCacheCounts]: number };
  #lastId: number;
  #window: number;
  /** Tokens of a block that is larger than ours; 0: none was seen. */
  foreignBlockSize: number;
  /** Of all ranks together, in the device tier, as `created` told; 0: not told. */
  #totalBlocks: Map<number, number>;

  constructor(blockSize: number, listener: (event: KvEvent) => void) {
    this.#blockSize = blockSize;
    this.#listener = listener;
    this.#table = new BlockTable();
    this.#counts = { events: 0, storedBlocks: 0, removedBlocks: 0, partialBlocks: 0, misshapenBlocks: 0, orphanBlocks: 0, foreignBlocks: 0, unknownRemovals: 0, otherEvents: 0 };
    this.#lastId = 0;
    this.#window = 0;
    this.foreignBlockSize = 0;
    this.#totalBlocks = new Map();
  }

  get counts(): EngineCacheCounts {
    return this.#counts;
  }

  get lastId(): number {
    return this.#lastId;
  }

  /** Blocks held in any tier. */
  get size(): number {
    return this.#table.size;
  }

  get totalBlocks(): number {
    let sum = 0;
    for (const blocks of this.#totalBlocks.values()) sum += blocks;
    return sum;
  }

  apply(event: WireEvent): void {
    this.#counts.events++;
    const { rank, window } = event;
    if (window > this.#window) {
      this.clear(); // what was held is of a smaller window
      this.#window = window;
      this.#totalBlocks.clear();
    }
    if (event.type === 'other' || window < this.#window || !(rank >= 0 && rank < MAX_RANKS)) this.#counts.otherEvents++;
    else if (event.type === 'created') this.#totalBlocks.set(rank, event.blocksPerLevel[0] ?? 0);
    else if (event.type === 'stored') this.#stored(event, rank);
    else if (event.type === 'removed') this.#removed(event.hashes, rank);
    else this.#moved(event, rank);
  }

  /** What is held is not known any more: nothing is, from here on. */
  clear(): void {
    if (this.#table.size === 0) return;
    this.#table.clear();
    this.#listener({ type: 'cleared', eventId: ++this.#lastId });
  }

  /** Events that rebuild what is held, parents first; the last one has the last id given out. */
  snapshot(): readonly KvEvent[] {
    const table = this.#table;
    const stored = TIERS.flatMap((tier, at) =>
      runsOf(table, at).map((rows) => ({ type: 'stored' as const, parent: table.parent(rows[0]), sequenceHashes: Int32Array.from(rows.flatMap((row) => [...table.sequence(row)])), tier })),
    );
    if (stored.length === 0) return this.#lastId === 0 ? [] : [{ type: 'cleared', eventId: this.#lastId }];
    return stored.map((event, i) => ({ ...event, eventId: Math.max(1, this.#lastId - stored.length + 1 + i) }));
  }

  #stored({ parent, blocks }: Extract<WireData, { type: 'stored' }>, rank: number): void {
    this.#counts.storedBlocks += blocks.length;
    const usable = this.#usable(blocks);
    if (usable === 0) return;
    let before = -1;
    if (parent !== undefined) {
      before = this.#table.find(parent.lo, parent.hi);
      if (before === -1) {
        this.#counts.orphanBlocks += usable;
        return;
      }
    }
    this.#hold(blocks, usable, before === -1 ? NONE : this.#table.sequence(before), rank);
  }

  /** Leading blocks that can be hashed: whole, of our size, of tokens alone. */
  #usable(blocks: readonly WireBlock[]): number {
    for (let i = 0; i < blocks.length; i++) {
      const { tokenIds, isForeign } = blocks[i];
      if (tokenIds.length === this.#blockSize && !isForeign) continue;
      const rest = blocks.length - i;
      if (isForeign) this.#counts.foreignBlocks += rest;
      else if (tokenIds.length < this.#blockSize) this.#counts.partialBlocks += rest;
      else {
        this.#counts.misshapenBlocks += rest;
        this.foreignBlockSize = tokenIds.length;
      }
      return i;
    }
    return blocks.length;
  }

  /** Tells of the blocks that their tier did not hold before, in runs of one tier without a break. */
  #hold(blocks: readonly WireBlock[], count: number, parent: Int32Array, rank: number): void {
    const table = this.#table;
    const sequences = this.#sequences(blocks, count, parent);
    const nameBefore = (i: number): Int32Array => (i === 0 ? parent : sequences.slice(2 * i - 2, 2 * i));
    let from = -1;
    const tell = (to: number): void => {
      if (from !== -1) this.#listener({ type: 'stored', eventId: ++this.#lastId, parent: nameBefore(from), sequenceHashes: sequences.slice(2 * from, 2 * to), tier: TIERS[tierOf(blocks[from].level)] });
      from = -1;
    };
    for (let i = 0; i < count; i++) {
      const { hash, level } = blocks[i];
      const known = table.find(hash.lo, hash.hi);
      const row = known === -1 ? table.add(hash.lo, hash.hi, sequences.subarray(2 * i, 2 * i + 2), nameBefore(i)) : known;
      const isNew = table.hold(row, tierOf(level), rank);
      if (from !== -1 && (!isNew || level !== blocks[from].level)) tell(i);
      if (isNew && from === -1) from = i;
    }
    tell(count);
  }

  #sequences(blocks: readonly WireBlock[], count: number, parent: Int32Array): Int32Array {
    const tokens = new Int32Array(count * this.#blockSize);
    for (let i = 0; i < count; i++) tokens.set(blocks[i].tokenIds, i * this.#blockSize);
    const sequences = new Int32Array(2 * count);
    const hashing = { blockSize: this.#blockSize, salt: noSalt };
    if (parent.length === 0) sequenceHashesInto(tokens, tokens.length, hashing, sequences);
    else continueHashesInto(tokens, tokens.length, hashing, { lo: parent[0], hi: parent[1] }, sequences);
    return sequences;
  }

  #removed(hashes: Extract<WireData, { type: 'removed' }>['hashes'], rank: number): void {
    this.#counts.removedBlocks += hashes.length;
    const gone: [number[], number[]] = [[], []];
    for (const { lo, hi } of hashes) {
      const row = this.#table.find(lo, hi);
      if (row === -1) {
        this.#counts.unknownRemovals++;
        continue;
      }
      const sequence = this.#table.sequence(row);
      for (const tier of [0, 1] as const) if (this.#table.isHeld(row, tier) && this.#table.release(row, tier, rank)) gone[tier].push(sequence[0], sequence[1]);
    }
    gone.forEach((sequences, tier) => {
      if (sequences.length > 0) this.#listener({ type: 'removed', eventId: ++this.#lastId, sequenceHashes: Int32Array.from(sequences), tier: TIERS[tier] });
    });
  }

  /** Offloaded or onboarded: first told where it is now, then where it is no more, so that it is never nowhere. */
  #moved({ hash, level }: Extract<WireData, { type: 'updated' }>, rank: number): void {
    const table = this.#table;
    const row = table.find(hash.lo, hash.hi);
    if (row === -1) {
      this.#counts.unknownRemovals++;
      return;
    }
    const to = tierOf(level);
    const from = 1 - to;
    const sequenceHashes = table.sequence(row);
    if (table.hold(row, to, rank)) this.#listener({ type: 'stored', eventId: ++this.#lastId, parent: table.parent(row), sequenceHashes, tier: TIERS[to] });
    if (table.release(row, from, rank)) this.#listener({ type: 'removed', eventId: ++this.#lastId, sequenceHashes, tier: TIERS[from] });
  }
}

const NONE = new Int32Array(0);

/** The rows that a tier holds, as chains: each begins where the block before is in an earlier chain, or not held. */
function runsOf(table: BlockTable, tier: number): number[][] {
  const rows = new U64Map(table.size);
  for (let row = 0; row < table.end; row++) {
    if (!table.isHeld(row, tier)) continue;
    const [lo, hi] = table.sequence(row);
    rows.set(lo, hi, row);
  }
  const before = (row: number): number => {
    const [lo, hi] = table.parent(row);
    return lo === undefined ? -1 : rows.get(lo, hi);
  };
  const seen = new Uint8Array(table.end);
  const runs: number[][] = [];
  for (let start = 0; start < table.end; start++) {
    if (!table.isHeld(start, tier)) continue;
    const run: number[] = [];
    for (let row = start; row !== -1 && seen[row] === 0; row = before(row)) {
      seen[row] = 1;
      run.push(row);
    }
    if (run.length > 0) runs.push(run.reverse());
  }
  return runs;
}

function tierOf(level: number): 0 | 1 {
  return level === 0 ? 0 : 1;
}
