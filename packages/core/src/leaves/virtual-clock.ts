import { ArmatureError } from '@armature/contracts';
import type { Clock, Timer } from '@armature/contracts';
import { sleepOn } from './system-clock.ts';

class Entry {
  readonly dueMs: number;
  readonly sequence: number;
  readonly background: boolean;
  callback: (() => void) | undefined;

  constructor(dueMs: number, sequence: number, background: boolean, callback: () => void) {
    this.dueMs = dueMs;
    this.sequence = sequence;
    this.background = background;
    this.callback = callback;
  }
}

export interface RunOptions {
  /** Stop (with `CLOCK_RUNAWAY`) after this many callbacks: a periodic timer never lets a clock become idle. Default 100 million. */
  readonly maxEvents?: number;
  /** Run nothing that is due later; the clock then stands at the last event, or here when later events remain. */
  readonly untilMs?: number;
}

const DEFAULT_MAX_EVENTS = 100_000_000;
/** Real time after which the event loop gets a turn, so that sockets and signals are not starved. */
const SLICE_EVENTS = 4096;

/**
 * Time that passes only when it is told to. Callbacks run in order of due time, then of registration; deferred ones before any later
 * timer; promise reactions of a callback before the next callback. Same inputs, same order, at any speed of the machine.
 */
export class VirtualClock implements Clock {
  #nowMs: number;
  readonly #epochMs: number;
  #sequence = 0;
  #heap: Entry[] = [];
  #cancelled = 0;
  #foreground = 0;
  #deferred: (() => void)[] = [];
  #deferredIndex = 0;
  #isRunning = false;
  #events = 0;

  readonly #turnPerCallback: boolean;

  /** `epochMs`: what `wallMs` says at `startMs`. `turnPerCallback`: do without Node's internal drain, as where it does not exist. */
  constructor(options: { readonly startMs?: number; readonly epochMs?: number; readonly turnPerCallback?: boolean } = {}) {
    this.#turnPerCallback = options.turnPerCallback === true;
    this.#nowMs = options.startMs ?? 0;
    this.#epochMs = (options.epochMs ?? Date.UTC(2026, 0, 1)) - this.#nowMs;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#epochMs + this.#nowMs;
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    return this.#add(delayMs, callback, false);
  }

  /** Like `setTimer`, for watchdogs: fires when time passes it, but alone it does not make time pass (`runUntilIdle` ignores it). */
  setBackgroundTimer(delayMs: number, callback: () => void): Timer {
    return this.#add(delayMs, callback, true);
  }

  clearTimer(timer: Timer): void {
    const entry = timer as Entry;
    if (entry.callback === undefined) return;
    entry.callback = undefined;
    if (!entry.background) this.#foreground--;
    this.#cancelled++;
    if (this.#cancelled > 1024 && this.#cancelled * 2 > this.#heap.length) this.#compact();
  }

  defer(callback: () => void): void {
    this.#deferred.push(callback);
  }

  sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    return sleepOn(this, delayMs, signal);
  }

  /** Timers that would fire, background ones apart. */
  get pendingTimers(): number {
    return this.#foreground;
  }

  /** Callbacks run since the beginning. */
  get events(): number {
    return this.#events;
  }

  /** Runs until no timer and no deferred callback is left (or `untilMs`). Returns the number of callbacks run. */
  async runUntilIdle(options: RunOptions = {}): Promise<number> {
    return this.#run(options.untilMs ?? Infinity, options.maxEvents ?? DEFAULT_MAX_EVENTS, undefined);
  }

  /** Runs everything due within `ms`, background timers too; the clock then stands exactly `ms` later. */
  async advance(ms: number): Promise<number> {
    const untilMs = this.#nowMs + ms;
    const events = await this.#run(untilMs, DEFAULT_MAX_EVENTS, undefined, true);
    if (this.#nowMs < untilMs) this.#nowMs = untilMs;
    return events;
  }

  /**
   * Lets time pass until `promise` settles, and returns its value. With nothing left to run it waits for the real world
   * (files, worker threads) up to `realTimeoutMs`, then throws `CLOCK_STUCK`.
   */
  async runUntilSettled<T>(promise: Promise<T>, options: RunOptions & { readonly realTimeoutMs?: number } = {}): Promise<T> {
    const state = { isSettled: false };
    const settle = (): void => void (state.isSettled = true);
    promise.then(settle, settle);
    const giveUpAt = performance.now() + (options.realTimeoutMs ?? 60_000);
    while (!state.isSettled) {
      const events = await this.#run(options.untilMs ?? Infinity, options.maxEvents ?? DEFAULT_MAX_EVENTS, () => state.isSettled);
      if (state.isSettled || events > 0) continue;
      await new Promise<void>((resolve) => void setTimeout(resolve, 1));
      if (performance.now() > giveUpAt) {
        throw new ArmatureError('CLOCK_STUCK', `nothing is left to run at ${this.#nowMs} ms of virtual time, and the awaited promise has not settled`, {
          hint: 'the promise waits for something that neither a timer nor the real world will bring',
        });
      }
    }
    return promise;
  }

  #add(delayMs: number, callback: () => void, background: boolean): Entry {
    const delay = delayMs > 0 ? delayMs : 0; // NaN counts as now
    const entry = new Entry(this.#nowMs + delay, this.#sequence++, background, callback);
    if (!background) this.#foreground++;
    siftUp(this.#heap, entry);
    return entry;
  }

  async #run(untilMs: number, maxEvents: number, stop: (() => boolean) | undefined, withBackground = false): Promise<number> {
    if (this.#isRunning) {
      throw new ArmatureError('CLOCK_BUSY', 'this virtual clock is already running', { hint: 'await the first run before starting another' });
    }
    this.#isRunning = true;
    const before = this.#events;
    const limit = before + maxEvents;
    try {
      let idleTurns = 0;
      // Two turns without work: promises that resolve through setImmediate or a nextTick get their chance.
      while (idleTurns < 2) {
        const events = this.#events;
        await turn(() => this.#slice(untilMs, limit, stop, withBackground));
        if (stop?.() === true) break;
        idleTurns = this.#events === events ? idleTurns + 1 : 0;
      }
    } finally {
      this.#isRunning = false;
    }
    return this.#events - before;
  }

  /** Runs on a fresh turn of the event loop, where `drainMicrotasks` works. */
  #slice(untilMs: number, limit: number, stop: (() => boolean) | undefined, withBackground: boolean): void {
    const end = this.#events + SLICE_EVENTS;
    for (;;) {
      if (this.#events >= end || stop?.() === true) return;
      const callback = this.#deferred.length > 0 ? this.#shiftDeferred() : this.#nextTimer(untilMs, withBackground);
      if (callback === undefined) return;
      if (this.#events >= limit) {
        throw new ArmatureError('CLOCK_RUNAWAY', `virtual clock ran ${this.#events} callbacks without becoming idle, now at ${this.#nowMs} ms`, {
          hint: 'a periodic timer never lets the clock become idle: pass untilMs, or use advance(ms)',
        });
      }
      this.#events++;
      callback();
      if (this.#turnPerCallback || !drainMicrotasks()) return;
    }
  }

  /** In order of registration; one deferred by another comes last, still before any timer. */
  #shiftDeferred(): () => void {
    const callback = this.#deferred[this.#deferredIndex++] as () => void;
    if (this.#deferredIndex === this.#deferred.length) {
      this.#deferred = [];
      this.#deferredIndex = 0;
    }
    return callback;
  }

  #nextTimer(untilMs: number, withBackground: boolean): (() => void) | undefined {
    const heap = this.#heap;
    for (;;) {
      const top = heap[0];
      if (top === undefined || top.dueMs > untilMs) return undefined;
      if (top.callback !== undefined && this.#foreground === 0 && !withBackground) return undefined;
      pop(heap);
      const callback = top.callback;
      if (callback === undefined) {
        this.#cancelled--;
        continue;
      }
      top.callback = undefined;
      if (!top.background) this.#foreground--;
      if (top.dueMs > this.#nowMs) this.#nowMs = top.dueMs;
      return callback;
    }
  }

  #compact(): void {
    const live = this.#heap.filter((entry) => entry.callback !== undefined);
    this.#heap = [];
    this.#cancelled = 0;
    for (const entry of live) siftUp(this.#heap, entry);
  }
}

function isBefore(a: Entry, b: Entry): boolean {
  return a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.sequence < b.sequence);
}

function siftUp(heap: Entry[], entry: Entry): void {
  let index = heap.length;
  heap.push(entry);
  while (index > 0) {
    const parent = (index - 1) >> 1;
    const above = heap[parent] as Entry;
    if (!isBefore(entry, above)) break;
    heap[index] = above;
    index = parent;
  }
  heap[index] = entry;
}

function pop(heap: Entry[]): void {
  const last = heap.pop() as Entry;
  const length = heap.length;
  if (length === 0) return;
  let index = 0;
  for (;;) {
    let child = index * 2 + 1;
    if (child >= length) break;
    if (child + 1 < length && isBefore(heap[child + 1] as Entry, heap[child] as Entry)) child++;
    const below = heap[child] as Entry;
    if (!isBefore(below, last)) break;
    heap[index] = below;
    index = child;
  }
  heap[index] = last;
}

/** Runs `body` in a turn of its own; the returned promise carries what it throws. */
function turn(body: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    setImmediate(() => {
      try {
        body();
      } catch (error) {
        reject(error as Error);
        return;
      }
      resolve();
    });
  });
}

// Node's own drain of nextTicks and microtasks, callable between callbacks of one turn: about 50 times cheaper than a turn of the
// event loop per callback. Undocumented, so it is probed; without it every callback costs one setImmediate and nothing else changes.
const tick = (process as unknown as { _tickCallback?: () => void })._tickCallback;
let canDrain: boolean | undefined;

function drainMicrotasks(): boolean {
  if (canDrain === true) {
    (tick as () => void)();
    return true;
  }
  if (canDrain === false) return false;
  canDrain = false;
  if (typeof tick === 'function') {
    let hasRun = false;
    queueMicrotask(() => void (hasRun = true));
    tick();
    canDrain = hasRun;
  }
  return canDrain;
}
