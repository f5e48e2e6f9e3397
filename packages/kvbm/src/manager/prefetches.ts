import type { KvOperation, Timer } from '@armature/contracts';
import { promptRows } from './batches.ts';
import type { HostLoads } from './host-loads.ts';
import type { LowerSources } from './lower-sources.ts';
import type { ManagerParts } from './parts.ts';
import type { PrefillSpeed } from './prefill-speed.ts';

/** Prompts waiting to be prefetched; the oldest goes when more come. */
const MAX_PROMPTS = 64;
/** Share of the host tier that one prompt may fill ahead of its request. */
const MAX_SHARE = 0.25;
const DEADLINE_MS = 10_000;
/** A request waits for its prefetch for this share of the time that the engine computes for others: the rest is for what follows. */
const WAIT_SHARE = 0.5;

interface Prompt {
  readonly hashes: Int32Array;
  readonly tenant: number;
  row: number;
  /** Of a request that waits: its blocks come also while others load. */
  readonly done: (() => void) | undefined;
  timer: Timer | undefined;
}

export interface PrefetchesOptions {
  readonly parts: ManagerParts;
  readonly loads: HostLoads;
  readonly lower: LowerSources;
  readonly prefill: PrefillSpeed;
  /** A request loads. */
  readonly isBusy: () => boolean;
}

const OVER: KvOperation = { cancel: () => undefined };

/** Brings blocks that a request will need from lower tiers to the host tier before the request is fetched for: one batch at a time, and none nobody waits for while a request loads. */
export class Prefetches {
  readonly #options: PrefetchesOptions;
  readonly #prompts: Prompt[] = [];
  #operation: KvOperation | undefined = undefined;
  #isRunning = false;
  #isClosed = false;

  constructor(options: PrefetchesOptions) {
    this.#options = options;
  }

  /** For a request that may come. */
  add(when: 'route' | 'queue', hashes: Int32Array, cacheSalt: string): void {
    if (this.#isWanted(when)) this.#push(hashes, cacheSalt, undefined);
  }

  /**
   * For a request that is here while the engine has `queuedTokens` to compute for others. `done` exactly once unless cancelled, maybe before return: the blocks are there, do not
   * come, or half of that time has passed; with how many of those tokens are left.
   */
  ahead(hashes: Int32Array, cacheSalt: string, queuedTokens: number, done: (queuedTokens: number) => void): KvOperation {
    const { parts, prefill } = this.#options;
    const queueMs = prefill.isKnown ? prefill.computeMs(queuedTokens) : 0;
    const waitMs = Math.min(WAIT_SHARE * queueMs, parts.config.fetchDeadlineMs);
    if (waitMs <= 0 || !this.#isWanted('route') || !this.#hasBelow(hashes)) {
      done(queuedTokens);
      return OVER;
    }
    const startMs = parts.clock.nowMs();
    const prompt = this.#push(hashes, cacheSalt, () => done(queuedTokens * Math.max(0, 1 - (parts.clock.nowMs() - startMs) / queueMs)));
    prompt.timer = parts.clock.setTimer(waitMs, () => this.#drop(prompt, true));
    this.#pump();
    return { cancel: () => this.#drop(prompt, false) };
  }

  close(): void {
    this.#isClosed = true;
    for (const prompt of [...this.#prompts]) this.#drop(prompt, true);
    this.#operation?.cancel();
    this.#isRunning = false;
  }

  /** A request has ended: there may be room for this again. */
  resume(): void {
    if (this.#prompts.length > 0) this.#pump();
  }

  #isWanted(when: 'route' | 'queue'): boolean {
    const { prefetch } = this.#options.parts.policy;
    return !this.#isClosed && this.#options.lower.all.length > 0 && prefetch !== 'never' && (when === 'route' || prefetch === 'queue');
  }

  /** Blocks that only a lower tier has follow those that are further up. */
  #hasBelow(hashes: Int32Array): boolean {
    const { parts, lower } = this.#options;
    const device = parts.kv.match(hashes);
    return lower.best(hashes, device + parts.host.store.match(hashes, device)) !== undefined;
  }

  #push(hashes: Int32Array, cacheSalt: string, done: (() => void) | undefined): Prompt {
    const { kv, tenants } = this.#options.parts;
    if (this.#prompts.length === MAX_PROMPTS) this.#drop(this.#prompts[0], true);
    const prompt: Prompt = { hashes: hashes.slice(), tenant: tenants.numberOf(cacheSalt), row: kv.match(hashes), done, timer: undefined };
    this.#prompts.push(prompt);
    if (done === undefined) this.#pump();
    return prompt;
  }

  /** What is on its way for it arrives all the same: a fetch that follows joins it. */
  #drop(prompt: Prompt, isTold: boolean): void {
    const at = this.#prompts.indexOf(prompt);
    if (at === -1) return;
    this.#prompts.splice(at, 1);
    if (prompt.timer !== undefined) this.#options.parts.clock.clearTimer(prompt.timer);
    if (isTold) prompt.done?.();
  }

  #pump(): void {
    while (!this.#isRunning && !this.#isClosed) {
      // Those that somebody waits for go first.
      const prompt = this.#prompts.find(({ done }) => done !== undefined) ?? (this.#options.isBusy() ? undefined : this.#prompts[0]);
      if (prompt === undefined) return;
      if (!this.#bringNext(prompt)) this.#drop(prompt, true);
    }
  }

  /** False: nothing (more) to bring for this prompt. */
  #bringNext(prompt: Prompt): boolean {
    const { parts, lower, loads } = this.#options;
    const { host, config } = parts;
    const { hashes, tenant } = prompt;
    prompt.row += host.store.match(hashes, prompt.row);
    const best = lower.best(hashes, prompt.row);
    if (best === undefined || prompt.row >= parts.kv.match(hashes) + MAX_SHARE * host.store.capacityBlocks) return false;
    const to = prompt.row + Math.min(best.blocks, config.batchBlocks);
    const rows = promptRows(hashes, prompt.row, to, tenant);
    const urgency = prompt.done === undefined ? 'background' : 'request';
    this.#isRunning = true;
    let isOver = false;
    const operation = loads.bring(rows, best.source, { urgency, deadlineMs: DEADLINE_MS }, (outcome) => {
      isOver = true;
      this.#isRunning = false;
      this.#operation = undefined;
      if (outcome === 'done') {
        prompt.row = to;
        parts.metrics.prefetched(best.source.name, rows.count);
      } else this.#drop(prompt, true);
      this.#pump();
    });
    if (!isOver) this.#operation = operation;
    return true;
  }
}
