import type { CudaDriver } from './binding.ts';

const PAGE_BYTES = 4096n;

interface PinnedRange {
  readonly start: bigint;
  readonly end: bigint;
  /** Keeps the memory while the driver has its pages. */
  readonly bytes: Uint8Array;
  users: number;
}

/** A hold on pinned memory. Give it back once, when no copy that uses the memory is running. */
export interface Pin {
  readonly address: bigint;
  release(): void;
}

/**
 * Host memory that the GPU reads and writes itself (cuMemHostRegister), by whole pages, counted by its users. The driver refuses pages
 * that are pinned already: a range inside a pinned one shares it, one that sticks out of it is refused.
 */
export class PinTable {
  readonly #driver: CudaDriver;
  readonly #ranges = new Set<PinnedRange>();

  constructor(driver: CudaDriver) {
    this.#driver = driver;
  }

  get size(): number {
    return this.#ranges.size;
  }

  /** A context must be current. Undefined: these pages overlap pinned ones. Throws `TRANSFER_CUDA_FAILED`, `TRANSFER_CUDA_NO_MEMORY`. */
  pin(bytes: Uint8Array): Pin | undefined {
    const address = this.#driver.addressOf(bytes);
    const start = (address / PAGE_BYTES) * PAGE_BYTES;
    const end = ((address + BigInt(bytes.length) + PAGE_BYTES - 1n) / PAGE_BYTES) * PAGE_BYTES;
    for (const range of this.#ranges) {
      if (start >= range.start && end <= range.end) return this.#hold(range, address);
      if (start < range.end && end > range.start) return undefined;
    }
    this.#driver.pin(start, Number(end - start));
    const range = { start, end, bytes, users: 0 };
    this.#ranges.add(range);
    return this.#hold(range, address);
  }

  /** Another user of the pinned memory that holds these bytes; undefined when they are not pinned as a whole. */
  find(bytes: Uint8Array): Pin | undefined {
    const address = this.#driver.addressOf(bytes);
    for (const range of this.#ranges) if (address >= range.start && address + BigInt(bytes.length) <= range.end) return this.#hold(range, address);
    return undefined;
  }

  #hold(range: PinnedRange, address: bigint): Pin {
    range.users++;
    let isHeld = true;
    return {
      address,
      release: () => {
        if (!isHeld) return;
        isHeld = false;
        if (--range.users > 0) return;
        this.#ranges.delete(range);
        this.#driver.unpin(range.start);
      },
    };
  }
}
