import type { Clock } from '@armature/contracts';

const INTERVAL_MS = 10_000;
const MAX_KEYS = 1_024;

/** What goes wrong with every request is logged once per ten seconds and key, with how often it was left out since; metrics count them all. */
export class LogGate {
  readonly #clock: Clock;
  readonly #keys = new Map<string, { openAtMs: number; suppressed: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** How many were left out since the last one logged; undefined: leave this one out too. */
  pass(key: string): number | undefined {
    const nowMs = this.#clock.nowMs();
    const entry = this.#keys.get(key);
    if (entry !== undefined && nowMs < entry.openAtMs) {
      entry.suppressed++;
      return undefined;
    }
    if (entry === undefined && this.#keys.size >= MAX_KEYS) this.#keys.clear();
    this.#keys.set(key, { openAtMs: nowMs + INTERVAL_MS, suppressed: 0 });
    return entry?.suppressed ?? 0;
  }
}
