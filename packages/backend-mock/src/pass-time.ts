import type { StepBatch } from '@armature/engine-core';
import type { PassTiming } from '@armature/fleet-model';
import type { MockConfig } from './config.ts';

/** No decode pass is faster. */
const DECODE_FLOOR_MS = 1;

/**
 * Time of a pass. With t new prompt tokens and KV utilisation u: prefill(t) = a·t² + b·t + c if any, plus max(1, decode(u)) if any sequence
 * decodes, divided by the speedups. Formula and coefficients: Dynamo's mocker. `measured` takes their place.
 */
export function passMs(batch: StepBatch, config: MockConfig, blockSize: number, measured?: PassTiming): number {
  if (config.speedup === 0) return 0;
  let promptTokens = 0;
  let decodes = 0;
  let contextTokens = 0;
  let decodeTokens = 0;
  for (let i = 0; i < batch.sequenceCount; i++) {
    const tokens = batch.queryLengths[i];
    if (tokens > 1 || batch.samples[i] === 0) promptTokens += tokens;
    else {
      decodes++;
      decodeTokens += batch.contextLengths[i];
    }
    contextTokens += batch.contextLengths[i];
  }
  if (measured !== undefined) return measured.passMs(promptTokens, decodes, decodeTokens) / config.speedup;
  const [a, b, c] = config.prefillCoefficients;
  const prefillMs = promptTokens === 0 ? 0 : (a * promptTokens + b) * promptTokens + c;
  return prefillMs / config.speedup + decodePassMs(decodes, contextTokens, config, blockSize);
}

/** Of a pass that only decodes; all its sequences together hold `contextTokens`. */
export function decodePassMs(sequences: number, contextTokens: number, config: MockConfig, blockSize: number, measured?: PassTiming): number {
  if (sequences === 0) return 0;
  if (measured !== undefined) return measured.passMs(0, sequences, contextTokens) / config.speedup;
  const utilisation = Math.min(1, contextTokens / blockSize / config.totalBlocks);
  const [d, e, f] = config.decodeCoefficients;
  return Math.max(DECODE_FLOOR_MS, (d * utilisation + e) * utilisation + f) / config.decodeSpeedup / config.speedup;
}
