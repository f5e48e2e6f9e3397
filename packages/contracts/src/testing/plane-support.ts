import assert from 'node:assert/strict';
import type { PlainData } from '../context.ts';

/** How a suite lets an implementation work: deliveries may take a tick (memory) or a network round trip. */
export interface PlanePace {
  /** Longest wait for something that must happen. Default 5000 ms. */
  readonly waitMs?: number;
  /** How long a suite watches that nothing more happens. Default 20 ms. */
  readonly quietMs?: number;
}

export class Pace {
  readonly #waitMs: number;
  readonly #quietMs: number;

  constructor(pace: PlanePace) {
    this.#waitMs = pace.waitMs ?? 5000;
    this.#quietMs = pace.quietMs ?? 20;
  }

  /** Returns as soon as `isTrue`; fails with `what` when it does not become true. */
  async until(what: string, isTrue: () => boolean): Promise<void> {
    const giveUpAt = performance.now() + this.#waitMs;
    for (let turn = 0; !isTrue(); turn++) {
      // Turns count too: on a starved machine the time alone says nothing.
      if (turn > 30 && performance.now() > giveUpAt) assert.fail(`did not happen: ${what}`);
      await (turn < 20 ? new Promise<void>((resolve) => void setImmediate(resolve)) : sleep(2));
    }
  }

  /** Gives everything that should not happen the time to happen. */
  async quiet(): Promise<void> {
    await sleep(this.#quietMs);
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => void setTimeout(resolve, ms));
}

/** A small generator for property rules; failures print the seed. */
export function seeded(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 4_294_967_296) * bound);
  };
}

/** One value of every sort of plain data. Made anew on each call, so that a receiver's copy cannot be the sender's. */
export function everySort(): { readonly [key: string]: PlainData } {
  return {
    text: 'grüße 🦙',
    integer: 42,
    negative: -7,
    large: 2 ** 52,
    fraction: 0.1,
    yes: true,
    nothing: null,
    bigint: 18_446_744_073_709_551_615n,
    bytes: Uint8Array.of(1, 2, 255),
    int32: Int32Array.of(-1, 0, 2_147_483_647),
    uint32: Uint32Array.of(0, 4_294_967_295),
    float32: Float32Array.of(1.5, -0.25),
    float64: Float64Array.of(Math.PI, Number.MAX_SAFE_INTEGER),
    words: BigUint64Array.of(0n, 0xdead_beef_cafe_f00dn),
    empty: new Int32Array(0),
    list: [1, 'two', [3, { four: 5 }]],
    nested: { deeper: { deepest: [] } },
  };
}

/** Equal data, and typed arrays of the same type. */
export function assertSame(actual: unknown, expected: unknown, where: string): void {
  assert.deepStrictEqual(actual, expected, where);
}

export function errorCode(error: unknown): unknown {
  return (error as { code?: unknown } | undefined)?.code;
}
