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
 * arrival; prompts in chunks; when blocks run out the newest running sequence of the lowest priority is preempted and recomputed later,
 * and nobody is admitted in that pass.
 */
export class Scheduler {
  readonly #limits: SchedulerLimits;
  readonly #pool: BlockPool;
  readonly #onPreempted: (sequence: Sequence) => void;
  readonly #running: Sequence[];
  readonly #waiting: Sequence[];
  /** Tokens left in the pass being built. */
  #budget: number;
  #preemptions: number;

  constructor(limits: SchedulerLimits, pool: BlockPool, onPreempted: (sequence: Sequence) => void) {
    this.#limits = limits;
    this.#pool = pool;
    this.#onPreempted = onPreempted;
    this.#running = [];
    this.#waiting = [];
    this.#budget = 0;
    this.#preemptions = 0;
  }

  /** In order of admission. */
  get running(): readonly Sequence[] {
    return this.#running;
  }

  /** Next one first. */
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
    while (at > 0 && isBefore(sequence, this.#waiting[at - 1])) at--;
    this.#waiting.splice(at, 0, sequence);
  }

  /** Takes a sequence out of both queues; its blocks are the caller's business. */
  remove(sequence: Sequence): void {
    takeOut(this.#running, sequence);
    takeOut(this.#waiting, sequence);
  }

  /** Fills `batch` with the sequences of the next pass; each has `scheduled` set. */
  schedule(batch: Sequence[]): void {
    const { blockSize } = this.#limits;
    batch.length = 0;
    this.#budget = this.#limits.maxBatchedTokens;
    let hasPreempted = false;
    for (let i = 0; i < this.#running.length && this.#budget > 0; i++) {
      const sequence = this.#running[i];
      let tokens = Math.min(sequence.length - sequence.computed, this.#budget);
      while (sequence.state === SequenceState.Running && !this.#allocate(sequence, tokens)) {
        if (this.#preempt(this.#victim(sequence), batch) <= i) i--;
        hasPreempted = true;
      }
      if (sequence.state !== SequenceState.Running) continue; // it was its own victim
      tokens = Math.min(sequence.length - sequence.computed, this.#budget, sequence.blockCount * blockSize - sequence.computed);
      sequence.scheduled = tokens;
      this.#budget -= tokens;
      batch.push(sequence);
    }
    if (!hasPreempted || batch.length === 0) this.#admit(batch);
  }

  /** Gives a sequence's blocks back, leaves first; its KV counts as not computed. */
  releaseBlocks(sequence: Sequence): void {
    this.#pool.releaseAll(sequence.blocks, sequence.blockCount);
    sequence.blockCount = 0;
    sequence.computed = 0;
    sequence.registered = 0;
    sequence.isAdopted = false;
  }

  #admit(batch: Sequence[]): void {
    while (this.#budget > 0 && this.#waiting.length > 0 && this.#running.length < this.#limits.maxSequences) {
      const sequence = this.#waiting[0];
      if (!this.#tryAdmit(sequence)) {
        // Waiting requests that adopted a reservation hold blocks. With nobody running nobody else would ever give any back.
        if (this.#running.length > 0 || !this.#reclaimWaiting(sequence)) return;
        continue;
      }
      this.#waiting.shift();
      sequence.state = SequenceState.Running;
      sequence.scheduled = Math.min(sequence.length - sequence.computed, this.#budget);
      this.#budget -= sequence.scheduled;
      this.#running.push(sequence);
      batch.push(sequence);
      sequence.group.account(sequence.computed);
    }
  }

  /** Blocks for the first chunk; for a prefill leg all at once, because they are promised to a borrower. */
  #tryAdmit(sequence: Sequence): boolean {
    this.#matchPrefix(sequence);
    const left = sequence.length - sequence.computed;
    if (this.#allocate(sequence, sequence.request.leg === 'prefill' ? left : Math.min(left, this.#budget))) return true;
    if (!sequence.isAdopted) this.releaseBlocks(sequence);
    return false;
  }

  /** Takes the blocks of the last waiting sequence that has any; it is recomputed. False: nobody has. */
  #reclaimWaiting(needy: Sequence): boolean {
    for (let i = this.#waiting.length - 1; i >= 0; i--) {
      const sequence = this.#waiting[i];
      if (sequence === needy || sequence.blockCount === 0) continue;
      this.#preemptions++;
      this.releaseBlocks(sequence);
      return true;
    }
    return false;
  }

  /**
   * Takes over the registered blocks that follow those the sequence has (none, or adopted ones); at least one token is left to compute, because one
   * is to be sampled.
   */
  #matchPrefix(sequence: Sequence): void {
    const { blockSize } = this.#limits;
    const { hashes, blockCount } = sequence;
    if (sequence.registered < blockCount) return; // its own blocks are to be filled first
    const limit = Math.floor((sequence.length - 1) / blockSize);
    for (let i = blockCount; i < limit; i++) {
      const block = this.#pool.find(hashes[2 * i], hashes[2 * i + 1]);
      if (block === -1) break;
      this.#pool.acquire(block);
      sequence.addBlock(block);
    }
    sequence.registered = sequence.blockCount;
    sequence.computed = sequence.blockCount * blockSize;
  }

  /** Blocks for `tokens` more computed tokens. All or nothing. */
  #allocate(sequence: Sequence, tokens: number): boolean {
    const need = Math.ceil((sequence.computed + tokens) / this.#limits.blockSize) - sequence.blockCount;
    if (need > this.#pool.freeBlocks) return false;
    for (let i = 0; i < need; i++) sequence.addBlock(this.#pool.allocate());
    return true;
  }

  /** The newest running sequence of the lowest priority, maybe `needy` itself; never another one whose blocks a borrower reads. */
  #victim(needy: Sequence): Sequence {
    let victim: Sequence | undefined;
    for (let i = this.#running.length - 1; i >= 0; i--) {
      const sequence = this.#running[i];
      if (sequence.isLeased && sequence !== needy) continue;
      if (victim === undefined || sequence.request.priority < victim.request.priority) victim = sequence;
    }
    return victim ?? needy;
  }

  /** Returns where in `running` it was. */
  #preempt(sequence: Sequence, batch: Sequence[]): number {
    this.#preemptions++;
    const at = takeOut(this.#running, sequence);
    if (takeOut(batch, sequence) !== -1) this.#budget += sequence.scheduled;
    this.releaseBlocks(sequence);
    this.#onPreempted(sequence);
    sequence.scheduled = 0;
    sequence.state = SequenceState.Waiting;
    this.add(sequence);
    return at;
  }
}

function takeOut(list: Sequence[], sequence: Sequence): number {
  const at = list.indexOf(sequence);
  if (at !== -1) list.splice(at, 1);
  return at;
}

function isBefore(a: Sequence, b: Sequence): boolean {
  if (a.request.priority !== b.request.priority) return a.request.priority > b.request.priority;
  return a.arrival < b.arrival;
}
