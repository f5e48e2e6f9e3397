import type { KvOperation, Timer } from '@armature/contracts';
import type { KvLoan } from './face.ts';
import { promptRows } from './batches.ts';
import type { Arrivals } from './arrivals.ts';
import type { BlockSource, HostLoads } from './host-loads.ts';
import type { LowerSources } from './lower-sources.ts';
import type { ManagerParts } from './parts.ts';
import type { Rows } from './row-queue.ts';

/** Loans at once; more are refused, and the peers recompute. */
const MAX_LOANS = 256;
/** Longest time until a loan has to be renewed, whatever the borrower asks for: a lost one costs its blocks no longer. */
const MAX_TTL_MS = 60_000;
/** Share of the host tier that may be lent. */
const MAX_LENT = 0.5;

interface Loan {
  readonly blocks: Int32Array;
  timer: Timer;
}

/** Host blocks lent to peers: pinned until they are settled, or their time is over on this worker's clock. */
export class Loans {
  readonly #parts: ManagerParts;
  readonly #loads: HostLoads;
  readonly #lower: LowerSources;
  readonly #arrivals: Arrivals;
  readonly #loans = new Map<number, Loan>();
  /** Blocks being brought up for a loan; ends the wait without one. */
  readonly #waiting = new Set<() => void>();
  #lentBlocks = 0;
  #nextId = 1;
  #isClosed = false;

  constructor(parts: ManagerParts, loads: HostLoads, lower: LowerSources, arrivals: Arrivals) {
    this.#parts = parts;
    this.#arrivals = arrivals;
    this.#loads = loads;
    this.#lower = lower;
  }

  get count(): number {
    return this.#loans.size;
  }

  /** What the engine is copying down at this moment is waited for. */
  lend(hashes: Int32Array, from: number, to: number, ttlMs: number, deadlineMs: number, done: (loan: KvLoan | undefined) => void): void {
    const end = Math.min(to, hashes.length >> 1);
    const { clock } = this.#parts;
    const startMs = clock.nowMs();
    this.#arrivals.wait(hashes, from, end, deadlineMs, () => this.#lend(hashes, from, end, ttlMs, Math.max(0, startMs + deadlineMs - clock.nowMs()), done));
  }

  #lend(hashes: Int32Array, from: number, to: number, ttlMs: number, deadlineMs: number, done: (loan: KvLoan | undefined) => void): void {
    const rows = to - from;
    if (!this.#hasRoom(rows)) {
      done(undefined);
      return;
    }
    const { host } = this.#parts;
    const held = host.store.match(hashes, from);
    const missing = held >= rows ? undefined : this.#lower.best(hashes, from + held);
    if (missing === undefined) {
      done(this.#lendHeld(hashes, from, rows, ttlMs));
      return;
    }
    const upTo = Math.min(from + rows, from + held + missing.blocks);
    const owner = this.#parts.lower.find(({ store }) => store === missing.source.store)?.owners.of(hashes[2 * (from + held)], hashes[2 * (from + held) + 1]) ?? 0;
    this.#bring(promptRows(hashes, from + held, upTo, owner), missing.source, deadlineMs, () => done(this.#lendHeld(hashes, from, rows, ttlMs)));
  }

  #bring(rows: Rows, source: BlockSource, deadlineMs: number, done: () => void): void {
    let operation: KvOperation | undefined = undefined;
    const end = (): void => {
      this.#waiting.delete(end);
      operation?.cancel();
      done();
    };
    this.#waiting.add(end);
    operation = this.#loads.bring(rows, source, { urgency: 'request', deadlineMs }, end);
  }

  renew(lease: number, ttlMs: number): boolean {
    const loan = this.#loans.get(lease);
    if (loan === undefined) return false;
    this.#parts.clock.clearTimer(loan.timer);
    loan.timer = this.#timer(lease, ttlMs);
    return true;
  }

  settle(lease: number): 'valid' | 'expired' {
    return this.#end(lease) ? 'valid' : 'expired';
  }

  /** Every loan ends. */
  close(): void {
    this.#isClosed = true;
    for (const end of [...this.#waiting]) end();
    for (const lease of [...this.#loans.keys()]) this.#end(lease);
  }

  #hasRoom(rows: number): boolean {
    const { capacityBlocks } = this.#parts.host.store;
    return rows > 0 && !this.#isClosed && this.#loans.size + this.#waiting.size < MAX_LOANS && this.#lentBlocks + rows <= Math.max(1, MAX_LENT * capacityBlocks);
  }

  #lendHeld(hashes: Int32Array, from: number, rows: number, ttlMs: number): KvLoan | undefined {
    if (!this.#hasRoom(rows)) return undefined;
    const { store } = this.#parts.host;
    const pinned = new Int32Array(rows);
    const blocks = pinned.slice(0, store.acquire(hashes, from, rows, pinned));
    if (blocks.length === 0) return undefined;
    const checksums = new Int32Array(2 * blocks.length);
    const record = new Int32Array(6);
    for (let i = 0; i < blocks.length; i++) {
      store.record(blocks[i], record);
      checksums.set(record.subarray(4, 6), 2 * i);
    }
    const lease = this.#nextId++;
    this.#loans.set(lease, { blocks, timer: this.#timer(lease, ttlMs) });
    this.#lentBlocks += blocks.length;
    const { segment, blockStrideBytes } = store.memory;
    return { lease, segment, blocks: blocks.slice(), checksums, blockStrideBytes, lengthBytes: this.#parts.blockBytes };
  }

  #timer(lease: number, ttlMs: number): Timer {
    return this.#parts.clock.setTimer(Math.min(ttlMs, MAX_TTL_MS), () => this.#end(lease));
  }

  #end(lease: number): boolean {
    const loan = this.#loans.get(lease);
    if (loan === undefined) return false;
    this.#loans.delete(lease);
    this.#lentBlocks -= loan.blocks.length;
    this.#parts.clock.clearTimer(loan.timer);
    this.#parts.host.store.release(loan.blocks, loan.blocks.length);
    return true;
  }
}
