import type { Clock, Logger, Timer } from '@armature/contracts';

export { realClock } from '@armature/contracts/testing/real-clock';


interface Due {
  readonly id: number;
  readonly atMs: number;
  readonly callback: () => void;
}

/** Time that moves only by `advance`. */
export class ManualClock implements Clock {
  #nowMs = 0;
  #nextId = 1;
  readonly #due: Due[] = [];

  nowMs(): number {
    return this.#nowMs;
  }
  wallMs(): number {
    return this.#nowMs;
  }
  setTimer(delayMs: number, callback: () => void): Timer {
    const timer = { id: this.#nextId++, atMs: this.#nowMs + delayMs, callback };
    this.#due.push(timer);
    return timer;
  }
  clearTimer(timer: Timer): void {
    const at = this.#due.indexOf(timer as Due);
    if (at >= 0) this.#due.splice(at, 1);
  }
  defer(callback: () => void): void {
    this.setTimer(0, callback);
  }
  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.setTimer(delayMs, resolve));
  }
  get pending(): number {
    return this.#due.length;
  }
  advance(ms: number): void {
    const end = this.#nowMs + ms;
    for (;;) {
      this.#due.sort((a, b) => a.atMs - b.atMs || a.id - b.id);
      const next = this.#due[0];
      if (next === undefined || next.atMs > end) break;
      this.#due.shift();
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.callback();
    }
    this.#nowMs = end;
  }
}

export interface RecordingLogger extends Logger {
  readonly lines: { level: string; message: string; fields: unknown }[];
}

export function recordingLogger(): RecordingLogger {
  const lines: RecordingLogger['lines'] = [];
  const at = (level: string) => (message: string, fields?: unknown) => void lines.push({ level, message, fields });
  const log: RecordingLogger = { lines, debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error'), child: () => log, isEnabled: () => true };
  return log;
}
