import type { EngineRequest } from '@armature/contracts';
import { SequenceHasher, saltHash } from '@armature/tokens';
import type { RequestGroup } from './request-group.ts';

export const SequenceState = { Waiting: 0, Running: 1, Finished: 2 } as const;
export type SequenceState = (typeof SequenceState)[keyof typeof SequenceState];

/** Room for output tokens that a sequence has from its first one on. */
const FIRST_OUTPUT_TOKENS = 128;
const NO_TOKENS = new Int32Array(0);

export interface SequenceSetup {
  readonly choice: number;
  readonly blockSize: number;
  /** Number of the request: the order of waiting. */
  readonly arrival: number;
}

/** One choice of one request: its tokens, its blocks, how far its KV is computed. */
export class Sequence {
  readonly group: RequestGroup;
  readonly choice: number;
  readonly hasher: SequenceHasher;
  /** Tokens it came with: the prompt, and output made elsewhere. The request's own column: prompts are long, and nobody changes them. */
  readonly given: Int32Array;
  /** All its tokens, those made here too. */
  length: number;
  #made: Int32Array;
  /** Tokens whose KV is in `blocks`. */
  computed: number;
  blocks: Int32Array;
  blockCount: number;
  /** Leading blocks that have been offered for registration. */
  registered: number;
  state: SequenceState;
  /** Sampling state in the runner, -1 = not open. */
  slot: number;
  /** Part of the pass that is running: its blocks must not be freed. */
  isInStep: boolean;
  /** Blocks were taken over with KV in them (reservation): no prefix match at admission. */
  isAdopted: boolean;
  /** Tokens of the pass that is running. */
  scheduled: number;
  readonly arrival: number;

  constructor(group: RequestGroup, setup: SequenceSetup) {
    const { tokenIds, cacheSalt, adapter } = group.request;
    this.group = group;
    this.choice = setup.choice;
    this.hasher = new SequenceHasher({ blockSize: setup.blockSize, salt: saltHash({ cacheSalt, lora: adapter ?? '' }) });
    this.given = tokenIds;
    this.#made = NO_TOKENS;
    this.length = tokenIds.length;
    this.computed = 0;
    this.blocks = new Int32Array(Math.ceil(tokenIds.length / setup.blockSize) + 2);
    this.blockCount = 0;
    this.registered = 0;
    this.state = SequenceState.Waiting;
    this.slot = -1;
    this.isInStep = false;
    this.isAdopted = false;
    this.scheduled = 0;
    this.arrival = setup.arrival;
    this.hasher.appendAll(tokenIds, 0, tokenIds.length);
  }

  get request(): EngineRequest {
    return this.group.request;
  }

  get cacheSalt(): string {
    return this.group.request.cacheSalt;
  }

  /** Of its complete blocks, prompt and output. */
  get hashes(): Int32Array {
    return this.hasher.sequenceHashes;
  }

  /** A borrower reads its blocks: the lease is on those of a request's first sequence. */
  get isLeased(): boolean {
    return this.group.lease !== 0 && this.group.sequences[0] === this;
  }

  /** Output tokens so far, those made elsewhere included. */
  get outputLength(): number {
    return this.length - this.request.promptTokens;
  }

  /** All its tokens are computed by the end of the pass. */
  get isComplete(): boolean {
    return this.computed + this.scheduled === this.length;
  }

  append(token: number): void {
    const at = this.length - this.given.length;
    if (at === this.#made.length) {
      const grown = new Int32Array(Math.max(FIRST_OUTPUT_TOKENS, at * 2));
      grown.set(this.#made);
      this.#made = grown;
    }
    this.#made[at] = token;
    this.length++;
    this.hasher.append(token);
  }

  tokenAt(index: number): number {
    return index < this.given.length ? this.given[index] : this.#made[index - this.given.length];
  }

  /** Copies tokens `from` to `from + count` to `into[at]` and on. */
  copyTokens(from: number, count: number, into: Int32Array, at: number): void {
    const { given } = this;
    const made = this.#made;
    let index = from;
    for (const end = Math.min(from + count, given.length); index < end; index++) into[at++] = given[index];
    for (const end = from + count; index < end; index++) into[at++] = made[index - given.length];
  }

  /** Output tokens so far, a copy. */
  outputTokens(): Int32Array {
    const output = new Int32Array(this.outputLength);
    this.copyTokens(this.request.promptTokens, output.length, output, 0);
    return output;
  }

  addBlock(block: number): void {
    if (this.blockCount === this.blocks.length) {
      const grown = new Int32Array(this.blocks.length * 2);
      grown.set(this.blocks);
      this.blocks = grown;
    }
    this.blocks[this.blockCount++] = block;
  }
}
