import type { BlockPool } from '@armature/blocks';
import { SequenceState } from './sequence.ts';
import type { Sequence } from './sequence.ts';

export interface SchedulerLimits {
  readonly blockSize: number;
  readonly maxSequences: number;
  /** Token budget of one pass. */
  readonly maxBatchedTokens: number;
}

/**
 * Continuous batching with vLLM's rules: one token budget per pass, running sequences first, then waiting ones in order of priority and
 * arrival; prompts in chunks; when blocks run out the newest running sequence is preempted and recomputed later, and nobody is admitted
 * in that pass.
 */
export class Scheduler {
  readonly #limits: SchedulerLimits;
  readonly #pool: BlockPool;
  readonly #onPreempted: (sequence: Sequence) => void;
  readonly #running: Sequence[] = [];
  readonly #waiting: Sequence[] = [];
  #preemptions = 0;

  constructor(limits: SchedulerLimits, pool: BlockPool, onPreempted: (sequence: Sequence) => void) {
    this.#limits = limits;
    this.#pool = pool;
    this.#onPreempted = onPreempted;
  }

  get running(): readonly Sequence[] {
    return this.#running;
  }

  get waiting(): readonly Sequence[] {
    return this.#waiting;
  }

  get preemptions(): number {
    return this.#preemptions;
  }

  get hasWork(): boolean {
    return this.#running.length + this.#waiting.length > 0;
  }

  /** Prompt tokens not yet computed. */
  get prefillTokens(): number {
    let tokens = 0;
    for (const sequence of this.#running) tokens += Math.max(0, sequence.request.promptTokens - sequence.computed);
    for (const sequence of this.#waiting) tokens += Math.max(0, sequence.request.promptTokens - sequence.computed);
    return tokens;
  }

  add(sequence: Sequence): void {
    let at = this.#waiting.length;
    while (at > 0 && isBefore(sequence, this.#waiting[at - 1] as Sequence)) at--;
    this.#waiting.splice(at, 0, sequence);
  }

  /** Takes a sequence out of both queues; its blocks are the caller's business. */
  remove(sequence: Sequence): void {
    for (const list of [this.#running, this.#waiting]) {
      const at = list.indexOf(sequence);
      if (at !== -1) list.splice(at, 1);
    }
  }

  /** Fills `batch` with the sequences of the next pass; each has `scheduled` set. */
  schedule(batch: Sequence[]): void {
    batch.length = 0;
    let budget = this.#limits.maxBatchedTokens;
    let hasPreempted = false;
    for (let i = 0; i < this.#running.length && budget > 0; i++) {
      const sequence = this.#running[i] as Sequence;
      const tokens = Math.min(sequence.length - sequence.computed, budget);
      while (!this.#allocate(sequence, tokens)) {
        const victim = this.#victim(sequence);
        if (victim === undefined) break;
        if (this.#preempt(victim, batch) < i) i--;
        hasPreempted = true;
        if (victim === sequence) break;
      }
      if (sequence.state !== SequenceState.Running) {
        i--;
        continue;
      }
      if (sequence.blockCount * this.#limits.blockSize < sequence.computed + tokens) continue; // no room and nobody to preempt
      sequence.scheduled = tokens;
      budget -= tokens;
      batch.push(sequence);
    }
    if (!hasPreempted) this.#admit(batch, budget);
  }

  #admit(batch: Sequence[], tokenBudget: number): void {
    let budget = tokenBudget;
    while (budget > 0 && this.#waiting.length > 0 && this.#running.length < this.#limits.maxSequences) {
      const sequence = this.#waiting[0] as Sequence;
      if (!sequence.isAdopted) this.#matchPrefix(sequence);
      const tokens = Math.min(sequence.length - sequence.computed, budget);
      const wanted = sequence.request.leg === 'prefill' ? sequence.length - sequence.computed : tokens;
      if (!this.#allocate(sequence, wanted)) {
        if (!sequence.isAdopted) this.releaseBlocks(sequence);
        return;
      }
      this.#waiting.shift();
      sequence.state = SequenceState.Running;
      sequence.scheduled = tokens;
      budget -= tokens;
      this.#running.push(sequence);
      batch.push(sequence);
      if (sequence.choice === 0 && sequence.group.cachedTokens === 0 && this.#isFirstTime(sequence)) {
        sequence.group.cachedTokens = Math.min(sequence.computed, sequence.request.promptTokens);
      }
    }
  }

  #isFirstTime(sequence: Sequence): boolean {
    return sequence.group.outputTokens === 0;
  }

  /** Takes over the longest registered prefix; at least one token is left to compute, because one is to be sampled. */
  #matchPrefix(sequence: Sequence): void {
    const { blockSize } = this.#limits;
    const hashes = sequence.hasher.sequenceHashes;
    const matched = this.#pool.match(hashes, Math.floor((sequence.length - 1) / blockSize));
    for (let i = 0; i < matched; i++) {
      const block = this.#pool.find(hashes[2 * i] as number, hashes[2 * i + 1] as number);
      this.#pool.acquire(block);
      sequence.addBlock(block);
    }
    sequence.computed = matched * blockSize;
    sequence.registered = matched;
  }

  /** Blocks for `tokens` more computed tokens. All or nothing. */
  #allocate(sequence: Sequence, tokens: number): boolean {
    const need = Math.ceil((sequence.computed + tokens) / this.#limits.blockSize) - sequence.blockCount;
    if (need > this.#pool.freeBlocks) return false;
    for (let i = 0; i < need; i++) sequence.addBlock(this.#pool.allocate());
    return true;
  }

  /** The newest running sequence that may lose its blocks; never one whose blocks a borrower reads. */
  #victim(needy: Sequence): Sequence | undefined {
    for (let i = this.#running.length - 1; i >= 0; i--) {
      const sequence = this.#running[i] as Sequence;
      if (sequence.group.lease === 0 || sequence === needy) return sequence;
    }
    return undefined;
  }

  /** Returns where in `running` it was. */
  #preempt(sequence: Sequence, batch: Sequence[]): number {
    this.#preemptions++;
    const at = this.#running.indexOf(sequence);
    this.#running.splice(at, 1);
    const inBatch = batch.indexOf(sequence);
    if (inBatch !== -1) batch.splice(inBatch, 1);
    this.releaseBlocks(sequence);
    this.#onPreempted(sequence);
    sequence.isAdopted = false;
    sequence.scheduled = 0;
    sequence.state = SequenceState.Waiting;
    this.#waiting.unshift(sequence);
    return at;
  }

  /** Gives a sequence's blocks back, leaves first; its KV counts as not computed. */
  releaseBlocks(sequence: Sequence): void {
    this.#pool.releaseAll(sequence.blocks, sequence.blockCount);
    sequence.blockCount = 0;
    sequence.computed = 0;
    sequence.registered = 0;
  }
}

function isBefore(a: Sequence, b: Sequence): boolean {
  if (a.request.priority !== b.request.priority) return a.request.priority > b.request.priority;
  return a.arrival < b.arrival;
}
