import type { Clock, Counter, RequestPlane, RoutingOverrides, WorkerRole } from '@armature/contracts';
import { Method } from '../messages.ts';
import type { ModelRouter } from '../routing/model-router.ts';
import { callUnary } from '../worker/unary.ts';

/** Calls under way at once; what comes meanwhile is left out. */
const MAX_CALLS = 8;
/** Looks a second, and how many may come at once: looking a prompt up costs a walk of the router's index. */
const LOOKS_PER_MS = 0.2;
const MAX_BURST = 16;
const CALL_TIMEOUT_MS = 1_000;

export interface QueuePrefetchOptions {
  readonly router: ModelRouter;
  readonly requests: RequestPlane;
  readonly clock: Clock;
  readonly blockSize: number;
  readonly sent: Counter;
}

/**
 * A request has to wait in the queue: the worker that holds most of its prompt below host memory is told, where its policy prefetches so early. A hint: bounded, never waited for,
 * and what becomes of it is no matter of the request.
 */
export class QueuePrefetch {
  readonly #options: QueuePrefetchOptions;
  #calls = 0;
  #looks = MAX_BURST;
  #lookedAtMs = 0;

  constructor(options: QueuePrefetchOptions) {
    this.#options = options;
  }

  /** `role`: of the workers that the request waits for. */
  waiting(hashes: () => Int32Array, cacheSalt: string, role: WorkerRole, routing: RoutingOverrides): void {
    const { router, requests, clock, sent } = this.#options;
    const nowMs = clock.nowMs();
    this.#looks = Math.min(MAX_BURST, this.#looks + LOOKS_PER_MS * (nowMs - this.#lookedAtMs));
    this.#lookedAtMs = nowMs;
    if (this.#calls >= MAX_CALLS || this.#looks < 1) return;
    this.#looks--;
    if (!router.table.records().some(({ kvPrefetch }) => kvPrefetch === 'queue')) return;
    const sequenceHashes = hashes();
    const address = this.#holder(sequenceHashes, role === 'both' ? 'both' : 'prefill', role === 'both' ? routing.worker : routing.prefillWorker);
    if (address === undefined) return;
    this.#calls++;
    sent.inc();
    callUnary(requests, address, { method: Method.Prefetch, message: { type: 'prefetch', sequenceHashes, cacheSalt }, deadlineMs: CALL_TIMEOUT_MS }, () => void this.#calls--);
  }

  /** Of the worker that computes such prompts, prefetches early, and holds most of this one below its device, some of it below host memory. */
  #holder(hashes: Int32Array, role: WorkerRole, only: string | undefined): string | undefined {
    const { router, blockSize } = this.#options;
    let address: string | undefined;
    let most = 0;
    for (const { instanceId, hostBlocks, diskBlocks, objectBlocks } of router.overlaps(hashes, blockSize)) {
      const blocks = hostBlocks + diskBlocks + objectBlocks;
      if (diskBlocks + objectBlocks === 0 || blocks <= most || (only !== undefined && only !== instanceId)) continue;
      const worker = router.table.record(router.table.slotOf(instanceId) ?? -1);
      if (worker?.role !== role || worker.kvPrefetch !== 'queue') continue;
      most = blocks;
      ({ address } = worker);
    }
    return address;
  }
}
