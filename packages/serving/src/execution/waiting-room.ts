import type { Clock, Timer } from '@armature/contracts';

/** Waits beyond this are not begun: what has nowhere to go must not pile up. */
const CAPACITY = 16_384;

export interface RoomTicket {
  leave(): void;
}

interface Waiter {
  readonly resume: () => void;
  readonly timer: Timer;
  isWaiting: boolean;
}

/** Requests that have lost their worker and find no other: a short wait for one that joins or answers again. */
export class WaitingRoom {
  readonly #clock: Clock;
  readonly #waiters = new Set<Waiter>();
  #leftAtMs = -Infinity;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#waiters.size;
  }

  /** A worker has gone: the one that follows it may be on its way. */
  workerLeft(): void {
    this.#leftAtMs = this.#clock.nowMs();
  }

  /** A worker has gone no longer ago than that. */
  hasLost(withinMs: number): boolean {
    return this.#clock.nowMs() - this.#leftAtMs <= withinMs;
  }

  /** Exactly one of `resume` and `expired` follows, unless the ticket leaves first. Undefined: the room is full. */
  enter(waitMs: number, resume: () => void, expired: () => void): RoomTicket | undefined {
    if (this.#waiters.size >= CAPACITY) return undefined;
    const leave = (): void => {
      waiter.isWaiting = false;
      this.#waiters.delete(waiter);
      this.#clock.clearTimer(waiter.timer);
    };
    const timer = this.#clock.setTimer(waitMs, () => {
      this.#waiters.delete(waiter);
      expired();
    });
    const waiter: Waiter = { resume, timer, isWaiting: true };
    this.#waiters.add(waiter);
    return { leave };
  }

  /** There may be a worker now. Who finds none comes back with what is left of its time. */
  wake(): void {
    const waiters = [...this.#waiters];
    this.#waiters.clear();
    for (const waiter of waiters) {
      this.#clock.clearTimer(waiter.timer);
      if (waiter.isWaiting) waiter.resume(); // one that goes on may have ended another
    }
  }
}
