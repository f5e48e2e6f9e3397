import { KvBlockStatus } from '@armature/contracts';
import type { AnswerHeaders, ByteSink } from './exchange.ts';
import { checkRecord, RECORD_BYTES } from './format.ts';
import { S3Failure } from './s3-failure.ts';

/** Rows of a batch that are consecutive blocks of one object, the first of them its block `index`. */
export interface LandingRun {
  readonly rows: readonly number[];
  readonly index: number;
  /** Sequence hash of row `row`, two words from `row * 2`. */
  readonly hashes: Int32Array;
  readonly checksums: Int32Array;
  /** Where the content of row `row` goes. */
  readonly slot: (row: number) => Uint8Array;
  readonly ended: (row: number, status: KvBlockStatus) => void;
}

/**
 * Writes an answer's bytes straight to where the blocks go. A block whose record is not that of the row is not written. Keeps its place between attempts: the
 * next one asks for the rest.
 */
export class Landing {
  readonly #run: LandingRun;
  readonly #blockBytes: number;
  readonly #fingerprint: Uint8Array;
  readonly #record: Buffer;
  /** Rows that have come to their end. */
  #next: number;
  /** Bytes of the current row, its record included, that have arrived. */
  #at: number;
  #status: KvBlockStatus;
  #slot: Uint8Array | undefined;
  landed: number;

  constructor(run: LandingRun, blockBytes: number, fingerprint: Uint8Array) {
    this.#run = run;
    this.#blockBytes = blockBytes;
    this.#fingerprint = fingerprint;
    this.#record = Buffer.alloc(RECORD_BYTES);
    this.#next = 0;
    this.#at = 0;
    this.#status = KvBlockStatus.Done;
    this.#slot = undefined;
    this.landed = 0;
  }

  /** Not one byte came. */
  get isSilent(): boolean {
    return this.#next === 0 && this.#at === 0;
  }

  get isComplete(): boolean {
    return this.#next === this.#run.rows.length;
  }

  /** The range of what is left; undefined when nothing is. */
  attempt(): { readonly headers: Readonly<Record<string, string>>; readonly sink: ByteSink } | undefined {
    if (this.isComplete) return undefined;
    const strideBytes = RECORD_BYTES + this.#blockBytes;
    const start = (this.#run.index + this.#next) * strideBytes;
    const end = (this.#run.index + this.#run.rows.length) * strideBytes;
    this.#at = 0;
    let skip = 0;
    return {
      headers: { range: `bytes=${start}-${end - 1}` },
      sink: {
        start: (status, headers) => {
          skip = status === 206 ? this.#skipOf(headers, start) : start;
        },
        data: (chunk) => {
          const from = Math.min(skip, chunk.length);
          skip -= from;
          this.#take(chunk, from);
        },
      },
    };
  }

  /** The answer has ended, or there is none. */
  fail(status: KvBlockStatus): void {
    while (!this.isComplete) this.#run.ended(this.#run.rows[this.#next++]!, status);
  }

  #skipOf(headers: AnswerHeaders, start: number): number {
    const match = /^bytes (\d+)-/.exec(headers['content-range'] ?? '');
    if (match === null || Number(match[1]) !== start) throw new S3Failure('InvalidRange', `asked for bytes from ${start}, got "${headers['content-range']}"`);
    return 0;
  }

  #take(chunk: Buffer, from: number): void {
    let at = from;
    while (at < chunk.length && !this.isComplete) {
      if (this.#at < RECORD_BYTES) {
        const taken = Math.min(RECORD_BYTES - this.#at, chunk.length - at);
        chunk.copy(this.#record, this.#at, at, at + taken);
        this.#at += taken;
        at += taken;
        if (this.#at === RECORD_BYTES) this.#beginBlock();
        continue;
      }
      const offset = this.#at - RECORD_BYTES;
      const taken = Math.min(this.#blockBytes - offset, chunk.length - at);
      this.#slot?.set(chunk.subarray(at, at + taken), offset);
      this.#at += taken;
      at += taken;
      if (this.#at === RECORD_BYTES + this.#blockBytes) this.#endBlock();
    }
  }

  #beginBlock(): void {
    const { hashes, rows, slot } = this.#run;
    const row = rows[this.#next]!;
    const verdict = checkRecord(this.#record, hashes[row * 2]!, hashes[row * 2 + 1]!, this.#blockBytes, this.#fingerprint);
    this.#status = verdict === 'good' ? KvBlockStatus.Done : verdict === 'foreign' ? KvBlockStatus.Foreign : KvBlockStatus.Failed;
    this.#slot = verdict === 'good' ? slot(row) : undefined;
  }

  #endBlock(): void {
    const { checksums, rows, ended } = this.#run;
    const row = rows[this.#next++]!;
    this.#at = 0;
    if (this.#status === KvBlockStatus.Done) {
      checksums[row * 2] = this.#record.readInt32LE(32);
      checksums[row * 2 + 1] = this.#record.readInt32LE(36);
      this.landed++;
    }
    ended(row, this.#status);
  }
}
