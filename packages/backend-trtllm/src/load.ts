import { objectOf, parseJson } from './lossless-json.ts';
import type { JsonValue } from './lossless-json.ts';

/** What the newest iterations in `/metrics` say, summed over the attention data-parallel ranks. */
export interface IterationStats {
  readonly running: number;
  readonly waiting: number;
  readonly usedBlocks: number;
  /** 0 = not said. */
  readonly totalBlocks: number;
  readonly blockSize: number | undefined;
  readonly paused: number;
}

/**
 * Newest of `/metrics`, a JSON list of iterations that is emptied by reading. Undefined: no iteration since, or statistics are off. Field names are those
 * of the C++ runtime (`IterationStats`), which the PyTorch runtime keeps. Throws `TRTLLM_ANSWER_INVALID`.
 */
export function parseIterations(text: string): IterationStats | undefined {
  const list = parseJson(text);
  if (!Array.isArray(list)) return undefined;
  const newest = new Map<number, Readonly<Record<string, JsonValue>>>();
  for (const value of list as readonly unknown[]) {
    // Some versions give each iteration as JSON text.
    const iteration = objectOf(typeof value === 'string' ? parseJson(value) : value);
    if (iteration !== undefined) newest.set(numberOf(iteration['attentionDpRank']), iteration);
  }
  if (newest.size === 0) return undefined;
  const sum = (read: (iteration: Readonly<Record<string, JsonValue>>) => number): number => [...newest.values()].reduce((total, iteration) => total + read(iteration), 0);
  const kv = (iteration: Readonly<Record<string, JsonValue>>): Readonly<Record<string, JsonValue>> => objectOf(iteration['kvCacheStats']) ?? {};
  const [first] = newest.values();
  return {
    running: sum((iteration) => numberOf(iteration['numActiveRequests'])),
    waiting: sum((iteration) => numberOf(iteration['numQueuedRequests'])),
    usedBlocks: sum((iteration) => numberOf(kv(iteration)['usedNumBlocks'])),
    totalBlocks: sum((iteration) => numberOf(kv(iteration)['maxNumBlocks'])),
    blockSize: first === undefined ? undefined : numberOf(kv(first)['tokensPerBlock']) || undefined,
    paused: sum((iteration) => numberOf(objectOf(iteration['inflightBatchingStats'])?.['numPausedRequests'])),
  };
}

function numberOf(value: JsonValue | undefined): number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : 0;
}
