import type { TextOutput } from '@armature/contracts';
import { StopMatcher } from './stop-matcher.ts';
import type { Detokenizer } from './tokenizer/detokenizer.ts';

/** Without stop strings: the detokenizer as it is. */
export class PlainTextOutput implements TextOutput {
  readonly matchedStop: number;
  readonly #detokenizer: Detokenizer;

  constructor(detokenizer: Detokenizer) {
    this.matchedStop = -1;
    this.#detokenizer = detokenizer;
  }

  push(tokenId: number): string {
    return this.#detokenizer.push(tokenId);
  }

  finish(): string {
    return this.#detokenizer.finish();
  }
}

/** With stop strings. */
export class StoppingTextOutput implements TextOutput {
  readonly #detokenizer: Detokenizer;
  readonly #stops: StopMatcher;

  constructor(detokenizer: Detokenizer, stops: readonly string[]) {
    this.#detokenizer = detokenizer;
    this.#stops = new StopMatcher(stops);
  }

  get matchedStop(): number {
    return this.#stops.matched;
  }

  push(tokenId: number): string {
    return this.#stops.matched >= 0 ? '' : this.#stops.push(this.#detokenizer.push(tokenId));
  }

  finish(): string {
    const text = this.#stops.push(this.#detokenizer.finish());
    return text + this.#stops.finish();
  }
}
