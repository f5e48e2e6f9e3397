import type { TransferCounters } from './counters.ts';

export interface ReceivedNotification {
  readonly peer: string;
  readonly payload: Uint8Array;
}

const LIMIT = 1024;

/** Notifications for a listener, or kept for polling: at most 1,024, then the oldest goes and is counted. */
export class NotificationInbox {
  readonly #counters: TransferCounters;
  #kept: ReceivedNotification[] = [];
  #listener: ((peer: string, payload: Uint8Array) => void) | undefined = undefined;

  constructor(counters: TransferCounters) {
    this.#counters = counters;
  }

  received(peer: string, payload: Uint8Array): void {
    this.#counters.notificationsReceived++;
    if (this.#listener !== undefined) {
      this.#listener(peer, payload);
      return;
    }
    if (this.#kept.length === LIMIT) {
      this.#kept.shift();
      this.#counters.notificationsDropped++;
    }
    this.#kept.push({ peer, payload });
  }

  /** What was kept is delivered to the listener first. */
  listen(listener: (peer: string, payload: Uint8Array) => void): void {
    this.#listener = listener;
    for (const { peer, payload } of this.take()) listener(peer, payload);
  }

  take(): ReceivedNotification[] {
    const kept = this.#kept;
    this.#kept = [];
    return kept;
  }
}
