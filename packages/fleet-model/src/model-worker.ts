import { Fifo } from './fifo.ts';
import type { Sequence } from './sequence.ts';
import type { PassTiming } from './timing.ts';

export interface ModelWorkerOptions {
  readonly timing: PassTiming;
  readonly maxSequences: number;
  readonly maxBatchedTokens: number;
  /** KV capacity in tokens. */
  readonly kvTokens: number;
}

/** What a worker tells its fleet. */
export interface WorkerListener {
  /** The prompt is computed and the first token sampled; the sequence goes on in this worker when it says so. */
  prefilled(sequence: Sequence, atMs: number): 'stays' | 'leaves';
  finished(sequence: Sequence, atMs: number): void;
}

/** Passes that a worker remembers. */
const REMEMBERED = 16;
/** Decode passes are taken together up to this many: their context grows meanwhile. */
const MAX_RUN = 64;

/**
 * An engine with continuous batching, pass by pass: every decoding sequence gets a token, prompts fill the rest of `maxBatchedTokens`, oldest first. Passes in
 * which nothing changes are taken in one step. Decoding sequences wait in a heap by the pass that ends them, so that a pass costs O(1).
 */
export class ModelWorker {
  readonly #options: ModelWorkerOptions;
  /** Prompts waiting or being computed, oldest first. */
  readonly #prompts: Fifo<Sequence>;
  /** Prefilled elsewhere or here, waiting for a seat. */
  readonly #ready: Fifo<Sequence>;
  /** Min-heap by endsAtPass. */
  readonly #decoding: Sequence[];
  #pass: number;
  #contextTokens: number;
  #reservedTokens: number;
  #waitingTokens: number;
  #stepStartMs: number;
  #stepPasses: number;
  #stepPassMs: number;
  #stepPrefillTokens: number;
  /** Rows of prefill tokens, sequences, context tokens, milliseconds. */
  readonly #passes: Float64Array;
  #remembered: number;
  #generated: number;

  constructor(options: ModelWorkerOptions) {
    this.#options = options;
    this.#prompts = new Fifo();
    this.#ready = new Fifo();
    this.#decoding = [];
    this.#pass = 0;
    this.#contextTokens = 0;
    this.#reservedTokens = 0;
    this.#waitingTokens = 0;
    this.#stepStartMs = 0;
    this.#stepPasses = 0;
    this.#stepPassMs = 0;
    this.#stepPrefillTokens = 0;
    this.#passes = new Float64Array(4 * REMEMBERED);
    this.#remembered = 0;
    this.#generated = 0;
  }

  /** Prompt tokens to compute. */
  get prefillTokens(): number {
    return this.#waitingTokens;
  }
  get running(): number {
    return this.#decoding.length + Math.min(1, this.#prompts.length);
  }
  get waiting(): number {
    return this.#ready.length + Math.max(0, this.#prompts.length - 1);
  }
  /** KV tokens promised to sequences, those that still wait included. */
  get claimedTokens(): number {
    return this.#reservedTokens;
  }
  get isIdle(): boolean {
    return this.#prompts.length === 0 && this.#ready.length === 0 && this.#decoding.length === 0;
  }
  /** When the step in progress ends; Infinity when there is none. */
  get stepEndsMs(): number {
    return this.#stepPasses === 0 ? Infinity : this.#stepStartMs + this.#stepPasses * this.#stepPassMs;
  }

  /** Output tokens since the last call. */
  takeGenerated(): number {
    const generated = this.#generated;
    this.#generated = 0;
    return generated;
  }

  /** Calls back with each of the latest passes and forgets them. */
  takePasses(take: (prefillTokens: number, decodeSequences: number, contextTokens: number, ms: number) => void): void {
    const p = this.#passes;
    for (let i = 0; i < Math.min(REMEMBERED, this.#remembered); i++) take(p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]);
    this.#remembered = 0;
  }

  /** A prompt to compute here. A run of decode passes is cut at the end of the pass in progress. */
  addPrompt(sequence: Sequence, nowMs: number): void {
    this.#prompts.push(sequence);
    this.#waitingTokens += sequence.toPrefill;
    this.#reservedTokens += sequence.promptTokens + sequence.outputTokens;
    this.#interrupt(nowMs);
  }

  /** Its KV is here: it decodes when there is a seat. */
  addReady(sequence: Sequence, nowMs: number): void {
    this.#ready.push(sequence);
    this.#reservedTokens += sequence.promptTokens + sequence.outputTokens;
    this.#interrupt(nowMs);
  }

  /** Takes everything out: the worker is gone. */
  evacuate(nowMs: number): Sequence[] {
    this.#interrupt(nowMs);
    for (const sequence of this.#decoding) sequence.produced = sequence.outputTokens - Math.max(1, sequence.endsAtPass - this.#pass);
    const all = [...this.#prompts.drain(), ...this.#ready.drain(), ...this.#decoding];
    this.#decoding.length = 0;
    this.#contextTokens = this.#reservedTokens = this.#waitingTokens = this.#stepPasses = 0;
    return all;
  }

  /** Ends the step that is due at `nowMs` and begins the next one. Call when `stepEndsMs` is reached. */
  turn(nowMs: number, listener: WorkerListener): void {
    if (this.#stepPasses > 0) this.#endStep(nowMs, listener);
    this.#beginStep(nowMs);
  }

  /** Whether passes run. */
  get isBusy(): boolean {
    return this.#stepPasses > 0;
  }

  #interrupt(nowMs: number): void {
    if (this.#stepPasses <= 1 || this.#stepPassMs === 0) return;
    const done = Math.ceil((nowMs - this.#stepStartMs) / this.#stepPassMs - 1e-9);
    this.#stepPasses = Math.max(1, Math.min(this.#stepPasses, done));
  }

  #beginStep(nowMs: number): void {
    const { timing, maxSequences, maxBatchedTokens, kvTokens } = this.#options;
    while (this.#ready.length > 0 && this.#decoding.length < maxSequences && (this.#decoding.length === 0 || this.#contextTokens + contextOf(this.#ready.at(0)) <= kvTokens)) this.#seat(this.#ready.shift());
    const decodes = this.#decoding.length;
    let prefillTokens = 0;
    const room = Math.max(1, maxBatchedTokens - decodes);
    if (decodes < maxSequences) {
      for (let i = 0; i < this.#prompts.length && prefillTokens < room; i++) prefillTokens += Math.min(this.#prompts.at(i).toPrefill, room - prefillTokens);
    }
    this.#stepPrefillTokens = prefillTokens;
    this.#stepStartMs = nowMs;
    if (decodes === 0 && prefillTokens === 0) {
      this.#stepPasses = 0;
      return;
    }
    const passes = prefillTokens > 0 ? 1 : Math.min(MAX_RUN, this.#decoding[0].endsAtPass - this.#pass);
    this.#stepPasses = passes;
    const contextTokens = this.#contextTokens + (decodes * (passes - 1)) / 2;
    this.#stepPassMs = timing.passMs(prefillTokens, decodes, contextTokens);
    this.#passes.set([prefillTokens, decodes, contextTokens, this.#stepPassMs], 4 * (this.#remembered++ % REMEMBERED));
  }

  #endStep(nowMs: number, listener: WorkerListener): void {
    const passes = this.#stepPasses;
    this.#stepPasses = 0;
    this.#pass += passes;
    this.#contextTokens += passes * this.#decoding.length;
    this.#generated += passes * this.#decoding.length;
    let sequence = this.#decoding[0];
    while (sequence !== undefined && sequence.endsAtPass <= this.#pass) {
      popHeap(this.#decoding);
      this.#contextTokens -= sequence.baseTokens + this.#pass;
      this.#reservedTokens -= sequence.promptTokens + sequence.outputTokens;
      sequence.produced = sequence.outputTokens;
      listener.finished(sequence, nowMs);
      sequence = this.#decoding[0];
    }
    if (this.#decoding.length === 0) this.#contextTokens = 0;
    this.#prefilled(this.#stepPrefillTokens, nowMs, listener);
  }

  #prefilled(tokens: number, nowMs: number, listener: WorkerListener): void {
    let left = tokens;
    this.#waitingTokens -= tokens;
    while (left > 0) {
      const prompt = this.#prompts.at(0);
      const part = Math.min(left, prompt.toPrefill);
      prompt.toPrefill -= part;
      left -= part;
      if (prompt.toPrefill > 0) break;
      this.#prompts.shift();
      prompt.produced++;
      this.#generated++;
      if (Number.isNaN(prompt.firstTokenMs)) prompt.firstTokenMs = nowMs;
      const held = prompt.promptTokens + prompt.outputTokens;
      if (prompt.produced >= prompt.outputTokens) {
        this.#reservedTokens -= held;
        listener.finished(prompt, nowMs);
      } else if (listener.prefilled(prompt, nowMs) === 'stays') this.#ready.push(prompt);
      else this.#reservedTokens -= held;
    }
  }

  #seat(sequence: Sequence): void {
    sequence.endsAtPass = this.#pass + sequence.outputTokens - sequence.produced;
    // contextTokens holds Σ (base + pass) over the decoding sequences: base is what makes that its context.
    sequence.baseTokens = contextOf(sequence) - this.#pass;
    this.#contextTokens += contextOf(sequence);
    pushHeap(this.#decoding, sequence);
  }
}

function contextOf(sequence: Sequence): number {
  return sequence.promptTokens + sequence.produced;
}

function pushHeap(heap: Sequence[], sequence: Sequence): void {
  let at = heap.length;
  heap.push(sequence);
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (heap[parent].endsAtPass <= sequence.endsAtPass) break;
    heap[at] = heap[parent];
    at = parent;
  }
  heap[at] = sequence;
}

function popHeap(heap: Sequence[]): void {
  const last = heap.pop() as Sequence;
  const size = heap.length;
  if (size === 0) return;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= size) break;
    if (child + 1 < size && heap[child + 1].endsAtPass < heap[child].endsAtPass) child++;
    if (heap[child].endsAtPass >= last.endsAtPass) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = last;
}
