import type { ErrorData, PlaneMessage, PlaneStream, RequestPlane, StreamOpen, StreamSink, WorkerRecord } from '@armature/contracts';
import type { Charge } from '../routing/worker-table.ts';

/** What a run hears of its legs. */
export interface LegListener {
  legMessage(leg: Leg, message: PlaneMessage): void;
  /** The stream has ended; `isComplete` when the terminal message came before. */
  legClosed(leg: Leg, error: ErrorData | undefined): void;
}

/** One stream to one worker on behalf of one request. */
export class Leg implements StreamSink {
  readonly kind: 'main' | 'prefill';
  readonly worker: WorkerRecord;
  readonly slot: number;
  readonly charge: Charge;
  readonly #listener: LegListener;
  #stream: PlaneStream | undefined;
  #isClosed = false;
  /** The terminal message has come. */
  isComplete: boolean;
  /** A token of this leg has come. */
  hasTokens: boolean;
  /** The worker is still charged for this leg. */
  isCharged: boolean;

  constructor(kind: 'main' | 'prefill', worker: WorkerRecord, charge: Charge, listener: LegListener) {
    this.kind = kind;
    this.worker = worker;
    this.slot = charge.slot;
    this.charge = charge;
    this.#listener = listener;
    this.isComplete = false;
    this.hasTokens = false;
    this.isCharged = true;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  open(requests: RequestPlane, open: StreamOpen): void {
    const stream = requests.open(this.worker.address, open, this);
    this.#stream = stream;
  }

  send(message: PlaneMessage): void {
    if (!this.#isClosed) this.#stream?.send(message);
  }

  /** Ends the stream from this side; the listener hears nothing more. */
  cancel(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#stream?.close({ code: 'SERVING_CANCELLED', message: 'the request was cancelled' });
  }

  message(message: PlaneMessage): void {
    if (!this.#isClosed) this.#listener.legMessage(this, message);
  }

  closed(error: ErrorData | undefined): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#listener.legClosed(this, error);
  }
}
