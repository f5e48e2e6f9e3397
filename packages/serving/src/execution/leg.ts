import type { Clock, ErrorData, PlaneMessage, PlaneStream, RequestPlane, StreamOpen, StreamSink, Timer, WorkerRecord } from '@armature/contracts';
import type { Charge } from '../routing/worker-table.ts';
import { cancelledError, decodeMovedError, stalledError } from './failures.ts';
import type { Arrow } from './failures.ts';

/** What an attempt hears of its legs. */
export interface LegListener {
  legMessage(leg: Leg, message: PlaneMessage): void;
  /** The stream has ended, or the worker was silent for too long; `isComplete` when the terminal message came before. */
  legClosed(leg: Leg, error: ErrorData | undefined): void;
}

export interface LegSetup {
  readonly kind: 'main' | 'prefill';
  readonly worker: WorkerRecord;
  readonly charge: Charge;
  readonly clock: Clock;
}

/** One stream to one worker on behalf of one request. */
export class Leg implements StreamSink {
  readonly kind: 'main' | 'prefill';
  readonly worker: WorkerRecord;
  readonly slot: number;
  readonly charge: Charge;
  readonly #clock: Clock;
  readonly #listener: LegListener;
  #stream: PlaneStream | undefined;
  #isClosed = false;
  #heardAtMs: number;
  #arrow: Arrow;
  #limitMs = 0;
  #timer: Timer | undefined = undefined;
  /** The terminal message has come. */
  isComplete: boolean;
  /** A token of this leg has come. */
  hasTokens: boolean;
  /** The worker is still charged for this leg. */
  isCharged: boolean;
  /** The worker ended the stream, or it was given up. */
  isLost: boolean;

  constructor({ kind, worker, charge, clock }: LegSetup, listener: LegListener) {
    this.kind = kind;
    this.worker = worker;
    this.slot = charge.slot;
    this.charge = charge;
    this.#clock = clock;
    this.#listener = listener;
    this.#heardAtMs = clock.nowMs();
    this.#arrow = kind === 'prefill' ? 'prefill' : 'first token';
    this.isComplete = false;
    this.hasTokens = false;
    this.isCharged = true;
    this.isLost = false;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** When the worker said something last. */
  get heardAtMs(): number {
    return this.#heardAtMs;
  }

  /** What the worker is at. */
  get arrow(): Arrow {
    return this.#arrow;
  }

  open(requests: RequestPlane, open: StreamOpen): void {
    const stream = requests.open(this.worker.address, open, this);
    this.#stream = stream;
  }

  send(message: PlaneMessage): void {
    if (!this.#isClosed) this.#stream?.send(message);
  }

  /** The worker's next word is due within `limitMs`, and so is each that follows; 0 = whenever. One timer, however many words come. */
  expect(arrow: Arrow, limitMs: number): void {
    this.#arrow = arrow;
    this.#limitMs = limitMs;
    this.#heardAtMs = this.#clock.nowMs();
    this.#disarm();
    if (limitMs > 0 && !this.#isClosed) this.#arm(limitMs);
  }

  /** Ends the stream from this side; the listener hears nothing more. */
  cancel(reason: ErrorData = cancelledError): void {
    if (this.#isClosed) return;
    this.#close();
    this.#stream?.close(reason);
  }

  message(message: PlaneMessage): void {
    if (this.#isClosed) return;
    this.#heardAtMs = this.#clock.nowMs();
    this.#listener.legMessage(this, message);
  }

  closed(error: ErrorData | undefined): void {
    if (this.#isClosed) return;
    this.#close();
    this.isLost = true;
    this.#listener.legClosed(this, error);
  }

  #close(): void {
    this.#isClosed = true;
    this.#disarm();
  }

  #arm(inMs: number): void {
    this.#timer = this.#clock.setTimer(inMs, () => {
      this.#timer = undefined;
      const leftMs = this.#heardAtMs + this.#limitMs - this.#clock.nowMs();
      if (leftMs > 0) this.#arm(leftMs);
      else this.#stall();
    });
  }

  #stall(): void {
    const error = stalledError(this.worker.instanceId, this.#arrow, this.#limitMs);
    this.#close();
    this.isLost = true;
    this.#stream?.close(this.kind === 'main' ? decodeMovedError : error); // should it wake up, it must not end a lease that another one reads under
    this.#listener.legClosed(this, error);
  }

  #disarm(): void {
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }
}
