import type { Clock, Logger, Random } from '@armature/contracts';
import type { OpenAiConfig } from './config.ts';
import { Flusher } from './flusher.ts';
import type { FrontendMetrics } from './frontend-metrics.ts';
import type { Generation } from './generation.ts';

export interface RuntimeOptions {
  readonly config: OpenAiConfig;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: FrontendMetrics;
}

/** What every request of one frontend shares. */
export class Runtime {
  readonly config: OpenAiConfig;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: FrontendMetrics;
  readonly flusher: Flusher;
  /** Whether per-request lines are wanted; asked once, since building their fields costs. */
  readonly debug: boolean;
  readonly live = new Set<Generation>();
  readonly #engineIds = new Set<string>();
  #whenIdle: (() => void)[] = [];

  constructor(options: RuntimeOptions) {
    this.config = options.config;
    this.clock = options.clock;
    this.random = options.random;
    this.log = options.log;
    this.metrics = options.metrics;
    this.flusher = new Flusher(options.clock);
    this.debug = options.log.isEnabled('debug');
  }

  began(generation: Generation): void {
    this.live.add(generation);
    this.metrics.inFlight.set(this.live.size);
  }

  ended(generation: Generation): void {
    this.live.delete(generation);
    this.#engineIds.delete(generation.engineId);
    this.metrics.inFlight.set(this.live.size);
    if (this.live.size > 0 || this.#whenIdle.length === 0) return;
    const waiting = this.#whenIdle;
    this.#whenIdle = [];
    for (const resolve of waiting) resolve();
  }

  /**
   * What the engine calls the request: the client's x-request-id, so that it can ask the admin listener about it, unless a running
   * request has it already (a client that sends one id twice must not mix two requests up inside the server).
   */
  claimId(requestId: string): string {
    const id = this.#engineIds.has(requestId) ? `${requestId}~${hex(this.random.u32())}` : requestId;
    this.#engineIds.add(id);
    return id;
  }

  /** Resolves when no request runs, or at the deadline. */
  idle(deadlineMs: number): Promise<void> {
    if (this.live.size === 0 || deadlineMs <= 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = this.clock.setTimer(deadlineMs, resolve);
      this.#whenIdle.push(() => {
        this.clock.clearTimer(timer);
        resolve();
      });
    });
  }

  /** 24 hex digits: unique enough for one deployment's life, short enough for a log line. */
  newId(): string {
    return hex(this.random.u32()) + hex(this.random.u32()) + hex(this.random.u32());
  }
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

// A table: toString(16) of 32-bit words took 3 % of a short request.
function hex(word: number): string {
  return HEX[word >>> 24]! + HEX[(word >>> 16) & 255]! + HEX[(word >>> 8) & 255]! + HEX[word & 255]!;
}
