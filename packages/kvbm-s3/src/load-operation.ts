import { setMaxListeners } from 'node:events';
import { KvBlockStatus } from '@armature/contracts';
import type { Clock, KvBlockBatch, KvOperation, Timer } from '@armature/contracts';
import { Known } from './known-blocks.ts';
import type { Lane } from './lane.ts';
import { loadRun } from './loader.ts';
import type { LoaderOptions } from './loader.ts';
import type { ObjectIndex } from './object-index.ts';
import { S3Failure } from './s3-failure.ts';

export interface LoadOptions {
  readonly batch: KvBlockBatch;
  /** On the clock. */
  readonly expiresAtMs: number;
  readonly index: ObjectIndex;
  readonly lane: Lane;
  /** The row names memory that a block of this tier can go to. */
  readonly isUsable: (row: number) => boolean;
  /** Where the content of row `row` goes. */
  readonly slot: (row: number) => Uint8Array;
  /** The tier answers. */
  readonly isOpen: boolean;
  /** Content of a known row whose object is not written yet. */
  readonly pending: (known: number) => { readonly bytes: Uint8Array; readonly checksumLo: number; readonly checksumHi: number } | undefined;
  readonly clock: Clock;
  readonly loader: LoaderOptions;
  /** The object holds something else than it should; `known` rows of this batch were to come from it. */
  readonly objectBad: (firstLo: number, firstHi: number, known: readonly number[]) => void;
  readonly done: () => void;
}

const SLICE_BYTES = 1 << 20;

/** One `load`: rows become runs of objects, each a ranged GET. */
export class LoadOperation implements KvOperation {
  readonly #options: LoadOptions;
  readonly #abort: AbortController;
  readonly #copies: number[];
  /** Runs that wait for their turn, each its rows. */
  readonly #waiting: Set<readonly number[]>;
  #timer: Timer | undefined;
  #left: number;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#abort = new AbortController();
    // One listener per running GET: as many as the lane has.
    setMaxListeners(0, this.#abort.signal);
    this.#copies = [];
    this.#waiting = new Set();
    this.#timer = undefined;
    this.#left = options.batch.count;
  }

  /** Rows that have not come to their end. */
  get rows(): number {
    return this.#left;
  }

  start(): void {
    const { batch, index, isOpen } = this.#options;
    if (batch.count === 0) return this.#options.done();
    const stored: { readonly row: number; readonly known: number }[] = [];
    // One more than there are: `done` comes when the last has been given its way.
    this.#left++;
    for (let row = 0; row < batch.count; row++) {
      const known = isOpen ? index.live(batch.hashes[row * 2]!, batch.hashes[row * 2 + 1]!) : -1;
      if (!this.#options.isUsable(row)) this.#ended(row, KvBlockStatus.Failed);
      else if (known === -1) this.#ended(row, KvBlockStatus.Missing);
      else {
        index.blocks.mark(known, Known.Recent);
        if (index.blocks.has(known, Known.Pending)) this.#copies.push(row);
        else stored.push({ row, known });
      }
    }
    for (const run of runsOf(stored, index)) this.#get(run);
    this.#copy();
    this.#settle();
  }

  cancel(): void {
    this.#abort.abort(new S3Failure('Canceled', 'cancelled'));
    this.#leave(KvBlockStatus.Canceled);
  }

  /** What has not begun ends here: it waits behind the reads of others, which may hang. */
  #leave(status: KvBlockStatus): void {
    for (const rows of [...this.#waiting]) {
      this.#waiting.delete(rows);
      for (const row of rows) this.#ended(row, status);
    }
  }

  #ended(row: number, status: KvBlockStatus): void {
    this.#options.batch.statuses[row] = status;
    this.#settle();
  }

  #settle(): void {
    if (--this.#left > 0) return;
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#options.done();
  }

  #get(run: readonly { readonly row: number; readonly known: number }[]): void {
    const { batch, index, lane, loader, expiresAtMs } = this.#options;
    if (lane.isFull) {
      for (const { row } of run) this.#ended(row, KvBlockStatus.Missing);
      return;
    }
    const { blocks } = index;
    const first = run[0]!.known;
    const [lo, hi, at] = [blocks.firstLo(first), blocks.firstHi(first), blocks.index(first)];
    const rows = run.map(({ row }) => row);
    this.#waiting.add(rows);
    lane.run(async () => {
      if (!this.#waiting.delete(rows)) return;
      const landing = { rows, index: at, hashes: batch.hashes, checksums: batch.checksums, slot: this.#options.slot };
      const left: (() => void)[] = [];
      // The last row's end is told when what was learned of the object is known here.
      const ended = (row: number, status: KvBlockStatus): void => void left.push(() => this.#ended(row, status));
      const state = await loadRun(loader, { ...landing, ended }, lo, hi, { deadlineMs: expiresAtMs, signal: this.#abort.signal });
      this.#learn(state, lo, hi, rows);
      for (const end of left) end();
    });
    const { clock } = this.#options;
    if (this.#waiting.size > 0) this.#timer ??= clock.setTimer(Math.max(0, expiresAtMs - clock.nowMs()), () => this.#leave(KvBlockStatus.Failed));
  }

  #learn(state: Awaited<ReturnType<typeof loadRun>>, lo: number, hi: number, rows: readonly number[]): void {
    const { index, batch, clock, objectBad } = this.#options;
    const { blocks } = index;
    const known = rows.map((row) => blocks.find(batch.hashes[row * 2]!, batch.hashes[row * 2 + 1]!)).filter((row) => row !== -1 && blocks.firstLo(row) === lo && blocks.firstHi(row) === hi && !blocks.has(row, Known.Pending));
    if (state === 'bad') objectBad(lo, hi, known);
    else if (state === 'gone') for (const row of known) index.drop(row, 'expired');
    else for (const row of known) blocks.confirm(row, clock.nowMs());
  }

  /** Rows that are still in this process, 1 MiB or one block per turn. Written meanwhile: a GET like the others. */
  #copy(): void {
    const { batch, index, pending, slot, clock } = this.#options;
    for (let budget = SLICE_BYTES; this.#copies.length > 0; ) {
      if (budget <= 0) return clock.defer(() => this.#copy());
      const row = this.#copies.shift()!;
      const known = index.blocks.find(batch.hashes[row * 2]!, batch.hashes[row * 2 + 1]!);
      const source = known === -1 ? undefined : pending(known);
      if (this.#abort.signal.aborted) this.#ended(row, KvBlockStatus.Canceled);
      else if (source !== undefined) {
        slot(row).set(source.bytes);
        budget -= source.bytes.length;
        batch.checksums[row * 2] = source.checksumLo;
        batch.checksums[row * 2 + 1] = source.checksumHi;
        this.#ended(row, KvBlockStatus.Done);
      } else if (known === -1) this.#ended(row, KvBlockStatus.Missing);
      else this.#get([{ row, known }]);
    }
  }
}

/** Rows of one object whose blocks follow each other there. */
function runsOf<R extends { readonly known: number }>(rows: R[], index: ObjectIndex): R[][] {
  const { blocks } = index;
  const isSame = (a: number, b: number): boolean => blocks.firstLo(a) === blocks.firstLo(b) && blocks.firstHi(a) === blocks.firstHi(b);
  rows.sort(({ known: a }, { known: b }) => blocks.firstLo(a) - blocks.firstLo(b) || blocks.firstHi(a) - blocks.firstHi(b) || blocks.index(a) - blocks.index(b));
  const runs: R[][] = [];
  let last = -1;
  for (const row of rows) {
    const follows = last !== -1 && isSame(last, row.known) && blocks.index(row.known) === blocks.index(last) + 1;
    if (follows) runs[runs.length - 1]!.push(row);
    else runs.push([row]);
    last = row.known;
  }
  return runs;
}
