import type { KvOperation } from '@armature/contracts';
import { promptRows } from './batches.ts';
import type { HostLoads } from './host-loads.ts';
import type { LowerSources } from './lower-sources.ts';
import type { ManagerParts } from './parts.ts';

/** Prompts waiting to be prefetched; the oldest goes when more come. */
const MAX_PROMPTS = 64;
/** Share of the host tier that one prompt may fill ahead of its request. */
const MAX_SHARE = 0.25;
const DEADLINE_MS = 10_000;

interface Prompt {
  readonly hashes: Int32Array;
  readonly tenant: number;
  row: number;
}

/** Brings blocks that a request will need from lower tiers to the host tier before the request is fetched for: one batch at a time, and none while a request loads. */
export class Prefetches {
  readonly #parts: ManagerParts;
  readonly #loads: HostLoads;
  readonly #lower: LowerSources;
  readonly #isBusy: () => boolean;
  readonly #prompts: Prompt[] = [];
  #operation: KvOperation | undefined = undefined;
  #isRunning = false;
  #isClosed = false;

  constructor(parts: ManagerParts, loads: HostLoads, lower: LowerSources, isBusy: () => boolean) {
    this.#parts = parts;
    this.#loads = loads;
    this.#lower = lower;
    this.#isBusy = isBusy;
  }

  add(when: 'route' | 'queue', hashes: Int32Array, cacheSalt: string): void {
    const { policy, kv, tenants } = this.#parts;
    if (this.#isClosed || policy.prefetch === 'never' || (when === 'queue' && policy.prefetch === 'route') || this.#lower.all.length === 0) return;
    if (this.#prompts.length === MAX_PROMPTS) this.#prompts.shift();
    this.#prompts.push({ hashes: hashes.slice(), tenant: tenants.numberOf(cacheSalt), row: kv.match(hashes) });
    this.#pump();
  }

  close(): void {
    this.#isClosed = true;
    this.#prompts.length = 0;
    this.#operation?.cancel();
    this.#isRunning = false;
  }

  /** A request has ended: there may be room for this again. */
  resume(): void {
    if (this.#prompts.length > 0) this.#pump();
  }

  #pump(): void {
    while (!this.#isRunning && !this.#isClosed && this.#prompts.length > 0 && !this.#isBusy()) if (!this.#bringNext(this.#prompts[0])) this.#prompts.shift();
  }

  /** False: nothing (more) to bring for this prompt. */
  #bringNext(prompt: Prompt): boolean {
    const { host, config } = this.#parts;
    const { hashes, tenant } = prompt;
    prompt.row += host.store.match(hashes, prompt.row);
    const best = this.#lower.best(hashes, prompt.row);
    if (best === undefined || prompt.row >= this.#parts.kv.match(hashes) + MAX_SHARE * host.store.capacityBlocks) return false;
    const to = prompt.row + Math.min(best.blocks, config.batchBlocks);
    const rows = promptRows(hashes, prompt.row, to, tenant);
    this.#isRunning = true;
    this.#operation = this.#loads.bring(rows, best.source, { urgency: 'background', deadlineMs: DEADLINE_MS }, (outcome) => {
      this.#isRunning = false;
      this.#operation = undefined;
      if (outcome === 'done') prompt.row = to;
      else if (this.#prompts[0] === prompt) this.#prompts.shift();
      this.#pump();
    });
    return true;
  }
}
