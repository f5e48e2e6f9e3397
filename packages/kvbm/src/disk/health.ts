import { join } from 'node:path';
import type { Clock, ErrorData, Logger, Timer } from '@armature/contracts';
import type { DiskIo } from './disk-io.ts';
import { writeAll } from './disk-io.ts';
import { mediumProblem, systemCode } from './errors.ts';
import { PAGE_BYTES } from './format.ts';
import { INDEX_FILE } from './medium.ts';
import type { Medium } from './medium.ts';

export interface HealthOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly io: DiskIo;
  readonly folder: string;
  /** Between looks, and between tries while something is wrong (longer each time, up to 30 times this). */
  readonly probeMs: number;
  readonly degraded: (problem: ErrorData | undefined) => void;
  /** The store's files are not under their names any more: let go of them. */
  readonly gone: () => void;
  /** Tries to open the store again; resolves with what prevents it. */
  readonly reopen: () => Promise<ErrorData | undefined>;
  readonly medium: () => Medium | undefined;
}

const MAX_BACKOFF = 30;

/**
 * What works and what does not. A failure stops writing, or both; every now and then the medium is looked at and tried, and when it answers, work goes
 * on; if it then fails again the next try comes later.
 */
export class Health {
  readonly #options: HealthOptions;
  #problem: ErrorData | undefined = undefined;
  #isWritable = true;
  #isReadable = true;
  #timer: Timer | undefined = undefined;
  #backoff = 1;
  #isProbing = false;
  #isClosed = false;

  constructor(options: HealthOptions) {
    this.#options = options;
  }

  get problem(): ErrorData | undefined {
    return this.#problem;
  }

  get isWritable(): boolean {
    return this.#isWritable;
  }

  get isReadable(): boolean {
    return this.#isReadable;
  }

  start(problem: ErrorData | undefined): void {
    if (problem !== undefined) this.#set(problem, false);
    this.#arm();
  }

  close(): void {
    this.#isClosed = true;
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
  }

  writeFailed(error: unknown): void {
    this.#set(mediumProblem(systemCode(error), this.#options.folder), this.#isReadable);
  }

  readFailed(error: unknown): void {
    this.#set(mediumProblem(systemCode(error), this.#options.folder), false);
  }

  /** Work goes on; it is only said. Until the next look. */
  slow(): void {
    if (this.#problem === undefined) this.#report(mediumProblem('SLOW', this.#options.folder));
  }

  /** The transfer agent does not say why a write failed: the same place is written once more, with zeros. It must be the caller's, and is not used after. */
  diagnoseWrite(medium: Medium, slot: number, done: () => void): void {
    const { fd, offset } = medium.slabs.place(slot);
    writeAll(this.#options.io, fd, new Uint8Array(PAGE_BYTES), offset, (error) => {
      this.writeFailed(error ?? { code: 'EIO' });
      done();
    });
  }

  diagnoseRead(medium: Medium, slot: number, done: () => void): void {
    const { fd, offset } = medium.slabs.place(slot);
    this.#options.io.read(fd, new Uint8Array(PAGE_BYTES), 0, PAGE_BYTES, offset, (error) => {
      this.readFailed(error ?? { code: 'EIO' });
      done();
    });
  }

  #set(problem: ErrorData, isReadable: boolean): void {
    this.#isWritable = false;
    this.#isReadable = isReadable;
    if (this.#problem?.code !== problem.code) this.#report(problem);
  }

  #report(problem: ErrorData): void {
    this.#problem = problem;
    this.#options.log.warn('disk tier is degraded', { ...problem });
    this.#options.degraded(problem);
    this.#arm();
  }

  #well(): void {
    this.#isWritable = true;
    this.#isReadable = true;
    if (this.#problem === undefined) return;
    this.#options.log.info('disk tier is well again', { after: this.#problem.code, folder: this.#options.folder });
    this.#problem = undefined;
    this.#options.degraded(undefined);
  }

  #arm(): void {
    const { clock, probeMs } = this.#options;
    if (this.#timer !== undefined) clock.clearTimer(this.#timer);
    if (this.#isClosed) return;
    this.#timer = clock.setTimer(probeMs * this.#backoff, () => {
      this.#timer = undefined;
      void this.#probe();
    });
  }

  /** One at a time, however long the disk takes. */
  async #probe(): Promise<void> {
    if (this.#isProbing || this.#isClosed) return;
    this.#isProbing = true;
    const wasWritable = this.#isWritable;
    const problem = await this.#examine();
    this.#isProbing = false;
    if (this.#isClosed) return;
    if (problem === undefined) {
      // A longer wait if it fails at once again; back to normal after a look that found it well.
      this.#backoff = wasWritable ? 1 : Math.min(MAX_BACKOFF, this.#backoff * 2);
      this.#well();
    } else {
      this.#backoff = Math.min(MAX_BACKOFF, this.#backoff * 2);
      if (problem.code === 'KVBM_DISK_GONE' && this.#options.medium() !== undefined) this.#options.gone();
      this.#set(problem, problem.code !== 'KVBM_DISK_GONE' && this.#isReadable);
    }
    this.#arm();
  }

  async #examine(): Promise<ErrorData | undefined> {
    const { folder, io } = this.#options;
    const medium = this.#options.medium();
    if (medium === undefined) return this.#options.reopen();
    try {
      const found = await new Promise<number>((resolve, reject) => io.stat(join(folder, INDEX_FILE), (error, stats) => (error === null ? resolve(stats.ino) : reject(error))));
      if (found !== medium.inode) return mediumProblem('ENOENT', folder);
      if (this.#isWritable && this.#isReadable) return undefined;
      await this.#try(medium);
      return undefined;
    } catch (error) {
      return mediumProblem(systemCode(error), folder);
    }
  }

  /** Everything that can be tried without harm: the header as it is, the records that wait, one page of a slab, room for a block. */
  async #try(medium: Medium): Promise<void> {
    const { io, folder } = this.#options;
    await new Promise<void>((resolve, reject) => writeAll(io, medium.indexFd, medium.header, 0, (error) => (error === undefined ? resolve() : reject(error))));
    await new Promise<void>((resolve, reject) => medium.index.flushed((error) => (error === undefined ? resolve() : reject(error))));
    const { fd, offset } = medium.slabs.place(0);
    await new Promise<void>((resolve, reject) => io.read(fd, new Uint8Array(PAGE_BYTES), 0, PAGE_BYTES, offset, (error) => (error === null ? resolve() : reject(error))));
    if (this.#problem?.code !== 'KVBM_DISK_FULL') return;
    const { bavail, bsize } = await new Promise<{ bavail: number; bsize: number }>((resolve, reject) => io.statfs(folder, (error, stats) => (error === null ? resolve(stats) : reject(error))));
    if (bavail * bsize < medium.geometry.slotBytes) throw Object.assign(new Error('still full'), { code: 'ENOSPC' });
  }
}
