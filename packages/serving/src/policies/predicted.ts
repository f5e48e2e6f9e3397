import { definePlugin } from '@armature/contracts';
import type { DisaggregationInput, DisaggregationPolicy } from '@armature/contracts';

export interface PredictedConfig {
  readonly whenNoPrefillWorker: 'fail' | 'local';
  readonly decodeWeight: number;
  readonly maxLocalTokens: number;
  readonly exploreEvery: number;
}

/**
 * Where the first token is predicted to come sooner. A prompt computed on a decode worker delays the answers running there, so that its time counts
 * `decodeWeight`-fold. While one side is unknown, short prompts stay local, as Dynamo's isl-bounding has it; every `exploreEvery`-th decision that is
 * not clear goes the other way, so that both sides stay known.
 */
export class PredictedPolicy implements DisaggregationPolicy {
  readonly name = 'predicted';
  readonly creditsDecodeOverlap = true;
  readonly usesPredictions = true;
  readonly whenNoPrefillWorker: 'fail' | 'local';
  readonly #config: PredictedConfig;
  #unclear = 0;

  constructor(config: PredictedConfig) {
    this.#config = config;
    this.whenNoPrefillWorker = config.whenNoPrefillWorker;
  }

  isRemote(input: DisaggregationInput): boolean {
    const { decodeWeight, maxLocalTokens, exploreEvery } = this.#config;
    const { localFirstTokenMs, remoteFirstTokenMs } = input;
    const uncached = input.promptTokens - input.overlapTokens;
    if (Number.isNaN(localFirstTokenMs) || Number.isNaN(remoteFirstTokenMs)) return uncached >= maxLocalTokens;
    const localMs = localFirstTokenMs * decodeWeight;
    const isRemote = remoteFirstTokenMs < localMs;
    // Wrong by at most half of the better one: cheap enough to look.
    const isUnclear = Math.abs(remoteFirstTokenMs - localMs) <= 0.5 * Math.min(remoteFirstTokenMs, localMs);
    if (!isUnclear || exploreEvery === 0 || input.prefillWorkers === 0) return isRemote;
    this.#unclear = (this.#unclear + 1) % exploreEvery;
    return this.#unclear === 0 ? !isRemote : isRemote;
  }
}

export const predicted = definePlugin<'disaggregation-policy', PredictedConfig>({
  kind: 'disaggregation-policy',
  contract: 'v1',
  name: 'predicted',
  description: 'Each prompt is computed where its first token is predicted to come sooner, from live loads and measured prefill and transfer times.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      whenNoPrefillWorker: { enum: ['fail', 'local'], default: 'local', description: 'When no prefill worker is ready: refuse the request, or let the decode worker compute the prompt. Counted and recorded either way.' },
      decodeWeight: { type: 'number', minimum: 0, maximum: 100, default: 1.25, description: 'What a millisecond of prefill on a decode worker counts: above 1, because running answers wait meanwhile.' },
      maxLocalTokens: { type: 'integer', minimum: 0, default: 512, description: 'Until enough was measured: prompts with fewer uncached tokens stay local.' },
      exploreEvery: { type: 'integer', minimum: 0, maximum: 1_000_000, default: 64, description: 'Every so many decisions between near equals one goes the other way, so that both ways stay measured; 0 = never.' },
    },
  },
  create: (config) => new PredictedPolicy(config),
});
