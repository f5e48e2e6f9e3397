import type { Clock, Discovery, EngineReport, EventPlane, PlannedPool, PlannerObservation, TrafficReport, WorkerRecord } from '@armature/contracts';
import { FleetView } from './fleet-view.ts';
import { StartupTimes } from './startup-times.ts';
import { TrafficWindow } from './traffic-window.ts';

export interface ObserverOptions {
  readonly model: string;
  readonly pools: readonly PlannedPool[];
  readonly quantile: number;
  readonly events: EventPlane;
  readonly discovery: Discovery;
  readonly clock: Clock;
}

export interface Seen {
  readonly observation: PlannerObservation;
  /** Less may have been seen than there is: no reason to take workers away. */
  readonly isBlind: boolean;
}

/** Collects what frontends and workers of a model report, and who is alive, and puts it together once per tick. */
export class Observer {
  readonly #options: ObserverOptions;
  readonly #fleet: FleetView;
  readonly #traffic: TrafficWindow;
  readonly #startup: StartupTimes;
  readonly #open: { close(): void }[];
  #tick: number;
  #lastMs: number;

  constructor(options: ObserverOptions) {
    this.#options = options;
    this.#fleet = new FleetView(options.pools);
    this.#traffic = new TrafficWindow();
    this.#startup = new StartupTimes(options.pools);
    this.#open = [];
    this.#tick = 0;
    this.#lastMs = 0;
  }

  get fleet(): FleetView {
    return this.#fleet;
  }

  /** Resolves when the workers that are alive now are known. */
  async start(): Promise<void> {
    const { model, events, discovery, clock } = this.#options;
    this.#lastMs = clock.nowMs();
    const [traffic, engine, workers, unwell] = [`traffic/${model}`, `engine/${model}`, `workers/${model}/`, `unwell/${model}/`];
    this.#open.push(
      events.subscribe(traffic, (subject, payload) => subject === traffic && this.#traffic.accept(payload as unknown as TrafficReport, clock.nowMs())),
      events.subscribe(engine, (subject, payload) => subject === engine && this.#fleet.report(payload as unknown as EngineReport, clock.nowMs())),
    );
    this.#open.push(
      await discovery.watch(workers, {
        put: ({ value }) => {
          const record = value as unknown as WorkerRecord;
          this.#fleet.put(record);
          this.#startup.joined(record.pool, record.instanceId, clock.nowMs());
        },
        removed: (key) => {
          this.#fleet.removed(key.slice(workers.length));
          this.#startup.left(key.slice(workers.length));
        },
      }),
      await discovery.watch(unwell, {
        put: ({ key, value }) => {
          const { code, reason } = value as { readonly code?: string; readonly reason?: string };
          this.#fleet.unwell(key.slice(unwell.length), `${reason ?? 'its engine failed'} (${code ?? 'unknown'})`);
        },
        removed: (key) => this.#fleet.unwell(key.slice(unwell.length), undefined),
      }),
    );
  }

  close(): void {
    for (const open of this.#open.splice(0)) open.close();
  }

  /** Orders are timed, so that start-up is what it has taken. */
  ordered(pool: string, added: number): void {
    this.#startup.ordered(pool, added, this.#options.clock.nowMs());
  }

  /** What came since the last look. `desired`: the order in force, by pool. */
  look(desired: ReadonlyMap<string, number>, thresholdTokens: number | undefined): Seen {
    const { model, quantile, clock } = this.#options;
    const nowMs = clock.nowMs();
    const { traffic, problems, isBlind } = this.#traffic.take(nowMs, quantile);
    const fleet = this.#fleet.look(nowMs, desired, (pool) => this.#startup.of(pool));
    const observation = { model, tick: this.#tick++, atMs: nowMs, intervalMs: Math.max(1, nowMs - this.#lastMs), traffic, pools: fleet.pools, thresholdTokens, problems: [...problems, ...fleet.problems] };
    this.#lastMs = nowMs;
    return { observation, isBlind };
  }
}
