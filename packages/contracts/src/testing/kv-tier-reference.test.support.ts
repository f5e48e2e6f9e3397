import { KvBlockStatus } from '../kv-tier.ts';
import type { KvBlockBatch, KvMemory, KvOperation, KvRecordVisitor, KvRemovalReason, KvTierBackend, KvTierHost, KvTierStats, KvTierStore } from '../kv-tier.ts';
import { TransferStatus } from '../transfer-transport.ts';
import { key } from './kv-tier-session.ts';

/** What the reference does wrong, for the test that the suite notices. */
export type TierBug =
  | 'none'
  | 'loads take no pin'
  | 'evictions are not reported'
  | 'refused rows are reported as removed'
  | 'done comes twice'
  | 'duplicates are overwritten'
  | 'quotas are ignored'
  | 'admission is ignored'
  | 'checksums are lost'
  | 'parents are lost'
  | 'match skips gaps'
  | 'records in order of places'
  | 'foreign content is given out'
  | 'evicts the newest'
  | 'close leaves operations'
  | 'writes after done'
  | 'bad rows throw'
  | 'one bad row fails all'
  | 'cancelled stores are matched'
  | 'loads nothing, says Done'
  | 'forgets at close'
  | 'probe answers twice';

interface Held {
  readonly place: number;
  readonly hash: readonly [number, number];
  readonly parent: readonly [number, number];
  readonly checksum: readonly [number, number];
  readonly tenant: number;
  readonly usedAt: number;
  pins: number;
}

/** Contents of closed tiers by folder: stands for a disk. */
const disks = new Map<string, { readonly bytes: Uint8Array; readonly held: Map<string, Held> }>();

const { Done, Present, Missing, Refused, Failed, Canceled } = KvBlockStatus;

/** A tier as simple as the contract allows: maps, one copy for each row. The suite runs over it sound, and with each bug. */
export class ReferenceTier implements KvTierBackend {
  readonly tier = 'disk';
  readonly #places: number;
  readonly #folder: string;
  readonly #bug: TierBug;

  constructor(places: number, folder: string, bug: TierBug = 'none') {
    this.#places = places;
    this.#folder = folder;
    this.#bug = bug;
  }

  capacityBytes(): undefined {
    return undefined;
  }

  open(host: KvTierHost): Promise<KvTierStore> {
    const identity = this.#bug === 'foreign content is given out' ? '' : `${host.modelFingerprint} ${host.layoutFingerprint}`;
    return Promise.resolve(new ReferenceStore(host, this.#places, `${this.#folder} ${identity}`, this.#bug));
  }
}

class ReferenceStore implements KvTierStore {
  readonly tier = 'disk';
  readonly capacityBlocks: number;
  readonly #host: KvTierHost;
  readonly #bug: TierBug;
  readonly #disk: string;
  readonly #order;
  readonly #memory: KvMemory;
  readonly #held: Map<string, Held>;
  readonly #free: number[] = [];
  readonly #running = new Set<() => void>();
  readonly #counts = { stores: 0, duplicates: 0, refusals: 0, loads: 0, misses: 0, evictions: 0, failures: 0, dropped: 0 };
  #uses = 0;
  #isClosed = false;

  constructor(host: KvTierHost, places: number, disk: string, bug: TierBug) {
    this.#host = host;
    this.#bug = bug;
    this.#disk = disk;
    this.capacityBlocks = places;
    this.#order = host.order(places);
    const kept = disks.get(disk);
    const bytes = kept?.bytes ?? new Uint8Array(places * host.blockBytes);
    this.#memory = host.mover.registerMemory({ bytes }, { blocks: places, blockStrideBytes: host.blockBytes, pieces: 1, pieceBytes: host.blockBytes, pieceStrideBytes: host.blockBytes });
    this.#held = new Map();
    for (const held of kept?.held.values() ?? []) this.#insert(held);
    const used = new Set([...this.#held.values()].map(({ place }) => place));
    for (let place = 0; place < places; place++) if (!used.has(place)) this.#free.push(place);
    disks.set(disk, { bytes, held: this.#held });
  }

  match(hashes: Int32Array, from: number): number {
    let rows = 0;
    for (let row = from; row < hashes.length >> 1; row++) {
      if (this.#held.has(keyOf(hashes, row))) rows++;
      else if (this.#bug !== 'match skips gaps') break;
    }
    return rows;
  }

  probe(hashes: Int32Array, from: number, _deadlineMs: number, done: (blocks: number) => void): KvOperation {
    const blocks = this.match(hashes, from);
    setImmediate(() => done(blocks));
    return { cancel: () => void (this.#bug === 'probe answers twice' && done(0)) };
  }

  store(batch: KvBlockBatch, done: () => void): KvOperation {
    return this.#each(batch, done, (row, next, run) => {
      const name = keyOf(batch.hashes, row);
      const known = this.#held.get(name);
      if (known !== undefined) {
        this.#counts.duplicates++;
        if (this.#bug === 'duplicates are overwritten') void this.#copy(batch, row, 'store', known.place, () => undefined);
        next(Present);
        return;
      }
      const place = this.#isClosed ? undefined : this.#place(batch, row);
      if (place === undefined) {
        this.#counts.refusals++;
        if (this.#bug === 'refused rows are reported as removed') this.#host.removed(batch.hashes.slice(2 * row, 2 * row + 2), 1, 'evicted');
        next(Refused);
        return;
      }
      run.copy = this.#copy(batch, row, 'store', place, (status) => {
        const isMatched = status === TransferStatus.Done || (status === TransferStatus.Canceled && this.#bug === 'cancelled stores are matched');
        if (!isMatched || this.#held.has(name)) {
          this.#free.push(place);
          next(isMatched ? Present : failure(status));
          if (isMatched) this.#counts.duplicates++;
          return;
        }
        const [parents, checksums] = [this.#bug === 'parents are lost' ? new Int32Array(2 * batch.count) : batch.parents, this.#bug === 'checksums are lost' ? new Int32Array(2 * batch.count) : batch.checksums];
        this.#insert({ place, hash: pair(batch.hashes, row), parent: pair(parents, row), checksum: pair(checksums, row), tenant: batch.tenant, usedAt: this.#uses++, pins: 0 });
        this.#counts.stores++;
        next(status === TransferStatus.Done ? Done : failure(status));
      });
    });
  }

  load(batch: KvBlockBatch, _deadlineMs: number, done: () => void): KvOperation {
    const pinned = Array.from({ length: batch.count }, (_, row) => (this.#isBad(batch, row) ? undefined : this.#held.get(keyOf(batch.hashes, row))));
    if (this.#bug !== 'loads take no pin') for (const held of pinned) if (held !== undefined) this.#pin(held);
    return this.#each(batch, done, (row, next, run) => {
      const held = pinned[row];
      if (held === undefined || this.#isClosed) {
        this.#counts.misses++;
        if (held !== undefined) this.#unpin(held);
        next(Missing);
        return;
      }
      const settle = (status: TransferStatus): void => {
        if (status === TransferStatus.Done) {
          this.#counts.loads++;
          batch.checksums.set(held.checksum, 2 * row);
          if (this.#held.get(key(...held.hash)) === held) this.#order.touched(held.place);
        }
        this.#unpin(held);
        next(status === TransferStatus.Done ? Done : failure(status));
      };
      if (this.#bug === 'loads nothing, says Done') settle(TransferStatus.Done);
      else run.copy = this.#copy(batch, row, 'load', held.place, settle);
    });
  }

  touch(hashes: Int32Array, from: number, count: number): void {
    for (let row = from + count - 1; row >= from; row--) {
      const held = this.#held.get(keyOf(hashes, row));
      if (held !== undefined) this.#order.touched(held.place);
    }
  }

  remove(hashes: Int32Array, count: number, reason: KvRemovalReason): number {
    let removed = 0;
    for (let row = 0; row < count; row++) {
      const held = this.#held.get(keyOf(hashes, row));
      if (held === undefined) continue;
      this.#forget(held, reason);
      removed++;
    }
    return removed;
  }

  records(visit: KvRecordVisitor): void {
    const told = new Set<Held>();
    const tell = (held: Held): void => {
      if (told.has(held)) return;
      told.add(held);
      const parent = this.#held.get(key(...held.parent));
      if (parent !== undefined && this.#bug !== 'records in order of places') tell(parent);
      visit(...held.hash, ...held.parent);
    };
    for (const held of this.#held.values()) tell(held);
  }

  stats(): KvTierStats {
    const pinned = [...this.#held.values()].filter(({ pins }) => pins > 0).length;
    return { capacityBlocks: this.capacityBlocks, heldBlocks: this.#held.size, pinnedBlocks: pinned, ...this.#counts };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    while (this.#running.size > 0 && this.#bug !== 'close leaves operations') {
      for (const cancel of this.#running) cancel();
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (this.#bug === 'forgets at close') disks.delete(this.#disk);
  }

  /** Rows one after the other; `next` ends one. */
  #each(batch: KvBlockBatch, done: () => void, begin: (row: number, next: (status: KvBlockStatus) => void, run: { copy: KvOperation | undefined }) => void): KvOperation {
    const run = { copy: undefined as KvOperation | undefined, isCanceled: false };
    let left = batch.count;
    const isAnyBad = batch.blocks.some((_, row) => this.#isBad(batch, row));
    if (isAnyBad && this.#bug === 'bad rows throw') throw new Error('bad row');
    const cancel = (): void => {
      run.isCanceled = true;
      run.copy?.cancel();
      if (this.#bug === 'writes after done' && left > 0) setImmediate(() => setImmediate(() => batch.memory.bytes?.fill(1)));
    };
    const end = (): void => {
      this.#running.delete(cancel);
      done();
      if (this.#bug === 'done comes twice' && run.isCanceled) done();
    };
    if (left === 0) {
      done();
      return { cancel: () => undefined };
    }
    this.#running.add(cancel);
    for (let row = 0; row < batch.count; row++) {
      const next = (status: KvBlockStatus): void => {
        batch.statuses[row] = status;
        if (status === Failed) this.#counts.failures++;
        if (--left === 0) end();
      };
      if (!this.#isBad(batch, row) && !(this.#bug === 'one bad row fails all' && isAnyBad)) begin(row, next, run);
      else next(Failed);
    }
    return { cancel };
  }

  #isBad({ blocks, memory, tenant }: KvBlockBatch, row: number): boolean {
    return !(blocks[row] >= 0 && blocks[row] < memory.blocks) || memory.pieceBytes !== this.#host.blockBytes || tenant < 0;
  }

  #place(batch: KvBlockBatch, row: number): number | undefined {
    const own = [...this.#held.values()].filter(({ tenant }) => tenant === batch.tenant);
    const quota = this.#host.quota(batch.tenant, this.capacityBlocks);
    const isOver = quota < this.capacityBlocks && own.length >= quota && this.#bug !== 'quotas are ignored';
    if (!isOver && this.#free.length > 0) return this.#free.pop();
    const victim = isOver ? own.find(({ pins }) => pins === 0) : this.#victim();
    if (victim === undefined) return undefined;
    if (this.#bug !== 'admission is ignored' && !this.#order.admits(batch.hashes[2 * row], batch.hashes[2 * row + 1], victim.place)) return undefined;
    this.#counts.evictions++;
    this.#forget(victim, 'evicted');
    return this.#free.pop();
  }

  #victim(): Held | undefined {
    if (this.#bug === 'evicts the newest') return [...this.#held.values()].at(-1);
    const place = this.#order.victim();
    return [...this.#held.values()].find((held) => held.place === place);
  }

  #insert(held: Held): void {
    this.#held.set(key(...held.hash), held);
    this.#order.inserted(held.place, ...held.hash, this.#held.get(key(...held.parent))?.place ?? -1, ...held.parent);
  }

  #forget(held: Held, reason: KvRemovalReason): void {
    this.#held.delete(key(...held.hash));
    this.#order.removed(held.place);
    if (held.pins === 0) this.#free.push(held.place);
    if (this.#bug !== 'evictions are not reported' || reason !== 'evicted') this.#host.removed(Int32Array.from(held.hash), 1, reason);
  }

  #pin(held: Held): void {
    if (held.pins++ === 0) this.#order.pinned(held.place);
  }

  #unpin(held: Held): void {
    if (this.#bug === 'loads take no pin' || --held.pins > 0) return;
    if (this.#held.get(key(...held.hash)) === held) this.#order.unpinned(held.place);
    else this.#free.push(held.place);
  }

  #copy(batch: KvBlockBatch, row: number, kind: 'store' | 'load', place: number, done: (status: TransferStatus) => void): KvOperation {
    const [theirs, ours] = [batch.blocks.slice(row, row + 1), Int32Array.of(place)];
    if (kind === 'store') return this.#host.mover.copy(batch.memory, theirs, this.#memory, ours, 60_000, done);
    return this.#host.mover.copy(this.#memory, ours, batch.memory, theirs, 60_000, done);
  }
}

function keyOf(hashes: Int32Array, row: number): string {
  return key(hashes[2 * row], hashes[2 * row + 1]);
}

function pair(words: Int32Array, row: number): readonly [number, number] {
  return [words[2 * row], words[2 * row + 1]];
}

function failure(status: TransferStatus): KvBlockStatus {
  return status === TransferStatus.Canceled || status === TransferStatus.TimedOut ? Canceled : Failed;
}
