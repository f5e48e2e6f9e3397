import type { EngineRequest } from '@armature/contracts';
import { SequenceHasher } from '@armature/tokens';
import type { SaltHash } from '@armature/tokens';
import type { RequestGroup } from './request-group.ts';

export const SequenceState = { Waiting: 0, Running: 1, Finished: 2 } as const;
export type SequenceState = (typeof SequenceState)[keyof typeof SequenceState];

/** One choice of one request: its tokens, its blocks, how far its KV is computed. */
export class Sequence {
  readonly group: RequestGroup;
  readonly choice: number;
  readonly hasher: SequenceHasher;
  /** Prompt and output; `length` of them. */
  tokens: Int32Array;
  length: number;
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
  /** Request arrival, for the order of waiting. */
  readonly arrival: number;

  constructor(group: RequestGroup, choice: number, tokens: Int32Array, setup: { readonly salt: SaltHash; readonly blockSize: number; readonly arrival: number }) {
    this.group = group;
    this.choice = choice;
    this.hasher = new SequenceHasher({ blockSize: setup.blockSize, salt: setup.salt });
    this.tokens = tokens;
    this.length = tokens.length;
    this.computed = 0;
    this.blocks = new Int32Array(Math.ceil(tokens.length / setup.blockSize) + 4);
    this.blockCount = 0;
    this.registered = 0;
    this.state = SequenceState.Waiting;
    this.slot = -1;
    this.isInStep = false;
    this.isAdopted = false;
    this.scheduled = 0;
    this.arrival = setup.arrival;
    this.hasher.appendAll(tokens, 0, tokens.length);
  }

  get request(): EngineRequest {
    return this.group.request;
  }

  /** Output tokens so far, those made elsewhere included. */
  get outputLength(): number {
    return this.length - this.request.promptTokens;
  }

  /** Ready to sample: all its tokens are computed by the end of the pass. */
  get isSampling(): boolean {
    return this.computed + this.scheduled === this.length;
  }

  append(token: number): void {
    if (this.length === this.tokens.length) {
      const grown = new Int32Array(Math.max(16, this.tokens.length * 2));
      grown.set(this.tokens);
      this.tokens = grown;
    }
    this.tokens[this.length++] = token;
    this.hasher.append(token);
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
