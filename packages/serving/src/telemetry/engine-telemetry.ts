import type { Clock, EngineBackend, EngineReport, EventPlane, PassColumns, PlainData, Timer } from '@armature/contracts';

export interface EngineTelemetryOptions {
  readonly model: string;
  readonly intervalMs: number;
  /** Of the worker's life now. */
  readonly instanceId: () => string;
  readonly engine: EngineBackend;
  readonly events: EventPlane;
  readonly clock: Clock;
}

const silent: PassColumns = { prefillTokens: new Float64Array(0), decodeSequences: new Float64Array(0), contextTokens: new Float64Array(0), ms: new Float64Array(0) };

/** Publishes the load of one worker under `engine/MODEL` once per interval, and the passes of its engine where it tells them; also while it drains. */
export class EngineTelemetry {
  readonly #options: EngineTelemetryOptions;
  #sequence: number;
  #sinceMs: number;
  #timer: Timer | undefined;

  constructor(options: EngineTelemetryOptions) {
    this.#options = options;
    this.#sequence = 0;
    this.#sinceMs = 0;
    this.#timer = undefined;
  }

  start(): void {
    this.#sinceMs = this.#options.clock.nowMs();
    this.#schedule();
  }

  close(): void {
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  #schedule(): void {
    this.#timer = this.#options.clock.setTimer(this.#options.intervalMs, () => {
      this.#publish();
      this.#schedule();
    });
  }

  #publish(): void {
    const { model, instanceId, engine, events, clock } = this.#options;
    const nowMs = clock.nowMs();
    const { running, waiting, prefillTokens, usedBlocks, totalBlocks } = engine.load();
    const report: EngineReport = { model, instanceId: instanceId(), sequence: ++this.#sequence, intervalMs: Math.max(1e-3, nowMs - this.#sinceMs), running, waiting, prefillTokens, usedBlocks, totalBlocks, passes: engine.takePasses?.() ?? silent };
    this.#sinceMs = nowMs;
    events.publish(`engine/${model}`, report as unknown as PlainData);
  }
}
