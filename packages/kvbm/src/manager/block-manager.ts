import type { ErrorData, KvEvent, KvOperation } from '@armature/contracts';
import type { BlockManager, BlockManagerOptions, BlockManagerStats, KvFetchRequest, KvFetchResult, KvLoan, KvTierEvent } from './face.ts';
import type { DeviceOffload } from './device-offload.ts';
import type { Demotion } from './demotion.ts';
import type { Fetches } from './fetches.ts';
import type { HostAccess } from './host-access.ts';
import type { HostLoads } from './host-loads.ts';
import type { Loans } from './loans.ts';
import type { ManagerParts } from './parts.ts';
import type { Prefetches } from './prefetches.ts';
import type { PrefillSpeed } from './prefill-speed.ts';
import { tierSnapshot } from './tier-events.ts';
import { verifyAll } from './verify-all.ts';
import type { VerifyCounts } from './verify-all.ts';

/** Closing waits so long for what is under way; a medium that hangs longer is left behind with a line in the log. */
const CLOSE_DEADLINE_MS = 10_000;

export interface BlockManagerPieces {
  readonly parts: ManagerParts;
  readonly offload: DeviceOffload;
  readonly demotions: readonly Demotion[];
  readonly loads: HostLoads;
  readonly fetches: Fetches;
  readonly prefetches: Prefetches;
  readonly loans: Loans;
  readonly host: HostAccess;
  readonly prefill: PrefillSpeed;
  /** By tier, host first. */
  readonly problems: readonly (ErrorData | undefined)[];
  readonly corruptBlocks: () => number;
  /** What belongs to the manager beside the tiers: mover, metrics. */
  readonly closeRest: () => void;
}

/** The tiers of one worker, put together; see `createBlockManager`. */
export class KvBlockManager implements BlockManager {
  readonly #worker: BlockManagerOptions['worker'];
  readonly #pieces: BlockManagerPieces;
  #verifying = 0;
  #closing: Promise<void> | undefined = undefined;

  constructor(worker: string, pieces: BlockManagerPieces) {
    this.#worker = worker;
    this.#pieces = pieces;
  }

  engineEvent(event: KvEvent): void {
    this.#pieces.offload.engineEvent(event);
  }

  onTierEvent(listener: (event: KvTierEvent) => void): void {
    this.#pieces.parts.events.listen(listener);
  }

  get host(): BlockManager['host'] {
    return this.#pieces.host;
  }

  snapshot(): readonly KvTierEvent[] {
    const { host, lower } = this.#pieces.parts;
    return [host, ...lower].flatMap(({ store }) => tierSnapshot(store));
  }

  fetch(request: KvFetchRequest, done: (result: KvFetchResult) => void): KvOperation {
    return this.#pieces.fetches.fetch(request, (result) => {
      done(result);
      this.#pieces.prefetches.resume();
    });
  }

  get prefetchRule(): BlockManager['prefetchRule'] {
    return this.#pieces.parts.policy.prefetch;
  }

  prefetch(when: 'route' | 'queue', sequenceHashes: Int32Array, cacheSalt: string): void {
    this.#pieces.prefetches.add(when, sequenceHashes, cacheSalt);
  }

  prefetchAhead(sequenceHashes: Int32Array, cacheSalt: string, queuedTokens: number, done: (queuedTokens: number) => void): KvOperation {
    return this.#pieces.prefetches.ahead(sequenceHashes, cacheSalt, queuedTokens, done);
  }

  holds(sequenceHashes: Int32Array, deviceBlocks: number): boolean {
    const { host, lower } = this.#pieces.parts;
    if (host.store.match(sequenceHashes, deviceBlocks) > 0) return true;
    // What is shared with others may hold more than is known here.
    for (const { store } of lower) if (store.probe !== undefined || store.match(sequenceHashes, deviceBlocks) > 0) return true;
    return false;
  }

  passed(sequenceHashes: Int32Array, deviceBlocks: number): void {
    this.#pieces.fetches.passed(sequenceHashes, deviceBlocks);
  }

  observePrefill(tokens: number, milliseconds: number): void {
    this.#pieces.prefill.observe(tokens, milliseconds, this.#pieces.parts.clock.nowMs());
  }

  lend(sequenceHashes: Int32Array, from: number, to: number, ttlMs: number, deadlineMs: number, done: (loan: KvLoan | undefined) => void): void {
    this.#pieces.loans.lend(sequenceHashes, from, to, ttlMs, deadlineMs, done);
  }

  renewLoan(lease: number, ttlMs: number): boolean {
    return this.#pieces.loans.renew(lease, ttlMs);
  }

  settleLoan(lease: number): 'valid' | 'expired' {
    return this.#pieces.loans.settle(lease);
  }

  stats(): BlockManagerStats {
    const { parts, offload, demotions, fetches, loans, problems, corruptBlocks } = this.#pieces;
    const sum = (of: (demotion: Demotion) => number): number => demotions.reduce((total, demotion) => total + of(demotion), 0);
    return {
      worker: this.#worker,
      tiers: [parts.host, ...parts.lower].map(({ store }, i) => {
        const problem = problems[i];
        return Object.assign(store.stats(), { tier: store.tier }, problem === undefined ? {} : { problem });
      }),
      queuedOffloads: offload.queued + sum(({ queued }) => queued),
      droppedOffloads: offload.dropped + sum(({ dropped }) => dropped),
      offloadedBlocks: offload.offloaded + sum(({ demoted }) => demoted),
      onboardedBlocks: fetches.onboardedBlocks,
      corruptBlocks: corruptBlocks(),
      loans: loans.count,
      pinnedDeviceBlocks: offload.pinnedBlocks,
    };
  }

  async verifyAll(deadlineMs: number): Promise<VerifyCounts> {
    this.#verifying++;
    try {
      return await verifyAll(this.#pieces.parts, () => this.#closing !== undefined, deadlineMs);
    } finally {
      this.#verifying--;
    }
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    const { parts, offload, demotions, loads, fetches, prefetches, loans, host: access, closeRest } = this.#pieces;
    const { clock, log, host, lower } = parts;
    prefetches.close();
    fetches.cancelAll();
    loans.close();
    access.close();
    loads.cancelAll();
    for (const part of [offload, ...demotions]) part.cancelAll();
    const untilMs = clock.nowMs() + CLOSE_DEADLINE_MS;
    const running = (): number => loads.running + access.running + fetches.running + offload.running + demotions.reduce((total, demotion) => total + demotion.running, 0) + this.#verifying;
    while (running() > 0 && clock.nowMs() < untilMs) await clock.sleep(1);
    if (running() > 0) log.error('KV transfers did not end while closing; their memory is left to the end of the process', { running: running() });
    const failures: unknown[] = [];
    for (const { store } of [...lower].reverse().concat(host)) await store.close().catch((error: unknown) => failures.push(error));
    closeRest();
    if (failures.length > 0) throw new AggregateError(failures, `tiers of ${this.#worker} did not close cleanly`);
  }
}

