import { saltHash, SequenceHasher } from '@armature/tokens';

/** Prompts that one engine has under way; more are not looked up and not stored. */
const MAX_PROMPTS = 8_192;

/** Identity of the blocks of running requests, computed from their tokens. Numbers of prompts are the engine's. */
export class Prompts {
  readonly #blockSize: number;
  readonly #prompts = new Map<number, SequenceHasher>();

  constructor(blockSize: number) {
    this.#blockSize = blockSize;
  }

  get count(): number {
    return this.#prompts.size;
  }

  /** Undefined: too many. A number in use begins anew. */
  begin(prompt: number, parts: { readonly cacheSalt: string; readonly lora: string }, tokens: Int32Array): SequenceHasher | undefined {
    if (this.#prompts.size >= MAX_PROMPTS && !this.#prompts.has(prompt)) return undefined;
    const hasher = new SequenceHasher({ blockSize: this.#blockSize, salt: saltHash(parts) });
    hasher.appendAll(tokens, 0, tokens.length);
    this.#prompts.set(prompt, hasher);
    return hasher;
  }

  get(prompt: number): SequenceHasher | undefined {
    return this.#prompts.get(prompt);
  }

  forget(prompt: number): void {
    this.#prompts.delete(prompt);
  }
}
