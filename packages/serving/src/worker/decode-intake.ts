import { TransferStatus } from '@armature/contracts';
import type {
  Clock,
  EngineBackend,
  ErrorData,
  KvFace,
  KvReservation,
  PlaneMessage,
  PlaneStream,
  PrefillHandover,
  StreamSink,
  Timer,
} from '@armature/contracts';
import { decodeMovedError } from '../execution/failures.ts';
import { numberField, parseHandover } from '../messages.ts';
import type { EngineRequestFields, PullSource } from '../messages.ts';
import { canExchangeKv, kvIncompatible } from './arena-segments.ts';
import { EngineStream } from './engine-stream.ts';
import type { KvMover, Pull } from './kv-mover.ts';

const RESERVE_RETRY_MS = 5;

export interface IntakeHost {
  readonly engine: EngineBackend;
  readonly kv: KvFace;
  readonly mover: KvMover;
  readonly clock: Clock;
  readonly layoutFingerprint: string;
  readonly kvConversion?: string;
  readonly blockSize: number;
  readonly transferTimeoutMs: number;
  /** Asks the prefill worker; `done(valid)` comes once, false when it cannot be reached. */
  releaseLease(address: string, lease: number, done: (isValid: boolean) => void): void;
  renewLease(address: string, lease: number, ttlMs: number): void;
  /** Number of an engine's event in the worker's sequence. */
  readonly eventIdOf: (engineEventId: number) => number;
  /** Counters. */
  moved(blocks: number, bytes: number): void;
  failed(outcome: string): void;
  /** The engine is about to be given the leg. */
  submitting(): void;
  closed(intake: DecodeIntake): void;
}

/**
 * The decode leg of one disaggregated request on the decode worker: reserve, pull what becomes readable, release the lease,
 * commit if it was valid, decode.
 *
 * Messages in: `prefilled` (more of the prompt is readable), `start` (the prompt is computed; carries the first tokens).
 * Destination rule: the reservation is released or handed to the engine only when no pull is in flight.
 */
export class DecodeIntake implements StreamSink {
  readonly #host: IntakeHost;
  readonly #request: EngineRequestFields;
  readonly #source: PullSource;
  readonly #stream: PlaneStream;
  readonly #openedAtMs: number;
  /** When the caller last said something. */
  #heardAtMs: number;
  readonly #promptBlocks: number;
  readonly #pulls = new Set<Pull>();
  #sink: EngineStream | undefined;
  #reservation: KvReservation | undefined;
  #handover: PrefillHandover | undefined;
  #firstTokens: Int32Array | undefined;
  #isStarted = false;
  #isClosed = false;
  #isSettling = false;
  /** Next block to ask for. */
  #nextBlock = 0;
  /** First block whose pull failed. */
  #failedBlock = Infinity;
  #movedBlocks = 0;
  #outcome = 'valid';
  #renewTimer: Timer | undefined;
  #timer: Timer | undefined;

  /** Throws `SERVING_KV_INCOMPATIBLE`. */
  constructor(host: IntakeHost, request: EngineRequestFields, source: PullSource, stream: PlaneStream) {
    this.#host = host;
    this.#request = request;
    this.#source = source;
    this.#stream = stream;
    this.#openedAtMs = host.clock.nowMs();
    this.#heardAtMs = this.#openedAtMs;
    this.#promptBlocks = Math.ceil(request.promptTokens / host.blockSize);
    if (!canExchangeKv(source, host)) {
      host.failed('layout-mismatch');
      throw kvIncompatible(source.address); // placement does not bring such pairs together: the frontend is of another version
    }
    this.#reserve();
  }

  message(message: PlaneMessage): void {
    if (this.#isClosed) return;
    this.#heardAtMs = this.#host.clock.nowMs();
    if (message.type === 'prefilled') {
      this.#handover = parseHandover(message);
      this.#renewTimer ??= this.#armRenewal();
      this.#armTimeout();
      this.#advance();
    } else if (message.type === 'start') {
      const tokens = message['firstTokens'];
      this.#firstTokens = tokens instanceof Int32Array ? tokens : undefined;
      numberField(message, 'promptTokens');
      this.#isStarted = true;
      this.#armTimeout();
      this.#advance();
    }
  }

  /** The other side has gone: stop, give everything back. */
  closed(error: ErrorData | undefined): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (error?.code === decodeMovedError.code) this.#isSettling = true; // the lease is another decode worker's now
    this.#clearTimers();
    if (this.#sink !== undefined) {
      if (this.#sink.handle !== undefined) this.#host.engine.cancel(this.#sink.handle);
    } else {
      for (const pull of this.#pulls) pull.cancel();
      this.#abandonIfIdle();
    }
    this.#host.closed(this);
  }

  #reserve(): void {
    if (this.#isClosed) return;
    const { kv, clock, transferTimeoutMs } = this.#host;
    const reservation = kv.reserve(this.#request.sequenceHashes, this.#promptBlocks, transferTimeoutMs, this.#request.cacheSalt);
    if (reservation !== undefined) {
      this.#reservation = reservation;
      this.#nextBlock = reservation.matchedBlocks;
      this.#armTimeout();
      this.#advance();
    } else if (clock.nowMs() - this.#heardAtMs < transferTimeoutMs) {
      this.#timer = clock.setTimer(RESERVE_RETRY_MS, () => this.#reserve());
    } else {
      this.#fail('no-free-blocks', 0);
      this.#advance();
    }
  }

  /** Pulls what is readable; when the prompt is complete and nothing is in flight, moves on. */
  #advance(): void {
    const handover = this.#handover;
    const reservation = this.#reservation;
    if (handover !== undefined && reservation !== undefined && this.#failedBlock === Infinity) {
      const readable = handover.tokens >= this.#request.promptTokens ? this.#promptBlocks : Math.floor(handover.tokens / this.#host.blockSize);
      if (readable > this.#nextBlock) this.#pull(handover, reservation, readable);
    }
    if (this.#isReadyToSettle()) this.#settle();
  }

  #isReadyToSettle(): boolean {
    if (!this.#isStarted || this.#isClosed || this.#isSettling || this.#pulls.size > 0) return false;
    return this.#failedBlock !== Infinity || (this.#reservation !== undefined && this.#nextBlock >= this.#promptBlocks);
  }

  #pull(handover: PrefillHandover, reservation: KvReservation, readable: number): void {
    const from = this.#nextBlock;
    this.#nextBlock = readable;
    let isDone = false;
    let pull: Pull | undefined;
    const done = (status: TransferStatus): void => {
      isDone = true;
      if (pull !== undefined) this.#pulls.delete(pull);
      if (status === TransferStatus.Done) {
        const blocks = readable - from;
        this.#movedBlocks += blocks;
        this.#host.moved(blocks, blocks * this.#host.mover.blockBytes);
      } else {
        this.#fail(`transfer-${status}`, from);
      }
      if (this.#isClosed) this.#abandonIfIdle();
      else this.#advance();
    };
    pull = this.#host.mover.pull(this.#source.agentMetadata, handover.blocks.subarray(from, readable), reservation.blocks.subarray(from, readable), this.#host.transferTimeoutMs, done);
    if (!isDone) this.#pulls.add(pull);
  }

  /** The time for a pull begins anew with each word of the prefill worker: how long it computes does not count. */
  #armTimeout(): void {
    const { clock, transferTimeoutMs } = this.#host;
    if (this.#reservation === undefined || this.#isSettling) return;
    if (this.#timer !== undefined) clock.clearTimer(this.#timer);
    this.#timer = clock.setTimer(transferTimeoutMs, () => this.#timedOut());
  }

  #timedOut(): void {
    this.#fail('timeout', this.#nextBlock);
    if (this.#reservation !== undefined && this.#pulls.size > 0) {
      this.#host.kv.quarantine(this.#reservation.id);
      for (const pull of this.#pulls) pull.cancel();
    }
    this.#advance();
  }

  #fail(outcome: string, block: number): void {
    if (this.#outcome === 'valid') this.#outcome = outcome;
    this.#failedBlock = Math.min(this.#failedBlock, block);
    this.#host.failed(outcome);
  }

  /** Everything that could be pulled is here: end the lease, then decode. */
  #settle(): void {
    this.#isSettling = true;
    this.#clearTimers();
    const lease = this.#handover?.lease ?? 0;
    if (lease === 0) {
      this.#submit(false);
      return;
    }
    this.#host.releaseLease(this.#source.address, lease, (isValid) => {
      if (this.#isClosed) this.#abandonIfIdle();
      else this.#submit(isValid);
    });
  }

  #submit(isLeaseValid: boolean): void {
    const reservation = this.#reservation;
    const { kv, engine, blockSize } = this.#host;
    if (!isLeaseValid && this.#movedBlocks > 0) {
      this.#outcome = 'lease-expired';
      this.#host.failed('lease-expired');
    }
    const matched = reservation?.matchedBlocks ?? 0;
    const readyBlocks = isLeaseValid ? Math.min(this.#failedBlock, this.#nextBlock) : matched;
    const readyTokens = Math.min(this.#request.promptTokens, Math.max(matched, readyBlocks) * blockSize);
    if (reservation !== undefined && isLeaseValid) kv.commit(reservation.id, Math.floor(readyTokens / blockSize));
    this.#stream.send({
      type: 'transferred',
      matchedBlocks: matched,
      movedBlocks: isLeaseValid ? this.#movedBlocks : 0,
      movedBytes: isLeaseValid ? this.#movedBlocks * this.#host.mover.blockBytes : 0,
      durationMs: this.#host.clock.nowMs() - this.#openedAtMs,
      outcome: this.#outcome,
    });
    const sink = new EngineStream({ stream: this.#stream, onEnd: () => this.#host.closed(this), eventIdOf: this.#host.eventIdOf });
    this.#sink = sink;
    this.#host.submitting();
    sink.handle = engine.submit(
      {
        ...this.#request,
        leg: 'decode',
        firstTokens: this.#firstTokens,
        kvSource: reservation === undefined ? undefined : { type: 'reservation', reservation: reservation.id, readyTokens },
      },
      sink,
    );
  }

  /** Closed before the engine had it: when the last pull has ended, the blocks and the lease go back. */
  #abandonIfIdle(): void {
    if (this.#pulls.size > 0 || this.#sink !== undefined) return;
    if (this.#reservation !== undefined) {
      this.#host.kv.release(this.#reservation.id);
      this.#reservation = undefined;
    }
    const lease = this.#handover?.lease ?? 0;
    if (lease !== 0 && !this.#isSettling) {
      this.#isSettling = true;
      this.#host.releaseLease(this.#source.address, lease, () => undefined);
    }
  }

  #armRenewal(): Timer {
    const { clock } = this.#host;
    const ttlMs = this.#request.leaseTtlMs;
    return clock.setTimer(ttlMs / 3, () => {
      this.#renewTimer = undefined;
      if (this.#isClosed || this.#isSettling || this.#handover === undefined) return;
      this.#host.renewLease(this.#source.address, this.#handover.lease, ttlMs);
      this.#renewTimer = this.#armRenewal();
    });
  }

  #clearTimers(): void {
    const { clock } = this.#host;
    if (this.#timer !== undefined) clock.clearTimer(this.#timer);
    if (this.#renewTimer !== undefined) clock.clearTimer(this.#renewTimer);
    this.#timer = undefined;
    this.#renewTimer = undefined;
  }
}
