import type { Candidates, Logger, WorkerRecord, WorkerRole } from '@armature/contracts';
import type { QueueConfig } from './config.ts';
import type { Gate } from './queue-class.ts';

/** What the rule reads of the router's worker table. The columns are valid until the next call. */
export interface WorkerLoads {
  candidates(role: WorkerRole, excluded: readonly string[], wishes: { readonly only: string | undefined; readonly adapter: string | undefined }): Candidates;
  record(slot: number): WorkerRecord | undefined;
}

/** How the eligible workers stand. A worker may be busy by both rules; it counts for the first. */
export interface Occupancy {
  workers: number;
  busyByPrefillTokens: number;
  busyByKvBlocks: number;
}

const NOBODY: readonly string[] = [];

/** Says when a worker has enough to do. A worker without load is never busy, so a parked request always has an event to wait for. */
export class BusyRule {
  readonly #config: QueueConfig;
  readonly #loads: WorkerLoads;

  constructor(config: QueueConfig, loads: WorkerLoads) {
    this.#config = config;
    this.#loads = loads;
  }

  /** Workers that do not say what a threshold is relative to would switch it off in silence. */
  joined(worker: WorkerRecord, log: Logger): void {
    const { prefillFraction, kvBlocksFraction, assumedBatchTokens } = this.#config;
    const { instanceId } = worker;
    if (prefillFraction !== undefined && !(worker.maxBatchedTokens > 0)) {
      log.warn(`worker reports no batch limit; the queue assumes ${assumedBatchTokens} tokens`, {
        code: 'SERVING_BATCH_LIMIT_UNKNOWN',
        worker: instanceId,
        hint: 'set queue.assumedBatchTokens to the limit of the engine, or use queue.prefillTokens',
      });
    }
    if (kvBlocksFraction !== undefined && !(worker.totalBlocks > 0)) {
      log.warn('worker reports no number of KV blocks; queue.kvBlocksFraction never holds for it', {
        code: 'SERVING_BLOCKS_UNKNOWN',
        worker: instanceId,
        hint: 'set totalBlocks in the config of its engine, or use a threshold on prefill tokens',
      });
    }
  }

  /** True: no eligible worker, or each of them is busy. `out` says how many of what. */
  isFull(gate: Gate, out: Occupancy): boolean {
    const isFull = this.#look(gate, gate.role, gate.worker, out);
    if (isFull || gate.role !== 'prefill') return isFull;
    const pool = { ...out };
    if (this.#look(gate, 'decode', gate.decodeWorker, out)) return true;
    Object.assign(out, pool);
    return false;
  }

  #look({ requiredTaints, adapter }: Gate, role: WorkerRole, only: string | undefined, out: Occupancy): boolean {
    const columns = this.#loads.candidates(role, NOBODY, { only, adapter });
    out.workers = 0;
    out.busyByPrefillTokens = 0;
    out.busyByKvBlocks = 0;
    for (let i = 0; i < columns.count; i++) {
      const worker = this.#loads.record(columns.slots[i]);
      if (worker === undefined || !hasAll(worker, requiredTaints)) continue;
      out.workers++;
      if (this.#hasPrefill(worker, columns.activePrefillTokens[i])) out.busyByPrefillTokens++;
      else if (this.#hasBlocks(worker, columns.activeBlocks[i])) out.busyByKvBlocks++;
    }
    return out.busyByPrefillTokens + out.busyByKvBlocks === out.workers;
  }

  /** Has the worker enough to do? Asked for each candidate of a decision: one that is busy gets nothing while another is not. */
  isBusy(worker: WorkerRecord, prefillTokens: number, blocks: number): boolean {
    return this.#hasPrefill(worker, prefillTokens) || this.#hasBlocks(worker, blocks);
  }

  #hasPrefill(worker: WorkerRecord, tokens: number): boolean {
    const { prefillFraction, prefillTokens, assumedBatchTokens } = this.#config;
    const batchTokens = worker.maxBatchedTokens > 0 ? worker.maxBatchedTokens : assumedBatchTokens;
    return tokens > Math.min(prefillTokens ?? Infinity, prefillFraction === undefined ? Infinity : prefillFraction * batchTokens);
  }

  #hasBlocks(worker: WorkerRecord, blocks: number): boolean {
    const { kvBlocksFraction } = this.#config;
    return kvBlocksFraction !== undefined && worker.totalBlocks > 0 && blocks > kvBlocksFraction * worker.totalBlocks;
  }
}

function hasAll(worker: WorkerRecord, taints: readonly string[]): boolean {
  for (const taint of taints) if (!worker.taints.includes(taint)) return false;
  return true;
}
