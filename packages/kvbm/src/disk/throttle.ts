import type { Clock, Timer } from '@armature/contracts';

/** Longest time one piece may take: smaller pieces make a smoother stream. */
const PIECE_MS = 50;

/** A wait for one's turn. */
export interface Turn {
  cancel(): void;
}

/**
 * Spreads bytes over time: a piece may begin once the time that it and those before it cost has passed. So a throttled disk is as late with its first
 * block as a disk of that speed would be. Unlimited: everything begins at once.
 */
export class Throttle {
  readonly #clock: Clock;
  readonly #bytesPerMs: number;
  #paidUntilMs = 0;

  constructor(clock: Clock, bytesPerSecond: number | undefined) {
    this.#clock = clock;
    this.#bytesPerMs = bytesPerSecond === undefined ? Infinity : bytesPerSecond / 1000;
  }

  /** Most bytes of one piece. */
  get pieceBytes(): number {
    return this.#bytesPerMs * PIECE_MS;
  }

  /** Calls `begin` when the bytes may move, possibly before return. Undefined: that would be after `latestMs`; nothing was taken. */
  take(bytes: number, latestMs: number, begin: () => void): Turn | undefined {
    if (this.#bytesPerMs === Infinity) {
      begin();
      return NOTHING;
    }
    const nowMs = this.#clock.nowMs();
    const costMs = bytes / this.#bytesPerMs;
    const paidUntilMs = Math.max(nowMs, this.#paidUntilMs) + costMs;
    if (paidUntilMs > latestMs) return undefined;
    this.#paidUntilMs = paidUntilMs;
    let timer: Timer | undefined = this.#clock.setTimer(paidUntilMs - nowMs, () => {
      timer = undefined;
      begin();
    });
    return {
      cancel: () => {
        if (timer === undefined) return;
        this.#clock.clearTimer(timer);
        timer = undefined;
        // Nothing moved: its time is for those that come later, who wait behind nobody any more.
        this.#paidUntilMs -= costMs;
      },
    };
  }
}

const NOTHING: Turn = { cancel: () => undefined };
