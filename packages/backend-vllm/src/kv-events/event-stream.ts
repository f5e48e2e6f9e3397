import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger, Timer } from '@armature/contracts';
import { BatchReader } from './batch-reader.ts';
import type { EngineBlocks } from './engine-blocks.ts';

export interface EventStreamOptions {
  readonly blocks: EngineBlocks;
  /** Asks the engine for what it still has from this number on; undefined: it has no replay socket. */
  readonly requestReplay: ((from: number) => void) | undefined;
  readonly replayTimeoutMs: number;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface EventStreamCounts {
  readonly messages: number;
  readonly gaps: number;
  /** Messages that never came, by their numbers. */
  readonly missedMessages: number;
  readonly replays: number;
  readonly replayedMessages: number;
  readonly duplicates: number;
  /** The engine began to count anew. */
  readonly restarts: number;
  /** Times all that was known was dropped. */
  readonly resyncs: number;
  readonly invalidMessages: number;
}

/** Live messages kept while a replay runs; the oldest go first, and make a gap. */
const MAX_HELD = 10_000;
/** What does not fit makes the whole state be read again, but not more often than this. */
const REPAIR_MS = 60_000;

/**
 * The messages of one publisher, in order: applies them to the blocks, asks for those that are missing, and drops what is known when it cannot be right any
 * more. Too much is told for as long as it takes to notice: until the next message after a lost one; up to REPAIR_MS when something does not fit again.
 */
export class EventStream {
  readonly #options: EventStreamOptions;
  readonly #reader: BatchReader;
  readonly #held: { readonly sequence: number; readonly payload: Uint8Array }[];
  readonly #counts: { -readonly [name in keyof EventStreamCounts]: number };
  /** Number that comes next; -1: whichever comes. */
  #next: number;
  #lastTime: number;
  #isReplaying: boolean;
  /** All since the engine's first message is known: a parent that is not means that something is wrong. */
  #isWhole: boolean;
  #timer: Timer | undefined;
  #repairedAtMs: number;
  #hasWarned: boolean;
  #isClosed: boolean;

  constructor(options: EventStreamOptions) {
    this.#options = options;
    this.#reader = new BatchReader();
    this.#held = [];
    this.#counts = { messages: 0, gaps: 0, missedMessages: 0, replays: 0, replayedMessages: 0, duplicates: 0, restarts: 0, resyncs: 0, invalidMessages: 0 };
    this.#next = -1;
    this.#lastTime = -Infinity;
    this.#isReplaying = false;
    this.#isWhole = false;
    this.#timer = undefined;
    this.#repairedAtMs = -Infinity;
    this.#hasWarned = false;
    this.#isClosed = false;
  }

  get counts(): EventStreamCounts {
    return this.#counts;
  }

  /** Whether all that the engine holds is known. */
  get isWhole(): boolean {
    return this.#isWhole && !this.#isReplaying;
  }

  /** Drops what is known and reads all that the engine still has: at the start, after its restart, when something does not fit. */
  resync(reason: string): void {
    if (this.#isClosed) return;
    this.#counts.resyncs++;
    this.#options.log.info('reading the state of the KV cache anew', { reason });
    this.forget();
    this.#ask(0);
  }

  /** What is known may be wrong by now, and there is nobody to ask: learned anew from what comes next. */
  forget(): void {
    this.#options.blocks.clear();
    this.#isWhole = false;
    this.#isReplaying = false;
    this.#disarm();
    this.#next = -1;
    this.#lastTime = -Infinity;
    // What came during a replay that ends here may be of the engine's last life; a new replay tells it again if not.
    this.#held.length = 0;
  }

  receive(sequence: number, payload: Uint8Array): void {
    if (this.#isClosed) return;
    this.#counts.messages++;
    if (this.#isReplaying) this.#hold(sequence, payload);
    else this.#take(sequence, payload);
  }

  replayed(sequence: number, payload: Uint8Array): void {
    if (this.#isClosed || !this.#isReplaying) return;
    this.#counts.replayedMessages++;
    this.#arm();
    if (sequence < this.#next) this.#counts.duplicates++;
    else this.#apply(sequence, payload);
  }

  replayEnded(): void {
    if (!this.#isReplaying) return;
    this.#isReplaying = false;
    this.#disarm();
    const held = this.#held.splice(0);
    for (const { sequence, payload } of held) {
      // A gap that the replay has not filled will not be filled by another one.
      if (this.#isReplaying) this.#hold(sequence, payload);
      else if (sequence > this.#next) this.#apply(sequence, payload);
      else this.#take(sequence, payload);
    }
  }

  close(): void {
    this.#isClosed = true;
    this.#isReplaying = false;
    this.#held.length = 0;
    this.#disarm();
  }

  #take(sequence: number, payload: Uint8Array): void {
    if (sequence < this.#next) return this.#old(sequence, payload);
    if (this.#next !== -1 && sequence > this.#next) {
      this.#counts.gaps++;
      this.#counts.missedMessages += sequence - this.#next;
      if (this.#options.requestReplay !== undefined) {
        this.#ask(this.#next);
        this.#hold(sequence, payload);
        return;
      }
    }
    this.#apply(sequence, payload);
  }

  /** A number that has been: seen in a replay already, or the engine is another one. Its clock tells. */
  #old(sequence: number, payload: Uint8Array): void {
    if (this.#timeOf(payload) <= this.#lastTime) {
      this.#counts.duplicates++;
      return;
    }
    this.#counts.restarts++;
    this.resync('the engine counts its messages anew');
    this.receive(sequence, payload);
    this.#counts.messages--; // counted when it came
  }

  /** The next message, or one after a gap that nothing fills: then what was known is dropped first. */
  #apply(sequence: number, payload: Uint8Array): void {
    const { blocks, log } = this.#options;
    if (this.#next === -1) this.#isWhole = sequence === 0;
    else if (sequence !== this.#next) {
      this.#isWhole = false;
      this.#counts.resyncs++;
      log.warn('KV events are lost: what this engine holds is forgotten, and learned anew from what it stores', {
        from: this.#next,
        to: sequence,
        hint: this.#options.requestReplay === undefined ? 'set replay_endpoint in --kv-events-config and engine.config.kvEvents.replayEndpoint' : 'raise buffer_steps in --kv-events-config',
      });
      blocks.clear();
    }
    this.#next = sequence + 1;
    const orphans = blocks.counts.orphanBlocks;
    try {
      this.#lastTime = Math.max(this.#lastTime, this.#reader.timeOf(payload));
      this.#reader.read(payload, blocks);
      blocks.flush();
    } catch (error) {
      this.#invalid(error);
      return;
    }
    if (blocks.isOverfull) this.#repair('more blocks are told of than the engine has');
    else if (blocks.counts.orphanBlocks > orphans) {
      // In a replay: what it still has does not begin with the first block of every prompt. Nothing is known better by asking again.
      if (this.#isReplaying) this.#isWhole = false;
      if (this.isWhole) this.#repair('an event names a parent that no event stored');
    }
  }

  #repair(reason: string): void {
    const { clock } = this.#options;
    if (this.#isReplaying || clock.nowMs() - this.#repairedAtMs < REPAIR_MS) return;
    this.#repairedAtMs = clock.nowMs();
    this.resync(reason);
  }

  /** What such a message changed is not known. Asking again would bring it again. */
  #invalid(error: unknown): void {
    const { blocks, log } = this.#options;
    this.#counts.invalidMessages++;
    this.#isWhole = false;
    blocks.clear();
    if (this.#hasWarned) return;
    this.#hasWarned = true;
    const { code, message, hint } = ArmatureError.from(error).toData();
    log.warn('KV events cannot be read: the router credits this engine no overlap until they can', { code, reason: message, hint });
  }

  #timeOf(payload: Uint8Array): number {
    try {
      return this.#reader.timeOf(payload);
    } catch {
      return -Infinity;
    }
  }

  #hold(sequence: number, payload: Uint8Array): void {
    if (this.#held.length >= MAX_HELD) this.#held.shift();
    this.#held.push({ sequence, payload });
  }

  #ask(from: number): void {
    const { requestReplay } = this.#options;
    if (requestReplay === undefined) return;
    this.#counts.replays++;
    this.#isReplaying = true;
    this.#arm();
    requestReplay(from);
  }

  #arm(): void {
    const { clock, replayTimeoutMs, log } = this.#options;
    this.#disarm();
    this.#timer = clock.setTimer(replayTimeoutMs, () => {
      log.warn('the replay of KV events did not end', { timeoutMs: replayTimeoutMs, hint: 'is engine.config.kvEvents.replayEndpoint the replay_endpoint of --kv-events-config?' });
      this.replayEnded();
    });
  }

  #disarm(): void {
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }
}
