import type { Clock, Counter, ErrorData, KvArena, Logger, Timer } from '@armature/contracts';
import { uniformDraw } from '@armature/engine-core';
import type { ModelRunner, ModelRunnerInfo, SamplingSetup, StepBatch, StepResult } from '@armature/engine-core';
import type { MockConfig } from './config.ts';

const MAX_TOP = 20;
const START = 0x5bd1e995;

export interface MockRunnerOptions {
  readonly config: MockConfig;
  readonly blockSize: number;
  readonly clock: Clock;
  readonly log: Logger;
  /** Blocks found not to hold what the sequence put there. */
  readonly corruptions: Counter;
}

/**
 * A model whose "KV" of a token is a 32-bit value mixed from the value before it and the token. The next token is drawn from the last
 * value, so a lost, stale, foreign or torn block changes the output; and when a sequence is admitted with KV in place every value
 * is checked against its tokens. Time comes from polynomials on the injected clock.
 */
export class MockRunner implements ModelRunner {
  readonly info: ModelRunnerInfo;
  readonly #options: MockRunnerOptions;
  readonly #kv: Int32Array;
  readonly #sequences: (SamplingSetup | undefined)[];
  /** Per slot: its context has been checked. */
  readonly #checked: Uint8Array;
  readonly #result: StepResult;
  #timer: Timer | undefined;
  #isClosed = false;

  constructor(options: MockRunnerOptions) {
    const { config, blockSize } = options;
    this.#options = options;
    this.info = {
      modelFingerprint: `mock-${config.vocabSize}`,
      vocabSize: config.vocabSize,
      maxModelTokens: config.maxModelTokens,
      eosTokenIds: config.eosTokenIds,
      blockSize,
      totalBlocks: config.totalBlocks,
    };
    this.#kv = new Int32Array(new SharedArrayBuffer(config.totalBlocks * blockSize * 4));
    this.#sequences = Array.from({ length: config.maxSequences }, () => undefined);
    this.#checked = new Uint8Array(config.maxSequences);
    this.#result = {
      tokenIds: new Int32Array(config.maxSequences),
      logprobs: new Float32Array(config.maxSequences),
      topTokenIds: new Int32Array(config.maxSequences * MAX_TOP),
      topLogprobs: new Float32Array(config.maxSequences * MAX_TOP),
      maxTopLogprobs: MAX_TOP,
    };
  }

  async start(): Promise<void> {
    return undefined;
  }

  openSequence(setup: SamplingSetup): void {
    this.#sequences[setup.slot] = setup;
    this.#checked[setup.slot] = 0;
  }

  closeSequence(slot: number): void {
    this.#sequences[slot] = undefined;
  }

  arena(): KvArena {
    const bytes = this.info.blockSize * 4;
    return {
      segments: [{ buffer: this.#kv.buffer as SharedArrayBuffer, byteOffset: 0, lengthBytes: this.#kv.byteLength }],
      blockStrideBytes: bytes,
      pieces: 1,
      pieceBytes: bytes,
      pieceStrideBytes: bytes,
      layoutFingerprint: `mock-${this.info.vocabSize}-${this.info.blockSize}`,
    };
  }

  step(batch: StepBatch, done: (result: StepResult | undefined, error: ErrorData | undefined) => void): void {
    const { clock } = this.#options;
    const finish = (): void => {
      this.#timer = undefined;
      if (this.#isClosed) return;
      this.#compute(batch);
      done(this.#result, undefined);
    };
    const durationMs = this.#durationMs(batch);
    if (durationMs === 0) clock.defer(finish);
    else this.#timer = clock.setTimer(durationMs, finish);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
  }

  #durationMs(batch: StepBatch): number {
    const { config, blockSize } = this.#options;
    if (config.speedup === 0) return 0;
    let prefillTokens = 0;
    let decodes = 0;
    let contextTokens = 0;
    for (let i = 0; i < batch.sequenceCount; i++) {
      if ((batch.queryLengths[i] as number) > 1 || batch.samples[i] === 0) prefillTokens += batch.queryLengths[i] as number;
      else decodes++;
      contextTokens += batch.contextLengths[i] as number;
    }
    const used = Math.min(1, contextTokens / blockSize / config.totalBlocks);
    const [a, b, c] = config.prefillCoefficients;
    const [d, e, f] = config.decodeCoefficients;
    const prefillMs = prefillTokens === 0 ? 0 : a * prefillTokens * prefillTokens + b * prefillTokens + c;
    const decodeMs = decodes === 0 ? 0 : Math.max(1, d * used * used + e * used + f) / config.decodeSpeedup;
    return (prefillMs + decodeMs) / config.speedup;
  }

  #compute(batch: StepBatch): void {
    let at = 0;
    for (let row = 0; row < batch.sequenceCount; row++) {
      const tokens = batch.queryLengths[row] as number;
      const context = batch.contextLengths[row] as number;
      const table = row * batch.maxBlocksPerSequence;
      this.#check(batch, row, table, context);
      let value = context === 0 ? START : this.#read(batch, table, context - 1);
      for (let k = 0; k < tokens; k++) {
        value = mix(value, batch.tokenIds[at++] as number);
        this.#write(batch, table, context + k, value);
      }
      if (batch.samples[row] === 1) this.#sample(batch, row, value);
    }
  }

  /** Once per admission: every value that was there already must follow from the sequence's tokens. */
  #check(batch: StepBatch, row: number, table: number, context: number): void {
    const slot = batch.slots[row] as number;
    const setup = this.#sequences[slot];
    if (setup === undefined || this.#checked[slot] === 1) return;
    this.#checked[slot] = 1;
    let value = START;
    for (let p = 0; p < context; p++) {
      const { promptTokenIds: prompt, outputTokenIds: output } = setup;
      value = mix(value, (p < prompt.length ? prompt[p] : output[p - prompt.length]) as number);
      if (this.#read(batch, table, p) === value) continue;
      const { blockSize, corruptions, log } = this.#options;
      corruptions.inc();
      log.error('KV block does not hold what this sequence computed', { code: 'ENGINE_KV_CORRUPT', position: p, block: batch.blockTable[table + Math.floor(p / blockSize)] });
      return;
    }
  }

  #read(batch: StepBatch, table: number, position: number): number {
    const { blockSize } = this.#options;
    return this.#kv[(batch.blockTable[table + Math.floor(position / blockSize)] as number) * blockSize + (position % blockSize)] as number;
  }

  #write(batch: StepBatch, table: number, position: number, value: number): void {
    const { blockSize } = this.#options;
    this.#kv[(batch.blockTable[table + Math.floor(position / blockSize)] as number) * blockSize + (position % blockSize)] = value;
  }

  #sample(batch: StepBatch, row: number, value: number): void {
    const { config } = this.#options;
    const setup = this.#sequences[batch.slots[row] as number];
    const index = batch.outputIndexes[row] as number;
    const draw = setup !== undefined && setup.temperature > 0 ? uniformDraw(setup.seedLo, setup.seedHi, setup.choice, index) : 0;
    const token = this.#token(mix(value, Math.floor(draw * 0x7fffffff)), setup !== undefined && index >= setup.minTokens);
    const top = setup?.topLogprobs ?? -1;
    this.#result.tokenIds[row] = token;
    this.#result.logprobs[row] = -0.25 - (value >>> 24) / 256;
    for (let k = 0; k < MAX_TOP; k++) {
      this.#result.topTokenIds[row * MAX_TOP + k] = k >= top ? -1 : k === 0 ? token : (token + k) % config.vocabSize;
      this.#result.topLogprobs[row * MAX_TOP + k] = (this.#result.logprobs[row] as number) - k;
    }
  }

  #token(value: number, mayEnd: boolean): number {
    const { vocabSize, eosTokenIds, eosProbability } = this.#options.config;
    const eos = eosTokenIds[0];
    const bits = value >>> 0;
    if (eos !== undefined && mayEnd && (bits % 65_536) / 65_536 < eosProbability) return eos;
    let token = Math.floor((mix(value, 1) >>> 0) % vocabSize);
    while (eosTokenIds.includes(token)) token = (token + 1) % vocabSize;
    return token;
  }
}

function mix(value: number, token: number): number {
  let x = Math.imul(value ^ (value >>> 15), 0x2c1b3c6d) ^ Math.imul(token + 1, 0x297a2d39);
  x = Math.imul(x ^ (x >>> 12), 0x297a2d39);
  return x ^ (x >>> 15);
}
