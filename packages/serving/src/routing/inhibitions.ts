import type { Clock, Counter, Gauge, Health, Logger, Timer, WorkerRecord } from '@armature/contracts';
import type { WorkerTable } from './worker-table.ts';

export interface InhibitionOptions {
  readonly model: string;
  readonly table: WorkerTable;
  readonly clock: Clock;
  readonly log: Logger;
  /** Workers taken out, and those that came back. */
  readonly inhibited: Counter;
  readonly returned: Counter;
  /** Workers that are out now. */
  readonly out: Gauge;
  /** Degraded while a worker is out. */
  readonly health: Health;
  /** Asks a worker whether it can serve; `done` exactly once, false also when there was no answer in time. */
  probe(worker: WorkerRecord, done: (isWell: boolean) => void): void;
  /** A worker can be routed to again. */
  changed(): void;
}

const FIRST_PROBE_MS = 100;
const MAX_PROBE_MS = 5_000;

/**
 * Workers that failed a request without leaving discovery: a lost connection, a stall. They get no requests until they answer a probe; probes go on,
 * ever more seldom, until they do or leave. While every worker of a role is out the router has nobody to route to: requests wait for the deadline of their
 * migration or fail with a code, they never go to one that is known not to answer.
 */
export class Inhibitions {
  readonly #options: InhibitionOptions;
  readonly #probes = new Map<string, { timer: Timer | undefined; delayMs: number }>();
  #isClosed = false;

  constructor(options: InhibitionOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#probes.size;
  }

  /** The worker has failed a request in a way that will befall the next one too. */
  inhibit(instanceId: string, code: string): void {
    const { model, table, log, inhibited, health } = this.#options;
    const slot = table.slotOf(instanceId);
    if (slot === undefined || this.#isClosed || this.#probes.has(instanceId)) return;
    table.setInhibited(slot, true);
    inhibited.inc();
    log.warn('worker gets no requests until it answers a probe', { worker: instanceId, code });
    const entry = { timer: undefined, delayMs: FIRST_PROBE_MS };
    this.#probes.set(instanceId, entry);
    this.#options.out.set(this.size);
    health.set(healthName(model, instanceId), 'degraded', `out until it answers a probe: ${code}; it gets no requests`);
    this.#arm(instanceId, entry);
  }

  /** It left discovery. */
  left(instanceId: string): void {
    const entry = this.#probes.get(instanceId);
    if (entry === undefined) return;
    this.#remove(instanceId);
    if (entry.timer !== undefined) this.#options.clock.clearTimer(entry.timer);
  }

  close(): void {
    this.#isClosed = true;
    for (const instanceId of [...this.#probes.keys()]) this.left(instanceId);
  }

  #remove(instanceId: string): void {
    const { model, health, out } = this.#options;
    this.#probes.delete(instanceId);
    out.set(this.size);
    health.remove(healthName(model, instanceId));
  }

  #arm(instanceId: string, entry: { timer: Timer | undefined; delayMs: number }): void {
    entry.timer = this.#options.clock.setTimer(entry.delayMs, () => {
      entry.timer = undefined;
      this.#probe(instanceId, entry);
    });
  }

  #probe(instanceId: string, entry: { timer: Timer | undefined; delayMs: number }): void {
    const { table, log, probe, returned, changed } = this.#options;
    const worker = table.record(table.slotOf(instanceId) ?? -1);
    if (worker === undefined) return;
    probe(worker, (isWell) => {
      if (this.#isClosed || this.#probes.get(instanceId) !== entry) return; // left meanwhile, or another life of it
      if (!isWell) {
        entry.delayMs = Math.min(MAX_PROBE_MS, entry.delayMs * 2);
        this.#arm(instanceId, entry);
        return;
      }
      this.#remove(instanceId);
      const slot = table.slotOf(instanceId);
      if (slot !== undefined) table.setInhibited(slot, false);
      returned.inc();
      log.info('worker answers again', { worker: instanceId });
      changed();
    });
  }
}

function healthName(model: string, instanceId: string): string {
  return `inhibited ${model}/${instanceId}`;
}
