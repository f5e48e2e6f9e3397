import type { JsonSchema } from '@armature/contracts';

export interface MockConfig {
  readonly vocabSize: number;
  readonly maxModelTokens: number;
  readonly eosTokenIds: readonly number[];
  readonly eosProbability: number;
  readonly totalBlocks: number;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  readonly maxWaiting: number;
  readonly speedup: number;
  readonly decodeSpeedup: number;
  readonly prefillCoefficients: readonly [number, number, number];
  readonly decodeCoefficients: readonly [number, number, number];
}

const polynomial = (description: string, values: readonly number[]): JsonSchema => ({
  type: 'array',
  items: { type: 'number' },
  minItems: 3,
  maxItems: 3,
  default: values,
  description,
});

/** Defaults of Dynamo 1.6.1's mocker. */
export const mockSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    vocabSize: { type: 'integer', minimum: 2, default: 32_000, description: 'Token ids are below this.' },
    maxModelTokens: { type: 'integer', minimum: 2, default: 131_072, description: 'Context length in tokens.' },
    eosTokenIds: { type: 'array', items: { type: 'integer' }, default: [], description: 'Tokens that end an answer; never drawn unless `eosProbability` is set.' },
    eosProbability: { type: 'number', minimum: 0, maximum: 1, default: 0, description: 'Share of tokens that are the first end-of-sequence token.' },
    totalBlocks: { type: 'integer', minimum: 1, default: 16_384, description: 'KV blocks.' },
    maxSequences: { type: 'integer', minimum: 1, default: 256, description: 'Sequences in one pass.' },
    maxBatchedTokens: { type: 'integer', minimum: 1, default: 8192, description: 'Tokens in one pass.' },
    maxWaiting: { type: 'integer', minimum: 0, default: 100_000, description: 'Requests that may wait; more are refused.' },
    speedup: { type: 'number', minimum: 0, default: 1, description: 'Divides the time of a pass; 0 = each pass takes one turn of the event loop.' },
    decodeSpeedup: { type: 'number', exclusiveMinimum: 0, default: 1, description: 'Divides the decode part further (speculative decoding).' },
    prefillCoefficients: polynomial('Milliseconds of t new prompt tokens in a pass: a·t² + b·t + c, as [a, b, c].', [4.209989e-7, 1.518344e-2, 16.50142]),
    decodeCoefficients: polynomial('Milliseconds of a decode pass at KV utilisation u: a·u² + b·u + c, as [a, b, c]; at least 1 ms.', [-25.74, 54.01, 5.74]),
  },
};
