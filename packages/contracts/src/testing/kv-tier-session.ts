import assert from 'node:assert/strict';
import type { Logger } from '../context.ts';
import type { ErrorData } from '../errors.ts';
import type { KvEvictionOrder } from '../kv-policy.ts';
import { KvBlockStatus } from '../kv-tier.ts';
import type { KvBlockBatch, KvBlockMover, KvMemory, KvOperation, KvRemovalReason, KvTierBackend, KvTierHost, KvTierStore } from '../kv-tier.ts';
import { realClock } from './real-clock.ts';

// What the kv-tier suite stands on: a host that records, an order that checks its caller, memory with guards, blocks made up from a number.

export interface TierFacts {
  /** How many blocks the tier shall hold; rules work with the `capacityBlocks` that it says. */
  readonly places: number;
  readonly blockBytes: number;
  /** Of this rule alone, not made yet; the same one when a tier is opened again. Tiers without files take it as a name. */
  readonly folder: string;
}

/** A mover, and how to be rid of it. */
export interface SuiteMover {
  readonly mover: KvBlockMover;
  close(): Promise<void>;
}

const silent: Logger = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {}, child: () => silent, isEnabled: () => false };

/** Longest wait of a rule for one operation. Nothing is asserted about how long things take. */
export const PATIENCE_MS = 30_000;
/** In statuses before an operation, so that a row that was not written shows. */
const UNWRITTEN = 255;
const GUARD = 0xa5;

/** Rejects when `promise` takes too long: a rule that hangs names what it waited for. */
export async function within<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new Error(`${what}: no end after ${PATIENCE_MS} ms`)), PATIENCE_MS)));
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A small seeded generator; the suite prints the seed of what fails. */
export class SuiteRandom {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0 || 1;
  }

  below(bound: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) % bound;
  }
}

/** Hash words of made-up block `id` (1 or more). */
export function hashOf(id: number): readonly [number, number] {
  return [Math.imul(id, 0x9e3779b1), Math.imul(id ^ 0x5bd1e995, 0x85ebca6b)];
}

export function hashes(ids: readonly number[]): Int32Array {
  return Int32Array.from(ids.flatMap(hashOf));
}

export function key(lo: number, hi: number): string {
  return `${lo | 0},${hi | 0}`;
}

function checksumOf(id: number): readonly [number, number] {
  return [Math.imul(id, 0x27d4eb2f), ~id];
}

/** Content of made-up block `id`. */
export function contentOf(id: number, bytes: number): Uint8Array {
  const random = new SuiteRandom(Math.imul(id, 0x2545f491));
  const content = new Uint8Array(bytes);
  for (let at = 0; at < bytes; at += 4) {
    const word = random.below(2 ** 32);
    for (let i = 0; i < 4 && at + i < bytes; i++) content[at + i] = word >>> (8 * i);
  }
  return content;
}

/** Least recently used first; says which of its caller's calls break the contract. */
export class SuiteOrder implements KvEvictionOrder {
  readonly broken: string[] = [];
  /** Hashes of the places that `victim` named, in order of `removed`. */
  readonly #hashes = new Map<number, string>();
  /** Oldest first. */
  #line: number[] = [];
  readonly #pinned = new Set<number>();
  admitsAll = true;

  inserted(place: number, lo: number, hi: number, parent: number): void {
    if (this.#hashes.has(place)) this.broken.push(`inserted(${place}) twice`);
    if (parent !== -1 && !this.#hashes.has(parent)) this.broken.push(`inserted(${place}) with a parent that is not held`);
    this.#hashes.set(place, key(lo, hi));
    this.#line.push(place);
  }

  touched(place: number): void {
    this.#known(place, 'touched');
    this.#line = this.#line.filter((other) => other !== place);
    this.#line.push(place);
  }

  pinned(place: number): void {
    this.#known(place, 'pinned');
    if (this.#pinned.has(place)) this.broken.push(`pinned(${place}) twice`);
    this.#pinned.add(place);
  }

  unpinned(place: number): void {
    this.#known(place, 'unpinned');
    if (!this.#pinned.delete(place)) this.broken.push(`unpinned(${place}) that was not pinned`);
  }

  removed(place: number): void {
    this.#known(place, 'removed');
    this.#hashes.delete(place);
    this.#pinned.delete(place);
    this.#line = this.#line.filter((other) => other !== place);
  }

  victim(): number {
    return this.#line.find((place) => !this.#pinned.has(place)) ?? -1;
  }

  admits(_lo: number, _hi: number, victim: number): boolean {
    this.#known(victim, 'admits');
    return this.admitsAll;
  }

  seen(): void {}

  /** Key of the block that goes next, undefined: none may. */
  next(): string | undefined {
    return this.#hashes.get(this.victim());
  }

  #known(place: number, call: string): void {
    if (!this.#hashes.has(place)) this.broken.push(`${call}(${place}) of a place that is not held`);
  }
}

/** Memory of the suite: blocks in pieces with gaps, guarded all around. */
export class SuiteTierMemory {
  readonly memory: KvMemory;
  readonly #bytes: Uint8Array;

  constructor(mover: KvBlockMover, shape: { readonly blocks: number; readonly blockBytes: number; readonly pieces: number; readonly gapBytes: number }) {
    const { blocks, blockBytes, pieces, gapBytes } = shape;
    const pieceBytes = blockBytes / pieces;
    const pieceStrideBytes = pieceBytes + (pieces === 1 ? 0 : gapBytes);
    const blockStrideBytes = pieces * pieceStrideBytes + gapBytes;
    this.#bytes = new Uint8Array(new SharedArrayBuffer(blocks * blockStrideBytes)).fill(GUARD);
    this.memory = mover.registerMemory({ bytes: this.#bytes }, { blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes });
  }

  fill(block: number, content: Uint8Array): void {
    this.#pieces(block, (piece, at) => this.#bytes.set(content.subarray(at, at + piece.length), piece.byteOffset));
  }

  read(block: number): Uint8Array {
    const content = new Uint8Array(this.memory.pieces * this.memory.pieceBytes);
    this.#pieces(block, (piece, at) => content.set(piece, at));
    return content;
  }

  /** Everything, gaps included. */
  snapshot(): Uint8Array {
    return this.#bytes.slice();
  }

  #pieces(block: number, visit: (piece: Uint8Array, at: number) => void): void {
    const { blockStrideBytes, pieces, pieceBytes, pieceStrideBytes } = this.memory;
    for (let p = 0; p < pieces; p++) {
      const at = block * blockStrideBytes + p * pieceStrideBytes;
      visit(this.#bytes.subarray(at, at + pieceBytes), p * pieceBytes);
    }
  }
}

/** Holds back copies of a mover while `isHeld`; then lets them go last first, so that what came later overtakes. */
class HeldMover implements KvBlockMover {
  readonly #mover: KvBlockMover;
  readonly #held: (() => void)[] = [];
  isHeld = false;

  constructor(mover: KvBlockMover) {
    this.#mover = mover;
  }

  get held(): number {
    return this.#held.length;
  }

  registerMemory(...args: Parameters<KvBlockMover['registerMemory']>): KvMemory {
    return this.#mover.registerMemory(...args);
  }

  registerFile(...args: Parameters<KvBlockMover['registerFile']>): KvMemory {
    return this.#mover.registerFile(...args);
  }

  view(...args: Parameters<KvBlockMover['view']>): KvMemory {
    return this.#mover.view(...args);
  }

  deregister(memory: KvMemory): void {
    this.#mover.deregister(memory);
  }

  copy(...args: Parameters<KvBlockMover['copy']>): KvOperation {
    if (!this.isHeld) return this.#mover.copy(...args);
    const [from, fromBlocks, to, toBlocks, deadlineMs, done] = args;
    const columns = [fromBlocks.slice(), toBlocks.slice()] as const;
    let operation: KvOperation | undefined;
    let isCanceled = false;
    this.#held.push(() => {
      operation = this.#mover.copy(from, columns[0], to, columns[1], deadlineMs, done);
      if (isCanceled) operation.cancel();
    });
    return {
      cancel: () => {
        isCanceled = true;
        operation?.cancel();
      },
    };
  }

  letGo(): void {
    this.isHeld = false;
    for (const copy of this.#held.splice(0).reverse()) copy();
  }
}

/** A batch under way. */
export interface Running {
  readonly ids: readonly number[];
  readonly batch: KvBlockBatch;
  readonly memory: SuiteTierMemory;
  readonly operation: KvOperation;
  /** Calls of `done` so far. */
  readonly dones: () => number;
  /** Statuses, once `done` has come. */
  readonly ended: Promise<Uint8Array>;
}

export interface RowOptions {
  readonly tenant?: number;
  /** Parents of the ids, 0 = none. Default: none. */
  readonly parents?: readonly number[];
  readonly deadlineMs?: number;
  /** Pieces of the memory that the rows come from or go to. Default 1. */
  readonly pieces?: number;
  /** Content other than the ids' own. */
  readonly contents?: (id: number) => Uint8Array;
}

/** One opened tier, with what it told its host. */
export class TierSession {
  readonly backend: KvTierBackend;
  readonly store: KvTierStore;
  readonly order: SuiteOrder;
  readonly mover: HeldMover;
  readonly blockBytes: number;
  /** What `removed` said, in order. */
  readonly removed: { readonly hash: string; readonly reason: KvRemovalReason }[];
  readonly degradations: (ErrorData | undefined)[];
  /** Of tenants; others have none. */
  readonly quotas: Map<number, number>;
  readonly #running = new Set<Running>();

  private constructor(parts: Pick<TierSession, 'backend' | 'store' | 'order' | 'mover' | 'blockBytes' | 'removed' | 'degradations' | 'quotas'>) {
    this.backend = parts.backend;
    this.store = parts.store;
    this.order = parts.order;
    this.mover = parts.mover;
    this.blockBytes = parts.blockBytes;
    this.removed = parts.removed;
    this.degradations = parts.degradations;
    this.quotas = parts.quotas;
  }

  static async open(backend: KvTierBackend, facts: TierFacts, mover: KvBlockMover, fingerprints: { readonly model?: string; readonly layout?: string } = {}): Promise<TierSession> {
    const parts = { backend, order: new SuiteOrder(), mover: new HeldMover(mover), blockBytes: facts.blockBytes, removed: [] as TierSession['removed'], degradations: [] as TierSession['degradations'], quotas: new Map<number, number>() };
    const host: KvTierHost = {
      worker: 'suite model/pool ü/0',
      modelFingerprint: fingerprints.model ?? 'model-1',
      layoutFingerprint: fingerprints.layout ?? 'layout-1',
      blockBytes: facts.blockBytes,
      baseDir: facts.folder,
      clock: realClock,
      log: silent,
      mover: parts.mover,
      order: () => parts.order,
      quota: (tenant, places) => parts.quotas.get(tenant) ?? places,
      removed: (words, count, reason) => {
        for (let row = 0; row < count; row++) parts.removed.push({ hash: key(words[2 * row], words[2 * row + 1]), reason });
      },
      measured: (_kind, blocks, bytes, milliseconds) => assert.ok(blocks >= 0 && bytes >= 0 && milliseconds >= 0, 'measured() of negative amounts'),
      degraded: (problem) => parts.degradations.push(problem),
    };
    await backend.start?.();
    const store = await within(backend.open(host), 'open()');
    return new TierSession({ ...parts, store });
  }

  beginStore(ids: readonly number[], options: RowOptions = {}): Running {
    return this.#begin('store', ids, options);
  }

  beginLoad(ids: readonly number[], options: RowOptions = {}): Running {
    return this.#begin('load', ids, options);
  }

  storeRows(ids: readonly number[], options: RowOptions = {}): Promise<number[]> {
    return this.#statuses(this.beginStore(ids, options));
  }

  /** Loads, and checks bytes and checksums of every row that is Done, and that no other byte has changed. */
  async loadRows(ids: readonly number[], options: RowOptions = {}): Promise<number[]> {
    const running = this.beginLoad(ids, options);
    const statuses = await this.#statuses(running);
    this.checkLoaded(running, options.contents);
    return statuses;
  }

  checkLoaded({ ids, batch, memory }: Running, contents: ((id: number) => Uint8Array) | undefined = (id) => contentOf(id, this.blockBytes)): void {
    ids.forEach((id, row) => {
      if (batch.statuses[row] !== KvBlockStatus.Done) return;
      assert.ok(equal(memory.read(batch.blocks[row]), contents(id)), `load gave other bytes for block ${id} than were stored`);
      assert.deepEqual([batch.checksums[2 * row], batch.checksums[2 * row + 1]], checksumOf(id).map((word) => word | 0), `load gave another checksum for block ${id} than was stored`);
    });
  }

  /** Which of the ids are matched one by one. */
  heldOf(ids: readonly number[]): number[] {
    return ids.filter((id) => this.store.match(hashes([id]), 0) === 1);
  }

  /** Rows held in one unbroken run from the first, as the medium knows it where that may be more than what is known here. */
  knownOf(ids: readonly number[]): Promise<number> {
    const { store } = this;
    if (store.probe === undefined) return Promise.resolve(store.match(hashes(ids), 0));
    return within(new Promise((resolve) => void store.probe?.(hashes(ids), 0, PATIENCE_MS, resolve)), 'probe()');
  }

  records(): { readonly hash: string; readonly parent: string }[] {
    const all: { hash: string; parent: string }[] = [];
    this.store.records((lo, hi, parentLo, parentHi) => all.push({ hash: key(lo, hi), parent: key(parentLo, parentHi) }));
    return all;
  }

  /** Ends everything; checks what must hold at the end of every rule. */
  async close(): Promise<void> {
    this.mover.letGo();
    for (const running of this.#running) await within(running.ended, 'an operation');
    const { pinnedBlocks, heldBlocks, capacityBlocks } = this.store.stats();
    assert.equal(pinnedBlocks, 0, `${pinnedBlocks} blocks are pinned though nothing runs`);
    assert.ok(heldBlocks <= capacityBlocks, `${heldBlocks} blocks are held by a tier of ${capacityBlocks}`);
    await within(this.store.close(), 'close()');
    await this.backend.close?.();
    for (const running of this.#running) assert.equal(running.dones(), 1, `done came ${running.dones()} times`);
    assert.deepEqual(this.order.broken, [], 'the order of eviction was told what its contract forbids');
  }

  #begin(kind: 'store' | 'load', ids: readonly number[], { tenant = 0, parents, deadlineMs = PATIENCE_MS, pieces = 1, contents }: RowOptions): Running {
    const memory = new SuiteTierMemory(this.mover, { blocks: Math.max(1, ids.length), blockBytes: this.blockBytes, pieces, gapBytes: pieces === 1 ? 0 : 64 });
    if (kind === 'store') ids.forEach((id, row) => memory.fill(row, contents === undefined ? contentOf(id, this.blockBytes) : contents(id)));
    const batch: KvBlockBatch = {
      count: ids.length,
      hashes: hashes(ids),
      parents: Int32Array.from((parents ?? ids.map(() => 0)).flatMap((id) => (id === 0 ? [0, 0] : hashOf(id)))),
      checksums: kind === 'store' ? Int32Array.from(ids.flatMap(checksumOf)) : new Int32Array(2 * ids.length),
      tenant,
      memory: memory.memory,
      blocks: Int32Array.from(ids, (_, row) => row),
      statuses: new Uint8Array(ids.length).fill(UNWRITTEN),
    };
    return this.begin(kind, batch, ids, memory, deadlineMs);
  }

  /** Any batch, also a bad one. */
  begin(kind: 'store' | 'load', batch: KvBlockBatch, ids: readonly number[], memory: SuiteTierMemory, deadlineMs = PATIENCE_MS): Running {
    let dones = 0;
    let resolve: (statuses: Uint8Array) => void = () => {};
    const ended = new Promise<Uint8Array>((settle) => (resolve = settle));
    const done = (): void => {
      dones++;
      resolve(batch.statuses.slice());
    };
    const operation = kind === 'store' ? this.store.store(batch, done) : this.store.load(batch, deadlineMs, done);
    const running = { ids, batch, memory, operation, dones: () => dones, ended };
    this.#running.add(running);
    return running;
  }

  async #statuses({ ended }: Running): Promise<number[]> {
    const statuses = [...(await within(ended, 'an operation'))];
    for (const status of statuses) assert.ok(status >= 0 && status <= KvBlockStatus.Canceled, `a row ended with status ${status === UNWRITTEN ? '(not written)' : status}`);
    return statuses;
  }
}

export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
