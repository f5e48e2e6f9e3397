import type { KvFetchRecord, KvFetchRun, KvFetchSource } from './face.ts';
import type { LoadOutcome } from './host-loads.ts';
import type { FetchPlan, PlannedBatch } from './plan.ts';

interface Run {
  source: KvFetchSource;
  fromBlock: number;
  blocks: number;
  estimatedMs: number;
  recomputeMs: number;
  tookMs: number | undefined;
  outcome: LoadOutcome;
  peer: string | undefined;
}

export interface JournalOptions {
  readonly firstRow: number;
  readonly rows: number;
  readonly nowMs: () => number;
  /** Of computing the prompt when its first `row` blocks are there. */
  readonly computeMs: (row: number) => number;
  readonly declined: FetchPlan['declined'];
}

/** What became of one request's blocks, as it goes into the request's record. */
export class FetchJournal {
  readonly #options: JournalOptions;
  readonly #startMs: number;
  readonly #runs: Run[] = [];
  #landedMs: number;
  #expectedMs = 0;
  onboardedBlocks = 0;

  constructor(options: JournalOptions) {
    this.#options = options;
    this.#startMs = options.nowMs();
    this.#landedMs = this.#startMs;
    if (options.firstRow > 0) this.#add('device', 0, options.firstRow, { outcome: 'done', estimatedMs: 0 });
  }

  landed(batch: PlannedBatch, from: number, good: number, outcome: LoadOutcome): void {
    const { candidate, landsMs } = batch;
    const nowMs = this.#options.nowMs();
    const tookMs = nowMs - this.#landedMs;
    const estimatedMs = Math.max(0, landsMs - this.#expectedMs);
    this.#landedMs = nowMs;
    this.#expectedMs = landsMs;
    this.onboardedBlocks += good;
    const last = this.#runs[this.#runs.length - 1];
    const peer = candidate.peer?.instanceId;
    if (last !== undefined && last.source === candidate.source && last.peer === peer && last.outcome === 'done' && last.fromBlock + last.blocks === from) {
      last.blocks += good;
      last.estimatedMs += estimatedMs;
      last.recomputeMs += this.#recomputeMs(from, from + good);
      last.tookMs = (last.tookMs ?? 0) + tookMs;
      last.outcome = outcome;
    } else this.#add(candidate.source, from, good, { outcome, estimatedMs, tookMs, peer });
  }

  /** Batches from `next` on, from `row` on, do not come. */
  failed(batches: readonly PlannedBatch[], next: number, row: number, outcome: LoadOutcome): void {
    let from = row;
    for (let i = next; i < batches.length; i++) {
      const { candidate, to } = batches[i];
      let end = to;
      while (i + 1 < batches.length && batches[i + 1].candidate === candidate) end = batches[++i].to;
      if (end <= from) continue;
      this.#add(candidate.source, from, end - from, { outcome, estimatedMs: Math.max(0, batches[i].landsMs - this.#expectedMs), peer: candidate.peer?.instanceId });
      from = end;
    }
  }

  /** Blocks from `row` on are left to the engine. */
  close(row: number): KvFetchRecord {
    const { declined, rows, nowMs } = this.#options;
    if (declined !== undefined) {
      const { candidate, from, to, estimatedMs } = declined;
      this.#add(candidate.source, from, to - from, { outcome: 'not-worth-it', estimatedMs, peer: candidate.peer?.instanceId });
    }
    if (row < rows) this.#add('recompute', row, rows - row, { outcome: 'done', estimatedMs: this.#recomputeMs(row, rows) });
    const runs = this.#runs.map(({ tookMs, peer, ...run }): KvFetchRun => ({ ...run, ...(tookMs === undefined ? {} : { tookMs }), ...(peer === undefined ? {} : { peer }) }));
    return { runs, onboardedBlocks: this.onboardedBlocks, waitedMs: nowMs() - this.#startMs };
  }

  #add(source: KvFetchSource, fromBlock: number, blocks: number, { outcome, estimatedMs, tookMs, peer }: { outcome: LoadOutcome; estimatedMs: number; tookMs?: number; peer?: string | undefined }): void {
    this.#runs.push({ source, fromBlock, blocks, estimatedMs, recomputeMs: this.#recomputeMs(fromBlock, fromBlock + blocks), tookMs, outcome, peer });
  }

  #recomputeMs(from: number, to: number): number {
    return Math.max(0, this.#options.computeMs(from) - this.#options.computeMs(to));
  }
}
