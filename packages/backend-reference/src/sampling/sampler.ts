import { exp64, ln64 } from '../math/elementary.ts';
import type { SamplingSetup, StepResult } from '@armature/engine-core';
import { Candidates } from './candidates.ts';
import { uniformDraw } from '@armature/engine-core';

/** Passes over a whole vocabulary, by kernels or, in tests, in plain TypeScript. */
export interface VocabularyMath {
  /** Lowest id of the highest value; -1 when all are NaN. */
  argmax(values: Float32Array): number;
  /** Sum of e^(value - highest). */
  sumExponentials(values: Float32Array, highest: number): number;
  /** out = e^value. */
  exponentials(values: Float32Array, out: Float32Array): void;
}

/** Where the sampler works: kernels address these arrays by their byte offset. */
export interface SamplerMemory {
  readonly math: VocabularyMath;
  /** Each of the vocabulary's size. */
  readonly adjusted: Float32Array;
  readonly weights: Float32Array;
  readonly result: StepResult;
}

interface SlotState {
  readonly setup: SamplingSetup;
  /** Per token: times in the output; only with penalties. */
  readonly outputCounts: Map<number, number> | undefined;
  /** Tokens of prompt or output; only with a repetition penalty. */
  readonly seen: Set<number> | undefined;
  /** Chooses the highest raw logit, nothing else. */
  readonly plainGreedy: boolean;
}

function openState(setup: SamplingSetup): SlotState {
  const counts = setup.frequencyPenalty !== 0 || setup.presencePenalty !== 0;
  const repeats = setup.repetitionPenalty !== 1;
  const bans = setup.minTokens > 0 && setup.bannedBeforeMinTokens.length > 0;
  const outputCounts = counts ? new Map<number, number>() : undefined;
  if (outputCounts !== undefined) for (const id of setup.outputTokenIds) outputCounts.set(id, (outputCounts.get(id) ?? 0) + 1);
  return {
    setup,
    outputCounts,
    seen: repeats ? new Set([...setup.promptTokenIds, ...setup.outputTokenIds]) : undefined,
    plainGreedy: setup.temperature === 0 && !counts && !repeats && setup.biasTokenIds.length === 0 && !bans,
  };
}

/**
 * Chooses tokens from raw logits. Order: logit bias, penalties, bans until the minimum length, temperature, top-k, top-p, min-p, draw.
 * Logprobs are of the raw logits. All arithmetic is its own or plain IEEE, so equal input gives equal tokens on every machine.
 */
export class Sampler {
  /** By the engine core's numbers; sequences that wait after a preemption keep theirs, so there may be more than fit in a step. */
  readonly #slots: Map<number, SlotState>;
  readonly #math: VocabularyMath;
  readonly #result: StepResult;
  readonly #adjusted: Float32Array;
  readonly #weights: Float32Array;
  readonly #candidates: Candidates;

  constructor(memory: SamplerMemory) {
    this.#slots = new Map();
    this.#math = memory.math;
    this.#result = memory.result;
    this.#adjusted = memory.adjusted;
    this.#weights = memory.weights;
    this.#candidates = new Candidates(memory.adjusted.length);
  }

  open(setup: SamplingSetup): void {
    this.#slots.set(setup.slot, openState(setup));
  }

  close(slot: number): void {
    this.#slots.delete(slot);
  }

  /** Samples one token for `slot` and writes row `row` of the result. False: the slot is not open. */
  sample(slot: number, logits: Float32Array, outputIndex: number, row: number): boolean {
    const state = this.#slots.get(slot);
    if (state === undefined) return false;
    const chosen = state.plainGreedy ? this.#math.argmax(logits) : this.#choose(state, logits, outputIndex);
    // Only NaN logits (KV that was never written) leave nothing to choose; a token must be named, its logprob is NaN.
    const token = chosen < 0 ? 0 : chosen;
    this.#result.tokenIds[row] = token;
    state.seen?.add(token);
    state.outputCounts?.set(token, (state.outputCounts.get(token) ?? 0) + 1);
    this.#writeLogprobs(state.setup.topLogprobs, logits, token, row);
    return true;
  }

  #choose(state: SlotState, logits: Float32Array, outputIndex: number): number {
    const { setup } = state;
    const adjusted = this.#adjusted;
    adjusted.set(logits);
    adjust(adjusted, state, outputIndex);
    const best = this.#math.argmax(adjusted);
    if (setup.temperature === 0 || best < 0) return best;
    // Subtracting the highest first keeps e^x in range for small temperatures and makes the best candidate's weight 1.
    const highest = adjusted[best]!;
    for (let id = 0; id < adjusted.length; id++) adjusted[id] = (adjusted[id]! - highest) / setup.temperature;
    this.#math.exponentials(adjusted, this.#weights);
    const u = uniformDraw(setup.seedLo, setup.seedHi, setup.choice, outputIndex);
    if (setup.topK === 0 && setup.topP >= 1 && setup.minP === 0) return this.#drawFromAll(u);
    return this.#drawFiltered(setup, u);
  }

  /** Inverse of the cumulative distribution in the order of ids. */
  #drawFromAll(u: number): number {
    const weights = this.#weights;
    const target = u * total(weights);
    let sum = 0;
    let last = 0;
    for (let id = 0; id < weights.length; id++) {
      if (weights[id] === 0) continue;
      sum += weights[id]!;
      last = id;
      if (sum > target) return id;
    }
    return last; // rounding at the very end
  }

  /** Top-k, then top-p, then min-p, over candidates sorted best first; the draw walks them in that order. */
  #drawFiltered(setup: SamplingSetup, u: number): number {
    const { ids } = this.#candidates;
    const weights = this.#weights;
    const mass = this.#collect(setup);
    const wanted = setup.topP * mass;
    let kept = 0;
    let sum = 0;
    // The best weight is 1, so min-p, relative to the highest probability, compares with weights as they are.
    while (kept < this.#candidates.count && (kept === 0 || ((setup.topP >= 1 || sum < wanted) && weights[ids[kept]!]! >= setup.minP))) {
      sum += weights[ids[kept++]!]!;
    }
    const target = u * sum;
    let running = 0;
    for (let i = 0; i < kept; i++) {
      running += weights[ids[i]!]!;
      if (running > target) return ids[i]!;
    }
    return ids[kept - 1]!;
  }

  /** Candidates for top-p and min-p, sorted; returns the mass that top-p is a part of. */
  #collect(setup: SamplingSetup): number {
    const candidates = this.#candidates;
    const weights = this.#weights;
    const mass = (): number => {
      let sum = 0;
      for (let i = 0; i < candidates.count; i++) sum += weights[candidates.ids[i]!]!;
      return sum;
    };
    if (setup.topK > 0) {
      candidates.collectTop(this.#adjusted, setup.topK);
      return mass();
    }
    // Sorting only what is near the best is enough when that is all min-p lets through, or holds the mass of top-p.
    const all = total(weights);
    candidates.collect(this.#adjusted, NEAR);
    if (setup.minP > NEAR_WEIGHT || (setup.topP < 1 && mass() >= setup.topP * all)) return all;
    candidates.collect(this.#adjusted, -Number.MAX_VALUE);
    return all;
  }

  /** Log-softmax of the raw logits: of the token when `top` >= 0, and of the `top` best. */
  #writeLogprobs(top: number, logits: Float32Array, token: number, row: number): void {
    const { logprobs, topTokenIds, topLogprobs, maxTopLogprobs } = this.#result;
    const at = row * maxTopLogprobs;
    topTokenIds.fill(-1, at, at + maxTopLogprobs);
    logprobs[row] = 0;
    if (top < 0) return;
    const best = this.#math.argmax(logits);
    const highest = best < 0 ? NaN : logits[best]!;
    const logTotal = ln64(this.#math.sumExponentials(logits, highest));
    logprobs[row] = logits[token]! - highest - logTotal;
    if (top === 0) return;
    this.#candidates.collectTop(logits, Math.min(top, maxTopLogprobs));
    for (let i = 0; i < this.#candidates.count; i++) {
      const id = this.#candidates.ids[i]!;
      topTokenIds[at + i] = id;
      topLogprobs[at + i] = logits[id]! - highest - logTotal;
    }
  }
}

/** Candidates this far below the best (after temperature) are sorted only when needed. */
const NEAR = -12;
const NEAR_WEIGHT = exp64(-12) * 1.001;

/** Logit bias, penalties and bans, in place. */
function adjust(logits: Float32Array, state: SlotState, outputIndex: number): void {
  const { setup, seen, outputCounts } = state;
  for (let i = 0; i < setup.biasTokenIds.length; i++) {
    const id = setup.biasTokenIds[i]!;
    if (id >= 0 && id < logits.length) logits[id] = logits[id]! + setup.biasValues[i]!;
  }
  if (seen !== undefined) {
    for (const id of seen) logits[id] = logits[id]! > 0 ? logits[id]! / setup.repetitionPenalty : logits[id]! * setup.repetitionPenalty;
  }
  if (outputCounts !== undefined) {
    for (const [id, count] of outputCounts) logits[id] = logits[id]! - setup.frequencyPenalty * count - setup.presencePenalty;
  }
  if (outputIndex < setup.minTokens) for (const id of setup.bannedBeforeMinTokens) logits[id] = -Infinity;
}

function total(weights: Float32Array): number {
  let sum = 0;
  for (let id = 0; id < weights.length; id++) sum += weights[id]!;
  return sum;
}
