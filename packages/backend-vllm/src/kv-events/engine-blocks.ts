import type { KvEvent, KvTier } from '@armature/contracts';
import { continueHashesInto, sequenceHashesInto } from '@armature/tokens';
import { BlockTable, TIERS } from './block-table.ts';
import type { BatchVisitor, StoredBlocks } from './batch-reader.ts';
import { Tenants } from './tenants.ts';

const NO_PARENT = new Int32Array(0);

/** What became of the events, since the start. */
export interface EngineBlockCounts {
  /** Blocks told as stored, removed; what was not new or not known included. */
  readonly storedBlocks: number;
  readonly removedBlocks: number;
  readonly cleared: number;
  /** Blocks whose parent was never told: left out. */
  readonly orphanBlocks: number;
  /** Blocks whose hash has more in it than tokens, salt and adapter: left out. */
  readonly foreignBlocks: number;
  /** Blocks of another size than ours, or with fewer tokens than blocks: left out. */
  readonly misshapenBlocks: number;
  readonly unknownRemovals: number;
  readonly ignoredEvents: number;
}

/**
 * What the engine holds, under our hashes: its events in, ours out. Its own hashes stay inside; ours are made from the tokens of each block and the hash of
 * its parent. Events count from 1 without gaps, whatever the engine's own numbers do.
 */
export class EngineBlocks implements BatchVisitor {
  readonly #blockSize: number;
  readonly #table: BlockTable;
  readonly #tenants: Tenants;
  readonly #listener: (event: KvEvent) => void;
  #lastId: number;
  #sequences: Int32Array;
  #removed: number[];
  #removedTier: KvTier;
  readonly #counts: { -readonly [name in keyof EngineBlockCounts]: number };
  /** Size of the engine's blocks when it is not ours; blocks that end a prompt may be shorter. */
  foreignBlockSize: number;
  /** Of the engine; 0 = not known. More copies told than this cannot be right. */
  totalBlocks: number;

  constructor(blockSize: number, listener: (event: KvEvent) => void) {
    this.#blockSize = blockSize;
    this.#table = new BlockTable();
    this.#tenants = new Tenants();
    this.#listener = listener;
    this.#lastId = 0;
    this.#sequences = new Int32Array(64);
    this.#removed = [];
    this.#removedTier = 'device';
    this.#counts = { storedBlocks: 0, removedBlocks: 0, cleared: 0, orphanBlocks: 0, foreignBlocks: 0, misshapenBlocks: 0, unknownRemovals: 0, ignoredEvents: 0 };
    this.foreignBlockSize = 0;
    this.totalBlocks = 0;
  }

  get counts(): EngineBlockCounts {
    return this.#counts;
  }

  get lastId(): number {
    return this.#lastId;
  }

  /** Blocks in the engine's own memory, each once. */
  get heldBlocks(): number {
    return this.#table.held(0);
  }

  /** Rows kept, held or not: for leak tests. */
  get rows(): number {
    return this.#table.size;
  }

  get tenants(): number {
    return this.#tenants.size;
  }

  /** More blocks are told than the engine has: ends of copies were missed, or hits reported as stores. */
  get isOverfull(): boolean {
    return this.totalBlocks > 0 && this.#table.deviceCopies > this.totalBlocks;
  }

  stored(blocks: StoredBlocks): void {
    const { count } = blocks;
    this.#counts.storedBlocks += count;
    if (count === 0) return;
    if (blocks.blockSize !== this.#blockSize || blocks.tokenCount < count * this.#blockSize) {
      if (blocks.blockSize > this.#blockSize || this.#counts.storedBlocks === this.#counts.misshapenBlocks + count) this.foreignBlockSize = blocks.blockSize;
      this.#counts.misshapenBlocks += count;
      return;
    }
    const parent = blocks.hasParent ? this.#table.find(blocks.parentLo, blocks.parentHi) : -1;
    if (blocks.hasParent && parent === -1) {
      this.#counts.orphanBlocks += count;
      return;
    }
    this.flush();
    const salt = this.#saltOf(blocks, parent);
    const plain = salt === -1 ? 0 : blocks.plainBlocks;
    this.#counts.foreignBlocks += count - plain;
    this.#hash(blocks, parent, salt, plain);
    this.#hold(blocks, parent, salt, plain);
  }

  removed(hashes: Int32Array, count: number, tier: KvTier): void {
    this.#counts.removedBlocks += count;
    if (tier !== this.#removedTier) this.flush();
    this.#removedTier = tier;
    const table = this.#table;
    const at = TIERS.indexOf(tier);
    for (let i = 0; i < count; i++) {
      const row = table.find(hashes[2 * i] as number, hashes[2 * i + 1] as number);
      if (row === -1 || !table.isHeld(row, at)) {
        this.#counts.unknownRemovals++;
        continue;
      }
      const isNamed = table.salt(row) !== -1;
      const lo = table.sequenceLo(row);
      const hi = table.sequenceHi(row);
      if (table.release(row, at, this.#tenants.freed) && isNamed) this.#removed.push(lo, hi);
    }
  }

  cleared(): void {
    this.flush();
    this.#counts.cleared++;
    const others = this.#table.held(1) + this.#table.held(2) + this.#table.held(3);
    if (others === 0) return this.clear();
    this.#table.clearTier(0, this.#tenants.freed);
    this.#emit({ type: 'cleared', eventId: ++this.#lastId, tier: 'device' });
  }

  ignored(_what: string): void {
    this.#counts.ignoredEvents++;
  }

  /** What is held is not known any more: nothing is, from here on. */
  clear(): void {
    this.flush();
    const wasEmpty = this.#table.size === 0;
    this.#table.clear();
    this.#tenants.clear();
    if (!wasEmpty) this.#emit({ type: 'cleared', eventId: ++this.#lastId });
  }

  /** Emits gathered removals: at the end of each message, and before anything else is told. */
  flush(): void {
    if (this.#removed.length === 0) return;
    const sequenceHashes = Int32Array.from(this.#removed);
    this.#removed.length = 0;
    this.#emit({ type: 'removed', eventId: ++this.#lastId, sequenceHashes, tier: this.#removedTier });
  }

  /** Events that rebuild what is held, parents first; the last one has the last id given out. */
  snapshot(): readonly KvEvent[] {
    this.flush();
    const runs = TIERS.flatMap((tier, at) => this.#runs(at).map((rows) => ({ tier, rows })));
    if (runs.length === 0) return this.#lastId === 0 ? [] : [{ type: 'cleared', eventId: this.#lastId }];
    const first = this.#lastId - runs.length + 1;
    return runs.map(({ tier, rows }, i) => {
      const table = this.#table;
      const sequenceHashes = Int32Array.from(rows.flatMap((row) => [table.sequenceLo(row), table.sequenceHi(row)]));
      const row = rows[0] as number;
      return this.#withTenant({ type: 'stored', eventId: Math.max(1, first + i), parent: this.#nameOf(table.parent(row)), sequenceHashes, tier }, row);
    });
  }

  /** Of one tier: chains of rows, each begun only when the row before its first one is told or not held. */
  #runs(tier: number): number[][] {
    const table = this.#table;
    const seen = new Uint8Array(table.end);
    const runs: number[][] = [];
    for (let start = 0; start < table.end; start++) {
      const run: number[] = [];
      for (let row = start; row !== -1 && seen[row] === 0 && table.isHeld(row, tier) && table.salt(row) !== -1; row = table.parent(row)) {
        seen[row] = 1;
        run.push(row);
      }
      if (run.length > 0) runs.push(run.reverse());
    }
    return runs;
  }

  #saltOf(blocks: StoredBlocks, parent: number): number {
    if (parent !== -1) return this.#table.salt(parent);
    return blocks.plainBlocks === 0 ? -1 : this.#tenants.numberOf(blocks.cacheSalt, blocks.adapter);
  }

  #hash(blocks: StoredBlocks, parent: number, salt: number, plain: number): void {
    if (this.#sequences.length < 2 * plain) this.#sequences = new Int32Array(4 * plain);
    if (plain === 0) return;
    const table = this.#table;
    const hashing = { blockSize: this.#blockSize, salt: this.#tenants.get(salt).hash };
    const used = plain * this.#blockSize;
    if (parent === -1) sequenceHashesInto(blocks.tokens, used, hashing, this.#sequences);
    else continueHashesInto(blocks.tokens, used, hashing, { lo: table.sequenceLo(parent), hi: table.sequenceHi(parent) }, this.#sequences);
  }

  /** Tells of the blocks that were not held before, in runs without a break. */
  #hold(blocks: StoredBlocks, parent: number, salt: number, plain: number): void {
    const table = this.#table;
    const tier = TIERS.indexOf(blocks.tier);
    let before = parent;
    let from = -1;
    for (let i = 0; i < blocks.count; i++) {
      const lo = blocks.hashes[2 * i] as number;
      const hi = blocks.hashes[2 * i + 1] as number;
      let row = table.find(lo, hi);
      if (row === -1) {
        const own = i < plain ? salt : -1;
        row = table.add(lo, hi, before, own);
        this.#tenants.added(own);
        if (i < plain) table.name(row, this.#sequences[2 * i] as number, this.#sequences[2 * i + 1] as number);
      }
      const isNew = table.hold(row, tier) && table.salt(row) !== -1;
      if (isNew && from === -1) from = i;
      if (!isNew && from !== -1) from = this.#tell(blocks, parent, from, i);
      before = row;
    }
    if (from !== -1) this.#tell(blocks, parent, from, plain);
  }

  #tell(blocks: StoredBlocks, parentRow: number, from: number, to: number): -1 {
    const parent = from === 0 ? this.#nameOf(parentRow) : this.#sequences.slice(2 * from - 2, 2 * from);
    const row = this.#table.find(blocks.hashes[2 * from] as number, blocks.hashes[2 * from + 1] as number);
    this.#emit(this.#withTenant({ type: 'stored', eventId: ++this.#lastId, parent, sequenceHashes: this.#sequences.slice(2 * from, 2 * to), tier: blocks.tier }, row));
    return -1;
  }

  #withTenant(event: Extract<KvEvent, { type: 'stored' }>, row: number): KvEvent {
    const { cacheSalt } = this.#tenants.get(this.#table.salt(row));
    return cacheSalt === '' ? event : { ...event, cacheSalt };
  }

  #nameOf(row: number): Int32Array {
    return row === -1 ? NO_PARENT : Int32Array.of(this.#table.sequenceLo(row), this.#table.sequenceHi(row));
  }

  #emit(event: KvEvent): void {
    this.#listener(event);
  }
}
