import { KvBlockStatus } from '@armature/contracts';
import type { KvBlockBatch, KvOperation, KvRecordVisitor, KvRemovalReason, KvStoreTier, KvTierBackend, KvTierHost, KvTierStats, KvTierStore } from '@armature/contracts';

interface Held {
  readonly words: Int32Array;
  readonly bytes: Uint8Array;
}

/** A lower tier in memory whose medium is as slow, broken or dishonest as a test wants; in virtual time. Oldest out first. */
export class SlowTier implements KvTierBackend, KvTierStore {
  readonly tier: KvStoreTier;
  readonly capacityBlocks: number;
  latencyMs = 1;
  msPerBlock = 0.1;
  /** Rows answered with this status instead. */
  failure: KvBlockStatus | undefined = undefined;
  /** Cancelled operations go on until they are through. */
  isStubborn = false;
  loads = 0;
  loadedBlocks = 0;
  stores = 0;
  running = 0;
  readonly held = new Map<string, Held>();
  readonly #running = new Set<() => void>();
  #host: KvTierHost | undefined = undefined;
  #evictions = 0;

  constructor(tier: KvStoreTier, capacityBlocks: number) {
    this.tier = tier;
    this.capacityBlocks = capacityBlocks;
  }

  capacityBytes(): number {
    return 2 ** 40;
  }

  open(host: KvTierHost): Promise<KvTierStore> {
    this.#host = host;
    host.order(this.capacityBlocks);
    return Promise.resolve(this);
  }

  match(hashes: Int32Array, from: number): number {
    let row = from;
    while (2 * row < hashes.length && this.held.has(key(hashes, row))) row++;
    return row - from;
  }

  store(batch: KvBlockBatch, done: () => void): KvOperation {
    this.stores++;
    return this.#run(batch, 30_000, done, (row) => {
      if (this.held.has(key(batch.hashes, row))) return KvBlockStatus.Present;
      if (this.held.size === this.capacityBlocks) this.#evict();
      const at = batch.blocks[row] * batch.memory.blockStrideBytes;
      const words = Int32Array.of(batch.hashes[2 * row], batch.hashes[2 * row + 1], batch.parents[2 * row], batch.parents[2 * row + 1], batch.checksums[2 * row], batch.checksums[2 * row + 1]);
      this.held.set(key(batch.hashes, row), { words, bytes: batch.memory.bytes!.slice(at, at + this.#blockBytes) });
      return KvBlockStatus.Done;
    });
  }

  load(batch: KvBlockBatch, deadlineMs: number, done: () => void): KvOperation {
    this.loads++;
    return this.#run(batch, deadlineMs, done, (row) => {
      const held = this.held.get(key(batch.hashes, row));
      if (held === undefined) return KvBlockStatus.Missing;
      this.loadedBlocks++;
      batch.memory.bytes!.set(held.bytes, batch.blocks[row] * batch.memory.blockStrideBytes);
      batch.checksums.set(held.words.subarray(4), 2 * row);
      return KvBlockStatus.Done;
    });
  }

  touch(): void {}

  remove(hashes: Int32Array, count: number, reason: KvRemovalReason): number {
    let removed = 0;
    for (let row = 0; row < count; row++) if (this.held.delete(key(hashes, row))) removed++;
    this.#host!.removed(hashes, count, reason);
    return removed;
  }

  records(visit: KvRecordVisitor): void {
    for (const { words } of this.held.values()) visit(words[0], words[1], words[2], words[3]);
  }

  stats(): KvTierStats {
    const zeros = { duplicates: 0, refusals: 0, misses: 0, failures: 0, dropped: 0 };
    return { capacityBlocks: this.capacityBlocks, heldBlocks: this.held.size, pinnedBlocks: this.running, stores: this.stores, loads: this.loads, evictions: this.#evictions, ...zeros };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** Everything that runs is through at once. */
  release(): void {
    for (const through of [...this.#running]) through();
  }

  get #blockBytes(): number {
    return this.#host!.blockBytes;
  }

  #run(batch: KvBlockBatch, deadlineMs: number, done: () => void, row: (row: number) => KvBlockStatus): KvOperation {
    const { clock } = this.#host!;
    const neededMs = this.latencyMs + batch.count * this.msPerBlock;
    let isOver = false;
    this.running++;
    const end = (status: KvBlockStatus | undefined): void => {
      if (isOver) return;
      isOver = true;
      this.running--;
      this.#running.delete(through);
      for (let i = 0; i < batch.count; i++) batch.statuses[i] = status ?? this.failure ?? row(i);
      done();
    };
    const through = (): void => end(undefined);
    this.#running.add(through);
    clock.setTimer(this.isStubborn ? neededMs : Math.min(neededMs, deadlineMs), () => end(this.isStubborn || neededMs <= deadlineMs ? undefined : KvBlockStatus.Canceled));
    return { cancel: () => void (this.isStubborn || end(KvBlockStatus.Canceled)) };
  }

  #evict(): void {
    const [oldest, { words }] = this.held.entries().next().value!;
    this.held.delete(oldest);
    this.#evictions++;
    this.#host!.removed(words.slice(0, 2), 1, 'evicted');
  }
}

function key(hashes: Int32Array, row: number): string {
  return `${hashes[2 * row]},${hashes[2 * row + 1]}`;
}
