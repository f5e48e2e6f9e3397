import type { EngineBackend, KvEvent } from '@armature/contracts';
import type { BlockManager, KvTierEvent } from '@armature/kvbm';
import { EventHistory } from './event-history.ts';

/** Engine events whose number in the merged sequence is remembered exactly. */
const REMEMBERED = 8_192;

export interface WorkerEventsOptions {
  readonly engine: EngineBackend;
  readonly publish: (event: KvEvent) => void;
}

/**
 * The KV events of one worker as others see them: those of its engine and, with a block manager, those of the tiers below, in one sequence without gaps
 * of its own. Without a manager the engine's numbers stay as they are in its first life. Tenants are not told.
 */
export class WorkerEvents {
  #history = new EventHistory();
  readonly #options: WorkerEventsOptions;
  #manager: BlockManager | undefined = undefined;
  #lastId = 0;
  /** Not the first life: the engine's numbers are not those of the sequence. */
  #isRenumbered = false;
  #lastEngineId = 0;
  /** Number in the sequence of engine event `id`, at `id % REMEMBERED`; undefined while the engine's numbers are those of the sequence. */
  #idOf: Float64Array | undefined = undefined;

  /** Listens from here on; before the engine starts, so that no event is missed. */
  constructor(options: WorkerEventsOptions) {
    this.#options = options;
    options.engine.onKvEvent((event) => this.#engineEvent(event));
  }

  get history(): EventHistory {
    return this.#history;
  }

  get lastEventId(): number {
    return this.#lastId;
  }

  /** Tells the manager what the engine has said so far, and listens to it. At most once, before the worker takes requests. */
  attach(manager: BlockManager): void {
    manager.onTierEvent((event) => this.#tierEvent(event));
    for (const event of this.#options.engine.snapshot()) manager.engineEvent(event);
    this.#manager = manager;
    if (this.#idOf === undefined) {
      this.#idOf = new Float64Array(REMEMBERED);
      for (let id = Math.max(1, this.#lastEngineId - REMEMBERED + 1); id <= this.#lastEngineId; id++) this.#idOf[id % REMEMBERED] = id;
    }
    // Number 1 stands for what the tiers hold from earlier lives: whoever follows from there on has had the whole state.
    if (this.#lastId === 0) this.#lastId = 1;
  }

  /** Another life over the same engine and tiers: numbers begin again. Number 1 stands for all that is held, as after `attach`. */
  restart(): void {
    this.#history = new EventHistory();
    this.#isRenumbered = true;
    this.#lastId = 1;
    this.#idOf = new Float64Array(REMEMBERED).fill(1);
  }

  /** Number of an engine's event in the sequence; 0 stays 0. Of one long ago: a later number, which is as good. */
  idOf(engineEventId: number): number {
    if (this.#idOf === undefined || engineEventId === 0) return engineEventId;
    const isRemembered = engineEventId <= this.#lastEngineId && engineEventId > this.#lastEngineId - REMEMBERED;
    return isRemembered ? this.#idOf[engineEventId % REMEMBERED]! : this.#lastId;
  }

  /** Events that rebuild what the worker holds; the last one has the last number given out. */
  snapshot(): readonly KvEvent[] {
    const engine = this.#options.engine.snapshot();
    const manager = this.#manager;
    if (manager === undefined && !this.#isRenumbered) return engine.map(withoutTenant);
    const parts: (KvEvent | KvTierEvent)[] = [...engine.filter((event) => event.type === 'stored').map(withoutTenant), ...(manager?.snapshot() ?? [])];
    if (parts.length === 0) return this.#lastId === 0 ? [] : [{ type: 'cleared', eventId: this.#lastId }];
    const first = this.#lastId - parts.length + 1;
    return parts.map((event, i) => Object.assign({}, event, { eventId: Math.max(1, first + i) }));
  }

  #engineEvent(event: KvEvent): void {
    const manager = this.#manager;
    manager?.engineEvent(event);
    // Events that an engine skipped are missing in this sequence too: followers then ask for the whole state.
    this.#lastId += event.eventId - this.#lastEngineId;
    this.#lastEngineId = event.eventId;
    if (this.#idOf !== undefined) this.#idOf[event.eventId % REMEMBERED] = this.#lastId;
    // What the engine has cleared the tiers below may still hold.
    if (manager !== undefined && event.type === 'cleared' && event.tier === undefined) this.#publish({ type: 'cleared', eventId: this.#lastId, tier: 'device' });
    else this.#publish({ ...withoutTenant(event), eventId: this.#lastId });
  }

  #tierEvent(event: KvTierEvent): void {
    this.#publish({ ...event, eventId: ++this.#lastId });
  }

  #publish(event: KvEvent): void {
    this.#history.push(event);
    this.#options.publish(event);
  }
}

function withoutTenant(event: KvEvent): KvEvent {
  if (event.type !== 'stored' || event.cacheSalt === undefined) return event;
  const { cacheSalt: _tenant, ...rest } = event;
  return rest;
}
