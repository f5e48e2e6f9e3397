import { ArmatureError } from '@armature/contracts';
import type { ConfigReport, EngineAbilities, JsonSchema } from '@armature/contracts';
import { linearTiming, tableTiming } from '@armature/fleet-model';
import type { LinearTimingOptions, PassTiming, TimingTable } from '@armature/fleet-model';

/** a·x² + b·x + c */
export type Polynomial = readonly [number, number, number];

export interface MockConfig {
  readonly vocabSize: number;
  readonly maxModelTokens: number;
  readonly eosTokenIds: readonly number[];
  readonly eosProbability: number;
  readonly answerTokenIds: readonly number[];
  readonly totalBlocks: number;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  readonly maxWaiting: number;
  readonly speedup: number;
  readonly decodeSpeedup: number;
  readonly prefillCoefficients: Polynomial;
  readonly decodeCoefficients: Polynomial;
  readonly kvCheck: 'none' | 'blocks' | 'tokens';
  readonly firstToken: EngineAbilities['firstToken'];
  readonly startupMs: number;
  readonly stepTimeoutMs: number;
  readonly lookaheadMs: number;
  readonly adapters: readonly string[];
  /** Measured times, instead of the polynomials. */
  readonly timing?: MockTiming;
}

export interface MockTiming {
  readonly linear?: LinearTimingOptions;
  readonly table?: TimingTable;
}

const polynomial = (description: string, values: Polynomial): JsonSchema => ({
  type: 'array',
  items: { type: 'number' },
  minItems: 3,
  maxItems: 3,
  default: values,
  description,
});

const milliseconds = (description: string): JsonSchema => ({ type: 'number', minimum: 0, default: 0, description: `Milliseconds ${description}.` });
const axis = (description: string): JsonSchema => ({ type: 'array', minItems: 1, items: { type: 'number', minimum: 0 }, description });
const part = (description: string, fields: Record<string, JsonSchema>, required?: readonly string[]): JsonSchema => ({ type: 'object', additionalProperties: false, description, properties: fields, ...(required === undefined ? {} : { required: [...required] }) });

/** As another engine's passes were measured: what they were fitted by, or the points themselves. */
const timingSchema: JsonSchema = { default: {}, ...part('Pass times as measured, instead of the coefficients; `linear` or `table`.', {
  linear: part('The regression of a pass over what it computes.', {
    prefillMsPerToken: milliseconds('per prompt token'),
    prefillMs: milliseconds('of a pass that computes any'),
    decodeMsPerSequence: milliseconds('per decoding sequence'),
    decodeMsPerContextToken: milliseconds('per KV token that they hold'),
    decodeMs: milliseconds('of a pass that decodes'),
  }),
  table: part(
    'Points, with lines between and beyond them.',
    {
      prefill: part('Passes that compute prompts.', { tokens: axis('Prompt tokens, ascending.'), ms: axis('Milliseconds.') }, ['tokens', 'ms']),
      decode: part(
        'Passes that decode.',
        { sequences: axis('Sequences, ascending.'), contextTokens: axis('KV tokens that they hold together, ascending.'), ms: { type: 'array', minItems: 1, items: axis('One row per number of sequences.'), description: 'Milliseconds.' } },
        ['sequences', 'contextTokens', 'ms'],
      ),
    },
    ['prefill', 'decode'],
  ),
}) };

/** Undefined: the polynomials. Throws `FLEET_TIMING_INVALID`. */
export function measuredTiming({ timing }: MockConfig): PassTiming | undefined {
  if (timing?.linear !== undefined) return linearTiming(timing.linear);
  return timing?.table === undefined ? undefined : tableTiming(timing.table);
}

/** Sizes and times default to those of Dynamo 1.6.1's mocker. */
const properties = {
  vocabSize: { type: 'integer', minimum: 2, default: 32_000, description: 'Token ids are below this.' },
  maxModelTokens: { type: 'integer', minimum: 2, default: 131_072, description: 'Context length in tokens.' },
  eosTokenIds: { type: 'array', items: { type: 'integer', minimum: 0 }, default: [], description: 'Tokens that end an answer; never drawn unless `eosProbability` or `answerTokenIds` is set.' },
  eosProbability: { type: 'number', minimum: 0, maximum: 1, default: 0, description: 'Share of tokens that are the first end-of-sequence token.' },
  answerTokenIds: {
    type: 'array',
    items: { type: 'integer', minimum: 0 },
    default: [],
    description: 'Every answer: these tokens, then end of sequence, or the same again without one. Empty: tokens are drawn.',
  },
  totalBlocks: { type: 'integer', minimum: 1, default: 16_384, description: 'KV blocks.' },
  maxSequences: { type: 'integer', minimum: 1, default: 256, description: 'Sequences in one pass.' },
  maxBatchedTokens: { type: 'integer', minimum: 1, default: 8192, description: 'Tokens in one pass; longer prompts are computed in chunks.' },
  maxWaiting: { type: 'integer', minimum: 1, default: 100_000, description: 'Requests that may wait; more are refused with ENGINE_OVERLOADED.' },
  speedup: { type: 'number', minimum: 0, default: 1, description: 'Divides the time of a pass; 0 = each pass takes one turn of the event loop.' },
  decodeSpeedup: { type: 'number', exclusiveMinimum: 0, default: 1, description: 'Divides the decode part further (speculative decoding).' },
  prefillCoefficients: polynomial('Milliseconds of t new prompt tokens in a pass: a·t² + b·t + c, as [a, b, c].', [4.209989e-7, 1.518344e-2, 16.50142]),
  decodeCoefficients: polynomial('Milliseconds of a decode pass at KV utilisation u: a·u² + b·u + c, as [a, b, c]; at least 1 ms.', [-25.74, 54.01, 5.74]),
  kvCheck: {
    enum: ['none', 'blocks', 'tokens'],
    default: 'blocks',
    description: 'What is checked of a running sequence in each pass: the end of every block, or every token; at admission every token. none: blocks hold nothing, as simulations of large clusters need it.',
  },
  firstToken: { enum: ['prefill', 'decode'], default: 'prefill', description: 'Which worker samples the first token of a disaggregated request.' },
  startupMs: { type: 'number', minimum: 0, default: 0, description: 'Milliseconds that loading the model takes.' },
  stepTimeoutMs: { type: 'number', exclusiveMinimum: 0, default: 600_000, description: 'Milliseconds after which a pass counts as stuck and the engine fails.' },
  lookaheadMs: {
    type: 'number',
    minimum: 0,
    default: 0,
    description: 'Passes of so many milliseconds are done at once while the batch does not change: same times, fewer events, tokens delivered together. For simulations, with kvCheck: none. 0 = one by one.',
  },
  adapters: {
    type: 'array',
    items: { type: 'string', minLength: 1, maxLength: 256 },
    default: [],
    description: 'LoRA adapters it pretends to have, by name: each gives other tokens, and other KV, than the base model and the others.',
  },
} as const;

export const mockSchema: JsonSchema & { readonly properties: typeof properties & { readonly timing: JsonSchema } } = { type: 'object', additionalProperties: false, properties: { ...properties, timing: timingSchema } };

/** The configuration that an empty `config:` gives. */
export const mockDefaults: MockConfig = Object.fromEntries(Object.entries(properties).map(([field, schema]) => [field, schema.default])) as unknown as MockConfig;

/** Token ids must be in the vocabulary. */
export function checkMockConfig(config: MockConfig, report: ConfigReport): void {
  try {
    measuredTiming(config);
  } catch (error) {
    const { message, hint } = ArmatureError.from(error);
    report({ path: ['timing'], message, ...(hint === undefined ? {} : { hint }) });
  }
  for (const field of ['eosTokenIds', 'answerTokenIds'] as const) {
    config[field].forEach((token, i) => {
      if (token >= config.vocabSize) report({ path: [field, i], message: `token ${token} is not below vocabSize ${config.vocabSize}`, hint: 'raise vocabSize, or name another token' });
    });
  }
  config.adapters.forEach((name, i) => {
    if (config.adapters.indexOf(name) < i) report({ path: ['adapters', i], message: `adapter "${name}" is named twice`, hint: 'name each once' });
  });
  if (config.lookaheadMs > 0 && config.kvCheck !== 'none') {
    report({ path: ['lookaheadMs'], message: 'blocks whose content is checked are computed pass by pass', hint: 'set kvCheck: none, or leave lookaheadMs out' });
  }
  if (config.eosProbability > 0 && config.eosTokenIds.length === 0) {
    report({ path: ['eosProbability'], message: 'there is no end-of-sequence token to draw', hint: 'set eosTokenIds' });
  }
}
