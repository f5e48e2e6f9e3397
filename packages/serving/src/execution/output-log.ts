import { ArmatureError, FinishCode } from '@armature/contracts';
import type { TokenBatch } from '@armature/contracts';
import { TokenLog } from './token-log.ts';

/** What one request has delivered, by choice: which choices go on, and their tokens, so that another worker can go on with them. */
export class OutputLog {
  readonly #logs: readonly TokenLog[];
  readonly #hasEnded: Uint8Array;
  #tokens = 0;

  constructor(choices: number) {
    this.#logs = Array.from({ length: choices }, () => new TokenLog());
    this.#hasEnded = new Uint8Array(choices);
  }

  /** Of all choices together. */
  get tokens(): number {
    return this.#tokens;
  }

  /** It has not had its last token. */
  isOpen(choice: number): boolean {
    return this.#hasEnded[choice] === 0;
  }

  lengthOf(choice: number): number {
    return this.#logs[choice]?.length ?? 0;
  }

  /** The prompt, then what the choice has delivered; `prompt` itself when that is nothing. */
  continued(choice: number, prompt: Int32Array): Int32Array {
    return this.#logs[choice]?.append(prompt) ?? prompt;
  }

  /** Throws `SERVING_MESSAGE_INVALID` for a choice that was not asked for. */
  push(batch: TokenBatch): void {
    const { count, choices, tokenIds, finish } = batch;
    for (let i = 0; i < count; i++) {
      const choice = choices === undefined ? 0 : choices[i];
      if (choice >= this.#hasEnded.length) throw new ArmatureError('SERVING_MESSAGE_INVALID', `a worker sent tokens of choice ${choice}; the request has ${this.#hasEnded.length}`);
      this.#logs[choice]?.push(tokenIds[i]);
      if (finish[i] !== FinishCode.None) this.#hasEnded[choice] = 1;
    }
    this.#tokens += count;
  }
}
