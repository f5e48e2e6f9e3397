import { ArmatureError } from '@armature/contracts';
import type { Discovery, EventPlane, Logger, PlainData, Registration } from '@armature/contracts';
import type { Connection } from './connection.ts';
import type { PlaneBridge } from './tcp-request-plane.ts';
import { Frame, wireInvalid } from './wire.ts';

export interface BridgeOptions {
  /** Undefined: discovery reaches other processes by itself. */
  readonly discovery: Discovery | undefined;
  readonly events: EventPlane | undefined;
  readonly log: Logger;
}

/** What is carried over connections; everything else stays in its process. */
export const BRIDGED_KEYS = 'workers/';
export const BRIDGED_SUBJECTS = ['kv/', 'load/'] as const;

/** One key that peers registered here. Its steps run one after the other. */
interface Imported {
  readonly owners: Set<Connection>;
  steps: Promise<Registration | undefined>;
}

const MAX_IMPORTED = 65_536;

/**
 * Carries registrations and events between processes whose discovery and event planes live in memory. Each process forwards what
 * began in it, to every peer it is connected to; nothing is forwarded twice. What came over a connection goes when it closes.
 * Frames of a connection are applied in order: an event published before a stream frame is seen before it.
 */
export class MemoryBridge implements PlaneBridge {
  readonly #options: BridgeOptions;
  readonly #connections = new Set<Connection>();
  /** What this process registered itself. */
  readonly #local = new Map<string, PlainData>();
  readonly #imported = new Map<string, Imported>();
  /** Subjects that come from peers: not to be sent on. */
  readonly #foreignSubjects = new Map<string, Connection>();
  readonly #closers: { close(): void }[] = [];
  #isClosed = false;

  constructor(options: BridgeOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    const { discovery, events } = this.#options;
    if (events !== undefined) {
      for (const prefix of BRIDGED_SUBJECTS) this.#closers.push(events.subscribe(prefix, (subject, payload) => this.#published(subject, payload)));
    }
    if (discovery === undefined) return;
    const watch = await discovery.watch(BRIDGED_KEYS, {
      put: ({ key, value }) => this.#put(key, value),
      removed: (key) => this.#removed(key),
    });
    this.#closers.push(watch);
  }

  ready(connection: Connection): void {
    this.#connections.add(connection);
    for (const [key, value] of this.#local) connection.sendControl(Frame.Register, { key, value });
  }

  control(connection: Connection, type: number, body: PlainData): void {
    const { key, value, subject, payload } = (body ?? {}) as Readonly<Record<string, PlainData>>;
    if (type === Frame.Event) {
      if (typeof subject !== 'string' || !BRIDGED_SUBJECTS.some((prefix) => subject.startsWith(prefix))) throw wireInvalid('an event of a subject that is not bridged');
      this.#publish(connection, subject, payload);
      return;
    }
    if (typeof key !== 'string' || !key.startsWith(BRIDGED_KEYS)) throw wireInvalid('a registration that is not bridged');
    if (type === Frame.Register) this.#register(connection, key, value);
    else this.#unregister(connection, key);
  }

  closed(connection: Connection): void {
    this.#connections.delete(connection);
    for (const key of [...this.#imported.keys()]) this.#unregister(connection, key);
    for (const [subject, from] of this.#foreignSubjects) if (from === connection) this.#foreignSubjects.delete(subject);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const closer of this.#closers.splice(0)) closer.close();
    const imported = [...this.#imported.values()];
    this.#imported.clear();
    await Promise.all(imported.map(async ({ steps }) => (await steps)?.close()));
  }

  #put(key: string, value: PlainData): void {
    if (this.#imported.has(key)) return;
    this.#local.set(key, value);
    for (const connection of this.#connections) connection.sendControl(Frame.Register, { key, value });
  }

  #removed(key: string): void {
    if (!this.#local.delete(key)) return;
    for (const connection of this.#connections) connection.sendControl(Frame.Unregister, { key });
  }

  #published(subject: string, payload: PlainData): void {
    if (this.#connections.size === 0 || this.#foreignSubjects.has(subject)) return;
    for (const connection of this.#connections) connection.sendControl(Frame.Event, { subject, payload });
  }

  #publish(connection: Connection, subject: string, payload: PlainData): void {
    if (this.#options.events === undefined || this.#isClosed) return;
    if (this.#foreignSubjects.get(subject) === undefined) {
      if (this.#foreignSubjects.size >= MAX_IMPORTED) throw wireInvalid('events of too many subjects');
      this.#foreignSubjects.set(subject, connection);
    }
    this.#options.events.publish(subject, payload);
  }

  #register(connection: Connection, key: string, value: PlainData): void {
    const { discovery, log } = this.#options;
    if (discovery === undefined || this.#isClosed) return;
    if (this.#local.has(key)) {
      log.warn('a peer registers a key of this process; ignored', { key, peer: connection.address });
      return;
    }
    const known = this.#imported.get(key);
    if (known !== undefined) {
      known.owners.add(connection);
      known.steps = this.#step(known.steps, key, async (registration) => {
        if (registration === undefined) return discovery.register(key, value);
        await registration.update(value);
        return registration;
      });
      return;
    }
    if (this.#imported.size >= MAX_IMPORTED) throw wireInvalid('too many registrations');
    this.#imported.set(key, { owners: new Set([connection]), steps: this.#step(Promise.resolve(undefined), key, () => discovery.register(key, value)) });
  }

  #unregister(connection: Connection, key: string): void {
    const known = this.#imported.get(key);
    if (known === undefined || !known.owners.delete(connection) || known.owners.size > 0) return;
    // The entry stays until it is removed from discovery: what the watch then tells is not local.
    known.steps = this.#step(known.steps, key, async (registration) => {
      await registration?.close();
      if (known.owners.size === 0) this.#imported.delete(key);
      return undefined;
    });
  }

  #step(before: Promise<Registration | undefined>, key: string, run: (registration: Registration | undefined) => Promise<Registration | undefined>): Promise<Registration | undefined> {
    return before.then(run).catch((error: unknown) => {
      this.#options.log.warn('bridged registration failed', { key, code: ArmatureError.from(error).code, error: String(error) });
      return undefined;
    });
  }
}
