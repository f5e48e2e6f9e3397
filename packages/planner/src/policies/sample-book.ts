import type { RequestSamples } from '@armature/contracts';

/** The newest that are remembered, and how many are needed. */
const [REMEMBERED, ENOUGH] = [256, 48];

/** Lengths of the latest requests, over ticks. */
export class SampleBook {
  #samples: RequestSamples | undefined;

  constructor() {
    this.#samples = undefined;
  }

  learn(samples: RequestSamples | undefined): void {
    if (samples === undefined || samples.promptTokens.length === 0) return;
    const old = this.#samples;
    const joined = (name: keyof RequestSamples): Float64Array => Float64Array.from([...(old?.[name] ?? []), ...samples[name]].slice(-REMEMBERED));
    this.#samples = { promptTokens: joined('promptTokens'), cachedTokens: joined('cachedTokens'), outputTokens: joined('outputTokens') };
  }

  /** Undefined: too few to say how lengths go together. */
  get samples(): RequestSamples | undefined {
    return this.#samples !== undefined && this.#samples.promptTokens.length >= ENOUGH ? this.#samples : undefined;
  }
}
