import type { Clock, Discovery, Logger, PlainData, Registration, WorkerRecord } from '@armature/contracts';
import { unwellKey } from '../control/unwell.ts';
import type { UnwellWorker } from '../control/unwell.ts';

const TTL_MS = 10_000;
const RETRY_MS = 1_000;

export interface MembershipOptions {
  readonly model: string;
  readonly discovery: Discovery;
  readonly clock: Clock;
  readonly log: Logger;
}

/** A worker's entry in discovery: among those that take requests, or among those that are out and alive. */
export class Membership {
  readonly #options: MembershipOptions;
  #registration: Registration | undefined;
  #unwell: Registration | undefined;
  /** Words about being unwell go out in order, and nobody waits for them. */
  #telling: Promise<void>;

  constructor(options: MembershipOptions) {
    this.#options = options;
    this.#registration = undefined;
    this.#unwell = undefined;
    this.#telling = Promise.resolve();
  }

  async enter(record: WorkerRecord): Promise<void> {
    const { discovery, model } = this.#options;
    this.#registration = await discovery.register(`workers/${model}/${record.instanceId}`, record as unknown as PlainData, { ttlMs: TTL_MS });
  }

  /** A worker outside of discovery is lost to everybody: tried every second until it is in, or `check` throws. */
  async enterAgain(record: WorkerRecord, check: () => void): Promise<void> {
    const { clock, log } = this.#options;
    for (;;) {
      check();
      try {
        await this.enter(record);
        break;
      } catch (error) {
        log.warn('worker could not register again', { worker: record.instanceId, reason: String(error) });
        await clock.sleep(RETRY_MS);
      }
    }
    try {
      check(); // much can happen while discovery answers
    } catch (error) {
      await this.leave();
      throw error;
    }
  }

  /** Idempotent. */
  async leave(): Promise<void> {
    await this.#registration?.close();
  }

  /** Undefined: it is well. Best effort: it helps people, and nothing depends on it. */
  tell(unwell: UnwellWorker | undefined): void {
    const { log } = this.#options;
    this.#telling = this.#telling.then(() => this.#tell(unwell)).catch((error: unknown) => log.warn('discovery was not told how the worker is', { reason: String(error) }));
  }

  async #tell(unwell: UnwellWorker | undefined): Promise<void> {
    const { discovery, model } = this.#options;
    if (unwell === undefined) {
      const entry = this.#unwell;
      this.#unwell = undefined;
      await entry?.close();
    } else if (this.#unwell !== undefined) await this.#unwell.update(unwell as unknown as PlainData);
    else this.#unwell = await discovery.register(unwellKey(model, unwell.instanceId), unwell as unknown as PlainData, { ttlMs: TTL_MS });
  }

  /** Out of both. Discovery that does not answer what it is told of the second is not waited for. */
  close(): Promise<void> {
    this.tell(undefined);
    return this.leave();
  }
}
