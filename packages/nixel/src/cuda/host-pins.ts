import type { Logger, TransferSegment } from '@armature/contracts';
import type { CudaCounters } from './counters.ts';
import type { Pin } from './pins.ts';
import type { CudaRuntime } from './runtime.ts';

export interface HostPinsOptions {
  readonly runtime: CudaRuntime;
  readonly log: Logger;
  readonly counters: CudaCounters;
  /** False: host memory is used as it is, staged unless its owner pinned it. */
  readonly isOn: boolean;
}

/**
 * Pins an agent's registered host memory, from the moment a GPU is in use: before that, an agent without GPU memory costs none.
 * Memory that cannot be pinned (limit of locked memory, shared pages) is copied through the driver's staging.
 */
export class HostPins {
  readonly #options: HostPinsOptions;
  readonly #segments = new Map<number, TransferSegment>();
  readonly #pins = new Map<number, Pin>();
  #ordinal = -1;

  constructor(options: HostPinsOptions) {
    this.#options = options;
  }

  add(segment: TransferSegment): void {
    this.#segments.set(segment.id, segment);
    if (this.#ordinal >= 0) this.#pin(segment);
  }

  /** Copies that run keep it pinned until they end. */
  remove(id: number): void {
    this.#segments.delete(id);
    const pin = this.#pins.get(id);
    this.#pins.delete(id);
    if (pin !== undefined) this.#release(pin);
  }

  /** A GPU is in use. Its context is retained until `close` has returned. */
  begin(ordinal: number): void {
    if (this.#ordinal >= 0) return;
    this.#ordinal = ordinal;
    for (const segment of this.#segments.values()) this.#pin(segment);
  }

  close(): void {
    for (const id of [...this.#segments.keys()]) this.remove(id);
    this.#ordinal = -1;
  }

  #pin(segment: TransferSegment): void {
    const { runtime, counters, log, isOn } = this.#options;
    if (!isOn || segment.lengthBytes === 0) return;
    let why = 'it shares pages with other pinned memory';
    try {
      runtime.enter(this.#ordinal);
      const pin = runtime.pins.pin(segment.bytes);
      if (pin !== undefined) {
        this.#pins.set(segment.id, pin);
        return;
      }
    } catch (error) {
      why = error instanceof Error ? error.message : String(error);
    }
    counters.pinRefusals++;
    log.warn('host memory is not pinned: GPU copies of it are slower', { segment: segment.id, lengthBytes: segment.lengthBytes, reason: why });
  }

  #release(pin: Pin): void {
    const { runtime, log } = this.#options;
    try {
      runtime.tryEnter(this.#ordinal);
      pin.release();
    } catch (error) {
      log.warn('host memory was not unpinned', { error: error instanceof Error ? error.message : String(error) });
    }
  }
}
