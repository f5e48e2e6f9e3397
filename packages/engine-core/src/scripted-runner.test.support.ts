import type { Clock, EngineRequest, EngineSink, ErrorData, InferenceEnd, KvArena, KvEvent, Logger, PrefillHandover } from '@armature/contracts';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { EngineCore } from './engine-core.ts';
import type { EngineCoreOptions } from './engine-core.ts';
import type { ModelRunner, ModelRunnerInfo, SamplingSetup, StepBatch, StepResult } from './model-runner.ts';

export const BLOCK_SIZE = 4;
export const EOS = 99;

/** One row of a pass: which prompt (its first token), tokens computed, tokens before, whether one is sampled. */
export interface Row {
  readonly who: number;
  readonly tokens: number;
  readonly context: number;
  readonly samples: boolean;
  readonly blocks: number[];
}

/** Passes of 1 ms; every token is 50 + output index, unless `next` says otherwise. Logs every pass. */
export class ScriptedRunner implements ModelRunner {
  readonly info: ModelRunnerInfo;
  readonly passes: Row[][] = [];
  readonly open = new Map<number, SamplingSetup>();
  next: (row: Row, outputIndex: number) => number = (_row, outputIndex) => 50 + outputIndex;
  /** Passes do not end while it is true. */
  isHeld = false;
  /** What the next pass ends with. */
  error: ErrorData | undefined = undefined;
  throws = false;
  opensThrow = false;
  closing: Promise<void> | undefined = undefined;
  rowErrors: Map<number, ErrorData> | undefined = undefined;
  finish: (() => void) | undefined = undefined;
  readonly #clock: Clock;

  constructor(clock: Clock, totalBlocks: number) {
    this.#clock = clock;
    this.info = { modelFingerprint: 'scripted', vocabSize: 100, maxModelTokens: 64, eosTokenIds: [EOS], blockSize: BLOCK_SIZE, totalBlocks };
  }
  async start(): Promise<void> {
    return undefined;
  }
  openSequence(setup: SamplingSetup): void {
    if (this.opensThrow) throw new Error('runner');
    if (this.open.has(setup.slot)) throw new Error(`slot ${setup.slot} is open`);
    this.open.set(setup.slot, setup);
  }
  closeSequence(slot: number): void {
    if (!this.open.delete(slot)) throw new Error(`slot ${slot} is not open`);
  }
  step(batch: StepBatch, done: (result: StepResult | undefined, error: ErrorData | undefined) => void): void {
    if (this.throws) throw new Error('runner');
    const rows = Array.from({ length: batch.sequenceCount }, (_, i) => {
      const [tokens, context] = [batch.queryLengths[i], batch.contextLengths[i]];
      const from = i * batch.maxBlocksPerSequence;
      const blocks = [...batch.blockTable.slice(from, from + Math.ceil((tokens + context) / BLOCK_SIZE))];
      return { who: this.open.get(batch.slots[i])!.promptTokenIds[0], tokens, context, samples: batch.samples[i] === 1, blocks };
    });
    this.passes.push(rows);
    const tokenIds = Int32Array.from(rows, (row, i) => this.next(row, batch.outputIndexes[i]));
    const floats = new Float32Array(rows.length);
    this.finish = () => {
      const { error, rowErrors } = this;
      this.rowErrors = undefined;
      if (error !== undefined) done(undefined, error);
      else done({ tokenIds, logprobs: floats, topTokenIds: tokenIds, topLogprobs: floats, maxTopLogprobs: 0, rowErrors }, undefined);
    };
    if (!this.isHeld) this.#clock.setTimer(1, this.finish);
  }
  arena(): KvArena {
    return { segments: [], blockStrideBytes: 0, pieces: 0, pieceBytes: 0, pieceStrideBytes: 0, layoutFingerprint: '' };
  }
  async close(): Promise<void> {
    await this.closing;
  }
}

/** One prompt token, one output token, greedy. */
export const plainRequest: EngineRequest = {
  id: 'plain',
  leg: 'full',
  tokenIds: Int32Array.of(1),
  promptTokens: 1,
  sequenceHashes: new Int32Array(0),
  cacheSalt: '',
  sampling: { temperature: 0, topP: 1, topK: 0, minP: 0, seedLo: 0, seedHi: 0, frequencyPenalty: 0, presencePenalty: 0, repetitionPenalty: 1, biasTokenIds: new Int32Array(0), biasValues: new Float32Array(0), topLogprobs: -1 },
  stop: { maxTokens: 1, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: false },
  choices: 1,
  firstTokens: undefined,
  priority: 0,
  kvSource: undefined,
  leaseTtlMs: 100,
};

/** What a request was told. */
export interface Told {
  readonly tokens: number[][];
  readonly calls: string[];
  readonly handovers: PrefillHandover[];
  end: InferenceEnd | undefined;
  handle: object;
}

export class Bench {
  readonly clock = new ManualClock();
  readonly runner: ScriptedRunner;
  readonly engine: EngineCore;
  readonly events: KvEvent[] = [];
  readonly warnings: unknown[] = [];
  onEvent: ((event: KvEvent) => void) | undefined = undefined;

  constructor(options: Partial<EngineCoreOptions> & { readonly totalBlocks?: number } = {}) {
    const { totalBlocks = 32, ...rest } = options;
    this.runner = new ScriptedRunner(this.clock, totalBlocks);
    const note = (_message: string, fields?: Readonly<Record<string, unknown>>): void => void this.warnings.push(fields?.['code']);
    const log: Logger = { debug: note, info: note, warn: note, error: note, child: () => log, isEnabled: () => true };
    this.engine = new EngineCore({ runner: this.runner, clock: this.clock, log, maxSequences: 8, maxBatchedTokens: 16, maxWaiting: 100, stepTimeoutMs: 1000, ...rest });
    this.engine.onKvEvent((event) => {
      this.events.push(event);
      this.onEvent?.(event);
    });
  }

  static async started(options: Partial<EngineCoreOptions> & { readonly totalBlocks?: number } = {}): Promise<Bench> {
    const bench = new Bench(options);
    await bench.engine.start();
    return bench;
  }

  /** A prompt of `length` tokens that begins with `who`. */
  ask(who: number, length: number, overrides: Partial<Omit<EngineRequest, 'stop'>> & { readonly maxTokens?: number; readonly stop?: Partial<EngineRequest['stop']> } = {}, sink: Partial<EngineSink> = {}): Told {
    const { maxTokens = 1, stop, ...rest } = overrides;
    const tokenIds = Int32Array.from({ length }, (_, i) => (i === 0 ? who : (who + i) % 40));
    const told: Told = { tokens: Array.from({ length: Math.max(1, rest.choices ?? 1) }, () => []), calls: [], handovers: [], end: undefined, handle: {} };
    const request: EngineRequest = { ...plainRequest, id: `r${who}`, tokenIds, promptTokens: length, stop: { ...plainRequest.stop, maxTokens, ...stop }, ...rest };
    told.handle = this.engine.submit(request, {
      tokens: (batch) => {
        told.calls.push('tokens');
        for (let i = 0; i < batch.count; i++) told.tokens[batch.choices?.[i] ?? 0].push(batch.tokenIds[i]);
        sink.tokens?.(batch);
      },
      prefilled: (handover) => {
        told.calls.push(`prefilled ${handover.tokens}`);
        told.handovers.push(handover);
        sink.prefilled?.(handover);
      },
      end: (end, eventId) => {
        told.calls.push(end.type === 'failed' ? end.error.code : end.type);
        told.end = end;
        sink.end?.(end, eventId);
      },
    });
    return told;
  }

  /** `who:tokens@context` of each row of each pass. */
  get log(): string[] {
    return this.runner.passes.map((rows) => rows.map(({ who, tokens, context }) => `${who}:${tokens}@${context}`).join(' '));
  }

  async run(ms = 1000): Promise<void> {
    await this.clock.elapse(ms);
  }
}
