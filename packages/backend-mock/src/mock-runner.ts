import type { Clock, Counter, ErrorData, KvArena, Logger, Timer } from '@armature/contracts';
import { uniformDraw } from '@armature/engine-core';
import type { PassTiming } from '@armature/fleet-model';
import { saltHash } from '@armature/tokens';
import type { ModelRunner, ModelRunnerInfo, SamplingSetup, StepBatch, StepResult } from '@armature/engine-core';
import { measuredTiming } from './config.ts';
import type { MockConfig } from './config.ts';
import { LookAhead } from './look-ahead.ts';
import { MockKv, emptyArena, mix } from './mock-kv.ts';
import { decodePassMs, passMs } from './pass-time.ts';

const MAX_TOP = 20;
/** Done at once, at most. */
export const MAX_PASSES = 256;
/** Each alternative is this much less likely than the one before: all together stay below 1. */
const LOG_FALL = Math.log(0.45);
const NO_TOKENS = new Int32Array(0);

export interface MockRunnerOptions {
  readonly config: MockConfig;
  readonly blockSize: number;
  readonly clock: Clock;
  readonly log: Logger;
  /** Blocks found not to hold what the sequence put there. */
  readonly corruptions: Counter;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
type StepDone = Parameters<ModelRunner['step']>[1];

/**
 * A made-up model. The next token follows from all tokens before it (read from the KV), the seed, the choice and the output index; a
 * sequence whose KV is not what its tokens lead to fails. Time comes from a formula, on the injected clock.
 */
export class MockRunner implements ModelRunner {
  readonly info: ModelRunnerInfo;
  readonly #options: MockRunnerOptions;
  /** Undefined: blocks hold nothing. */
  readonly #kv: MockKv | undefined;
  readonly #ahead: LookAhead | undefined;
  readonly #setups: (SamplingSetup | undefined)[];
  /** Per slot: makes the adapter's tokens and KV its own; 0 for the base model. */
  readonly #seeds: Int32Array;
  readonly #result: Omit<Mutable<StepResult>, 'rowErrors'> & { rowErrors: Map<number, ErrorData> | undefined };
  readonly #measured: PassTiming | undefined;
  readonly #onPassed: () => void;
  #batch: StepBatch | undefined;
  #done: StepDone | undefined;
  #timer: Timer | undefined;
  #isClosed: boolean;

  constructor(options: MockRunnerOptions) {
    const { config, blockSize } = options;
    const { maxSequences, totalBlocks, vocabSize, maxModelTokens, eosTokenIds, adapters } = config;
    this.info = { modelFingerprint: `mock-${vocabSize}`, vocabSize, maxModelTokens, eosTokenIds, blockSize, totalBlocks, ...(adapters.length === 0 ? {} : { adapters }) };
    this.#options = options;
    this.#kv = config.kvCheck === 'none' ? undefined : new MockKv(totalBlocks, blockSize, maxSequences);
    this.#ahead = config.lookaheadMs > 0 ? new LookAhead(config.lookaheadMs, MAX_PASSES) : undefined;
    this.#setups = Array.from({ length: maxSequences }, () => undefined);
    this.#seeds = new Int32Array(maxSequences);
    this.#result = {
      tokenIds: new Int32Array(maxSequences),
      logprobs: new Float32Array(maxSequences),
      topTokenIds: new Int32Array(maxSequences * MAX_TOP),
      topLogprobs: new Float32Array(maxSequences * MAX_TOP),
      maxTopLogprobs: MAX_TOP,
      passes: 1,
      rowErrors: undefined,
    };
    this.#measured = measuredTiming(config);
    this.#onPassed = () => this.#passed();
    this.#batch = undefined;
    this.#done = undefined;
    this.#timer = undefined;
    this.#isClosed = false;
  }

  async start(): Promise<void> {
    const { clock, config } = this.#options;
    if (config.startupMs > 0) await clock.sleep(config.startupMs);
  }

  openSequence(setup: SamplingSetup): void {
    const seed = setup.adapter === undefined ? 0 : saltHash({ lora: setup.adapter }).lo;
    this.#setups[setup.slot] = setup;
    this.#seeds[setup.slot] = seed;
    this.#kv?.open(setup, seed);
  }

  closeSequence(slot: number): void {
    this.#setups[slot] = undefined;
    this.#kv?.close(slot);
  }

  arena(): KvArena {
    const fingerprint = `mock-${this.info.vocabSize}-${this.info.blockSize}`;
    return this.#kv === undefined ? emptyArena(this.info.totalBlocks, `${fingerprint}-empty`) : this.#kv.arena(fingerprint);
  }

  step(batch: StepBatch, done: StepDone): void {
    const { clock, config, blockSize } = this.#options;
    this.#batch = batch;
    this.#done = done;
    if (this.#ahead !== undefined && batch.maxPasses !== undefined && batch.maxPasses > 1) {
      const endsAtMs = this.#ahead.plan(batch, clock.nowMs(), (sequences, contextTokens) => decodePassMs(sequences, contextTokens, config, blockSize, this.#measured));
      this.#timer = clock.setTimer(endsAtMs - clock.nowMs(), this.#onPassed);
      return;
    }
    const durationMs = passMs(batch, config, blockSize, this.#measured);
    if (durationMs === 0) clock.defer(this.#onPassed);
    else this.#timer = clock.setTimer(durationMs, this.#onPassed);
  }

  interrupt(): void {
    const { clock } = this.#options;
    const endsAtMs = this.#ahead?.shorten(clock.nowMs());
    if (endsAtMs === undefined || this.#timer === undefined) return;
    clock.clearTimer(this.#timer);
    this.#timer = clock.setTimer(endsAtMs - clock.nowMs(), this.#onPassed);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  #passed(): void {
    const batch = this.#batch;
    const done = this.#done;
    this.#timer = undefined;
    this.#batch = undefined;
    this.#done = undefined;
    if (this.#isClosed || batch === undefined || done === undefined) return;
    this.#result.rowErrors = undefined;
    this.#result.passes = 1;
    if (this.#kv === undefined) this.#passEmpty(batch);
    else this.#pass(batch, this.#kv);
    done(this.#result, undefined);
  }

  /** Blocks hold nothing: a token follows from adapter, seed, choice and output index. */
  #passEmpty(batch: StepBatch): void {
    const count = batch.sequenceCount;
    const passes = this.#ahead?.take() ?? 1;
    this.#result.passes = passes;
    if (this.#result.tokenIds.length < passes * count) this.#result.tokenIds = new Int32Array(passes * count * 2);
    for (let row = 0; row < count; row++) {
      if (batch.samples[row] !== 1) continue;
      const index = batch.outputIndexes[row];
      if (passes === 1) {
        this.#sample(batch, row, index ^ this.#seeds[batch.slots[row]]);
        continue;
      }
      const setup = this.#setups[batch.slots[row]];
      const seed = this.#seeds[batch.slots[row]];
      for (let pass = 0; pass < passes; pass++) this.#result.tokenIds[pass * count + row] = this.#draw((index + pass) ^ seed, index + pass, setup);
    }
  }

  #pass(batch: StepBatch, kv: MockKv): void {
    let from = 0;
    for (let row = 0; row < batch.sequenceCount; row++) {
      const count = batch.queryLengths[row];
      if (this.#isIntact(batch, row, kv)) {
        const value = kv.compute(batch, row, from, count);
        if (batch.samples[row] === 1) this.#sample(batch, row, value);
      }
      from += count;
    }
  }

  /** Reads the sequence's KV as a real model would, and notices what a real one cannot. */
  #isIntact(batch: StepBatch, row: number, kv: MockKv): boolean {
    const { config, corruptions, log } = this.#options;
    const corruption = kv.check(batch, row, config.kvCheck === 'tokens');
    if (corruption === undefined) return true;
    const message = `KV block ${corruption.block} does not hold what this sequence computed up to token ${corruption.position}`;
    corruptions.inc();
    log.error(message, { code: 'ENGINE_KV_CORRUPT', ...corruption });
    this.#result.rowErrors ??= new Map();
    this.#result.rowErrors.set(row, { code: 'ENGINE_KV_CORRUPT', message, hint: 'a transfer or an eviction wrote into a block in use', retryable: true });
    return false;
  }

  #sample(batch: StepBatch, row: number, value: number): void {
    const setup = this.#setups[batch.slots[row]];
    const token = this.#draw(value, batch.outputIndexes[row], setup);
    this.#result.tokenIds[row] = token;
    if (setup !== undefined && setup.topLogprobs >= 0) this.#explain(row, token, value, setup.topLogprobs);
  }

  #draw(value: number, index: number, setup: SamplingSetup | undefined): number {
    const draw = setup !== undefined && setup.temperature > 0 ? uniformDraw(setup.seedLo, setup.seedHi, setup.choice, index) : 0;
    return this.#token(mix(value, Math.floor(draw * 0x7fffffff)), index, setup);
  }

  /** A likely token, and each alternative less likely than the one before. */
  #explain(row: number, token: number, value: number, wanted: number): void {
    const { vocabSize } = this.#options.config;
    const result = this.#result;
    const logprob = Math.log(0.3 + 0.25 * ((value >>> 8) / 0x1000000));
    result.logprobs[row] = logprob;
    for (let k = 0; k < wanted; k++) {
      result.topTokenIds[row * MAX_TOP + k] = k < vocabSize ? (token + k) % vocabSize : -1;
      result.topLogprobs[row * MAX_TOP + k] = logprob + k * LOG_FALL;
    }
  }

  #token(value: number, index: number, setup: SamplingSetup | undefined): number {
    const { vocabSize, eosTokenIds, eosProbability, answerTokenIds } = this.#options.config;
    const eos = eosTokenIds.length > 0 ? eosTokenIds[0] : -1;
    const mayEnd = setup !== undefined && index >= setup.minTokens;
    if (answerTokenIds.length > 0) {
      const period = eos === -1 ? answerTokenIds.length : answerTokenIds.length + 1;
      const at = index % period;
      return at < answerTokenIds.length ? answerTokenIds[at] : eos;
    }
    if (eos !== -1 && mayEnd && (value & 0xffff) / 0x10000 < eosProbability) return eos;
    const banned = mayEnd || setup === undefined ? NO_TOKENS : setup.bannedBeforeMinTokens;
    let token = (mix(value, 1) >>> 0) % vocabSize;
    for (let tries = 0; tries < vocabSize && (eosTokenIds.includes(token) || banned.includes(token)); tries++) token = (token + 1) % vocabSize;
    return token;
  }
}
