import type { KvHostPull, KvHostPin, KvOperation } from '@armature/contracts';
import { promptRows } from './batches.ts';
import type { BlockSource, HostLoads } from './host-loads.ts';
import type { LowerSources } from './lower-sources.ts';
import type { ManagerParts } from './parts.ts';

export interface HostPullOptions {
  readonly parts: ManagerParts;
  readonly loads: HostLoads;
  readonly lower: LowerSources;
  readonly peer: { readonly source: BlockSource; readonly blocks: number } | undefined;
  readonly request: KvHostPull;
}

type Sources = { -readonly [Name in keyof KvHostPin['sources']]: number };

/** Rows of a prompt into the host tier, in order: pins what is there, brings the next batch from the first source that has it, until all are pinned or the time is over. */
export class HostPull {
  readonly #options: HostPullOptions;
  readonly #done: (blocks: Int32Array, sources: KvHostPin['sources']) => void;
  readonly #pinned: Int32Array;
  readonly #endsAtMs: number;
  readonly #sources: Sources = {};
  #count = 0;
  #operation: KvOperation | undefined = undefined;
  #isOver = false;

  /** `done` once, maybe during `start`; not after `cancel`. It owns the pins. */
  constructor(options: HostPullOptions, done: (blocks: Int32Array, sources: KvHostPin['sources']) => void) {
    this.#options = options;
    this.#done = done;
    this.#pinned = new Int32Array(options.request.to - options.request.from);
    this.#endsAtMs = options.parts.clock.nowMs() + options.request.deadlineMs;
  }

  start(): void {
    this.#next();
  }

  cancel(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#operation?.cancel();
    this.#release(0);
  }

  /** At once, with nothing: what is not checked is not given out. */
  end(): void {
    if (this.#isOver) return;
    this.#operation?.cancel();
    this.#release(0);
    this.#finish();
  }

  #next(): void {
    if (this.#isOver) return;
    const { parts, request } = this.#options;
    const from = request.from + this.#count;
    this.#pinRun(from, request.to - from, 'host');
    const row = request.from + this.#count;
    const leftMs = this.#endsAtMs - parts.clock.nowMs();
    const found = row < request.to && leftMs > 0 ? this.#source(row) : undefined;
    if (found === undefined) return this.#check();
    const count = Math.min(found.blocks, request.to - row, parts.config.batchBlocks);
    const rows = promptRows(request.sequenceHashes, row, row + count, parts.tenants.numberOf(request.cacheSalt));
    this.#operation = this.#options.loads.bring(rows, found.source, { urgency: 'request', deadlineMs: leftMs }, (outcome) => {
      this.#operation = undefined;
      if (this.#isOver) return;
      const pinned = this.#pinRun(row, count, found.source.name);
      if (outcome === 'done' && pinned === count) this.#next();
      else this.#check();
    });
  }

  #source(row: number): { readonly source: BlockSource; readonly blocks: number } | undefined {
    const own = this.#options.lower.best(this.#options.request.sequenceHashes, row);
    if (own !== undefined) return own;
    const { peer } = this.#options;
    return peer === undefined || peer.blocks <= row ? undefined : { source: peer.source, blocks: peer.blocks - row };
  }

  #pinRun(row: number, count: number, name: keyof Sources): number {
    const { host } = this.#options.parts;
    const pinned = count === 0 ? 0 : host.store.acquire(this.#options.request.sequenceHashes, row, count, this.#pinned.subarray(this.#count));
    this.#count += pinned;
    if (pinned > 0) this.#sources[name] = (this.#sources[name] ?? 0) + pinned;
    return pinned;
  }

  /** Bytes in host memory are checked before they are used again, however long they lay there. */
  #check(): void {
    const { parts, request } = this.#options;
    const { host } = parts;
    const count = this.#count;
    if (count === 0) return this.#finish();
    const hashes = request.sequenceHashes.slice(2 * request.from, 2 * (request.from + count));
    const found = new Int32Array(2 * count);
    const blocks = this.#pinned.slice(0, count);
    parts.checks.compute(host.store.memory, blocks, hashes, found, 'request', () => {
      if (this.#isOver) return;
      this.#judge(hashes, found);
      this.#finish();
    });
  }

  /** Keeps the leading rows that are right; those that are not leave the host tier. */
  #judge(hashes: Int32Array, found: Int32Array): void {
    const { host, metrics, log } = this.#options.parts;
    const record = new Int32Array(6);
    const bad: number[] = [];
    let good = this.#count;
    for (let row = this.#count - 1; row >= 0; row--) {
      host.store.record(this.#pinned[row], record);
      if (found[2 * row] === record[4] && found[2 * row + 1] === record[5]) continue;
      bad.push(hashes[2 * row], hashes[2 * row + 1]);
      good = row;
    }
    if (bad.length === 0) return;
    this.#release(good);
    const blocks = bad.length / 2;
    host.store.remove(Int32Array.from(bad), blocks, 'corrupt');
    metrics.corrupt('host', blocks);
    log.warn('KV blocks in host memory were not what was stored: dropped, to be recomputed', { code: 'KVBM_BLOCK_CORRUPT', blocks });
  }

  #release(from: number): void {
    const rest = this.#pinned.slice(from, this.#count);
    if (rest.length > 0) this.#options.parts.host.store.release(rest, rest.length);
    this.#count = from;
  }

  #finish(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const { metrics } = this.#options.parts;
    let left = this.#count;
    const sources: Sources = {};
    for (const [name, blocks] of Object.entries(this.#sources) as [keyof Sources & string, number][]) {
      const used = Math.min(left, blocks);
      left -= used;
      if (used > 0) sources[name] = used;
      metrics.hits(name, used);
    }
    this.#done(this.#pinned.slice(0, this.#count), sources);
  }
}
