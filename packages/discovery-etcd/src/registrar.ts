import { randomUUID } from 'node:crypto';
import { CompareResult, CompareTarget } from 'etcd3';
import { ArmatureError } from '@armature/contracts';
import type { Codec, Health, PlainData, Registration, Timer } from '@armature/contracts';
import { pack, unpack } from './envelope.ts';
import { closedError, etcdError, takenError } from './errors.ts';
import type { EtcdClient } from './etcd-client.ts';
import type { KeySpace } from './keys.ts';
import { LeaseGroup } from './lease-group.ts';
import type { EtcdLink, LinkUser, Session } from './link.ts';
import type { DiscoveryGauges } from './metrics.ts';
import { DEFAULT_TTL_MS } from './options.ts';
import type { Leaves } from './options.ts';
import { eachOf, Slots } from './wait.ts';

/** One key that this process owns, or has to remove. */
interface Owned {
  readonly key: string;
  readonly etcdKey: Buffer;
  readonly id: string;
  readonly group: LeaseGroup;
  /** What shall lie in etcd; undefined = nothing. */
  wanted: Buffer | undefined;
  /** Counts changes of `wanted`. */
  version: number;
  writtenVersion: number;
  /** Lease that the key was written under last. */
  leaseId: string | undefined;
  /** Revision of our last write: what guards the next one. */
  modRevision: string;
  /** Another owner has taken the key while we were away. */
  isTaken: boolean;
  /** Writes to one key follow each other. */
  turn: Promise<void>;
}

interface RegistrarParts {
  readonly leaves: Leaves;
  readonly codec: Codec;
  readonly health: Health;
  readonly link: EtcdLink;
  readonly keys: KeySpace;
  readonly gauges: DiscoveryGauges;
}

const PARALLEL_WRITES = 32;
/** A key contested so often within one write is given up as taken. */
const MAX_RACES = 8;

/**
 * The entries that this process owns, as what shall lie in etcd. Whatever happens (lease lost, store wiped, a write without an answer), `#restore`
 * writes what differs, again on every session until nothing does.
 */
export class Registrar implements LinkUser {
  readonly #parts: RegistrarParts;
  readonly #process = randomUUID();
  readonly #owned = new Map<string, Owned>();
  /** Closed, but perhaps still in etcd. By registration, because its key may be registered again meanwhile. */
  readonly #leaving = new Set<Owned>();
  readonly #groups = new Map<number, LeaseGroup>();
  /** A thousand registrations at once wait here, not in etcd, where their deadlines would pass. */
  readonly #slots = new Slots(PARALLEL_WRITES);
  #count = 0;
  #timer: Timer | undefined = undefined;
  #isRestoring = false;
  #isClosed = false;

  constructor(parts: RegistrarParts) {
    this.#parts = parts;
  }

  async register(key: string, value: PlainData, ttlMs = DEFAULT_TTL_MS): Promise<Registration> {
    if (this.#owned.has(key)) throw takenError(key);
    const id = `${this.#process}/${++this.#count}`;
    const owned: Owned = {
      key,
      etcdKey: this.#parts.keys.entry(key),
      id,
      group: this.#group(ttlMs),
      wanted: this.#pack(key, id, value),
      version: 1,
      writtenVersion: 0,
      leaseId: undefined,
      modRevision: '0',
      isTaken: false,
      turn: Promise.resolve(),
    };
    this.#owned.set(key, owned); // before the first await: a second register of the same key in this process meets it
    this.#gauges.registrations.set(this.#owned.size);
    try {
      await this.#write(owned, 1);
    } catch (error) {
      this.#owned.delete(key);
      this.#gauges.registrations.set(this.#owned.size);
      // The write may have arrived although its answer did not.
      if (!this.#isClosed && ArmatureError.from(error).code !== 'DISCOVERY_KEY_TAKEN') {
        this.#leave(owned);
        this.#restoreSoon(this.#leaves.config.reconnectMinMs);
      }
      throw error;
    }
    return { update: (next) => this.#update(owned, next), close: () => this.#close(owned) };
  }

  up(session: Session): void {
    for (const group of this.#groups.values()) group.up(session);
    this.#restoreSoon(0);
  }

  down(): void {
    for (const group of this.#groups.values()) group.down();
  }

  /** Revokes the leases: one request removes all entries that share one. */
  async close(): Promise<void> {
    this.#isClosed = true;
    if (this.#timer !== undefined) this.#leaves.clock.clearTimer(this.#timer);
    const { session } = this.#parts.link;
    await Promise.all([...this.#groups.values()].map((group) => group.close(session)));
    this.#owned.clear();
    this.#leaving.clear();
    this.#gauges.registrations.set(0);
  }

  get #leaves(): Leaves {
    return this.#parts.leaves;
  }
  get #gauges(): DiscoveryGauges {
    return this.#parts.gauges;
  }

  async #update(owned: Owned, value: PlainData): Promise<void> {
    if (this.#owned.get(owned.key) !== owned) throw new ArmatureError('DISCOVERY_REGISTRATION_CLOSED', `the registration of "${owned.key}" has ended`, { hint: 'register again' });
    owned.wanted = this.#pack(owned.key, owned.id, value);
    await this.#write(owned, ++owned.version);
  }

  async #close(owned: Owned): Promise<void> {
    if (this.#owned.get(owned.key) !== owned) return;
    this.#owned.delete(owned.key);
    this.#gauges.registrations.set(this.#owned.size);
    const version = this.#leave(owned);
    try {
      await this.#write(owned, version);
      this.#leaving.delete(owned);
    } catch (error) {
      this.#leaves.log.warn('an entry could not be removed yet; it is when etcd is back, or when its lease ends', { key: owned.key, reason: (error as Error).message });
    }
  }

  #leave(owned: Owned): number {
    owned.wanted = undefined;
    this.#leaving.add(owned);
    return ++owned.version;
  }

  #pack(key: string, id: string, value: PlainData): Buffer {
    return pack(this.#parts.codec, key, { id, value }, this.#leaves.config.maxValueBytes);
  }

  #group(ttlMs: number): LeaseGroup {
    let group = this.#groups.get(ttlMs);
    if (group === undefined) {
      const { leaves, link, gauges } = this.#parts;
      group = new LeaseGroup(ttlMs, { leaves, link, gauges, onLost: () => this.#restoreSoon(leaves.random.next() * leaves.config.restoreJitterMs) });
      this.#groups.set(ttlMs, group);
    }
    return group;
  }

  // ---------------------------------------------------------------- writing

  /** Resolves when `version` or a later one lies in etcd. Several waiting changes of a key become one write. */
  #write(owned: Owned, version: number): Promise<void> {
    const result = owned.turn.then(async () => {
      if (owned.writtenVersion >= version && this.#isInPlace(owned)) return;
      await this.#slots.run(() =>
        this.#parts.link.call(async (session) => {
          if (this.#isClosed) throw closedError(`"${owned.key}" was written`);
          await this.#writeOnce(session, owned);
        }),
      );
    });
    owned.turn = result.catch(() => undefined);
    return result;
  }

  async #writeOnce(session: Session, owned: Owned): Promise<void> {
    for (let race = 0; race < MAX_RACES; race++) {
      const { version, wanted } = owned;
      const leaseId = wanted === undefined ? undefined : await owned.group.lease(session);
      const answer = await this.#tryWrite(session.client, owned, wanted, leaseId).catch((error: unknown) => {
        if (leaseId === undefined || etcdError(error, session.endpoint).code !== 'DISCOVERY_LEASE_LOST') throw error;
        owned.group.lost(leaseId);
        return undefined;
      });
      if (answer === undefined) continue;
      if (!answer.succeeded) {
        this.#learn(owned, answer.responses[0]?.response_range.kvs[0]);
        if (wanted === undefined && owned.modRevision === '0') return void (owned.writtenVersion = version);
        continue;
      }
      const isAgain = owned.leaseId !== undefined && leaseId !== undefined && owned.leaseId !== leaseId;
      if (isAgain) this.#gauges.reregistrations.inc();
      owned.modRevision = wanted === undefined ? '0' : answer.header.revision;
      owned.leaseId = leaseId;
      owned.writtenVersion = version;
      owned.isTaken = false;
      return;
    }
    throw takenError(owned.key);
  }

  #tryWrite(client: EtcdClient, { etcdKey: key, modRevision }: Owned, wanted: Buffer | undefined, lease: string | undefined): ReturnType<EtcdClient['kv']['txn']> {
    return client.kv.txn({
      compare: [{ key, target: CompareTarget.Mod, result: CompareResult.Equal, mod_revision: modRevision }],
      success: [wanted === undefined ? { request_delete_range: { key } } : { request_put: { key, value: wanted, lease: lease as string } }],
      failure: [{ request_range: { key } }],
    });
  }

  /** The key is not as our last write left it. Throws `DISCOVERY_KEY_TAKEN`, unless it may be written over. */
  #learn(owned: Owned, found: { readonly mod_revision: string; readonly value: Buffer } | undefined): void {
    if (found === undefined) {
      owned.modRevision = '0';
      return;
    }
    const id = unpack(this.#parts.codec, found.value)?.id;
    const isOurs = id === owned.id || (owned.wanted !== undefined && this.#isLeft(id));
    if (isOurs) {
      owned.modRevision = found.mod_revision;
    } else if (owned.wanted === undefined) {
      owned.modRevision = '0'; // somebody else's by now: nothing of ours is left to remove
    } else {
      throw takenError(owned.key);
    }
  }

  /** A registration of this process that has ended, but whose key is still there. */
  #isLeft(id: string | undefined): boolean {
    for (const owned of this.#leaving) if (owned.id === id) return true;
    return false;
  }

  // ---------------------------------------------------------------- after a loss

  #isInPlace(owned: Owned): boolean {
    return owned.writtenVersion === owned.version && (owned.wanted === undefined || (owned.leaseId !== undefined && owned.leaseId === owned.group.leaseId));
  }

  #restoreSoon(delayMs: number): void {
    if (this.#isClosed) return;
    if (this.#timer !== undefined) this.#leaves.clock.clearTimer(this.#timer);
    this.#timer = this.#leaves.clock.setTimer(delayMs, () => {
      this.#timer = undefined;
      void this.#restore();
    });
  }

  /** Writes what differs. Ends with everything in place, or with a later try planned. */
  async #restore(): Promise<void> {
    const session = this.#parts.link.session;
    if (this.#isRestoring || session === undefined) return this.#isRestoring ? this.#restoreSoon(this.#leaves.config.reconnectMinMs) : undefined;
    this.#isRestoring = true;
    const todo = [...this.#leaving, ...this.#owned.values()].filter((owned) => !this.#isInPlace(owned));
    await eachOf(todo, PARALLEL_WRITES, (owned) => this.#put(session, owned));
    this.#isRestoring = false;
    this.#reportTaken();
    const left = [...this.#leaving, ...this.#owned.values()].some((owned) => !this.#isInPlace(owned));
    if (left && session.isOpen) this.#restoreSoon(this.#leaves.config.reconnectMaxMs * (0.5 + 0.5 * this.#leaves.random.next()));
  }

  #reportTaken(): void {
    const taken = [...this.#owned.values()].filter((owned) => owned.isTaken).map((owned) => owned.key);
    const { health } = this.#parts;
    if (taken.length === 0) health.remove('discovery-registrations');
    else health.set('discovery-registrations', 'degraded', `${taken.length} entries were taken by another owner while etcd was away, first "${taken[0] as string}"; give each instance its own name`);
  }

  async #put(session: Session, owned: Owned): Promise<void> {
    const step = owned.turn.then(async () => {
      if (!session.isOpen || this.#isClosed || this.#isInPlace(owned)) return;
      await this.#parts.link.once(session, () => this.#writeOnce(session, owned));
      if (owned.wanted === undefined) this.#leaving.delete(owned);
    });
    owned.turn = step.catch(() => undefined);
    await step.catch((error: unknown) => {
      const { code, message, hint } = ArmatureError.from(error);
      if (code !== 'DISCOVERY_KEY_TAKEN' || !owned.isTaken) this.#leaves.log.warn('an entry could not be registered again yet', { code, key: owned.key, reason: message, hint });
      owned.isTaken = code === 'DISCOVERY_KEY_TAKEN';
    });
  }
}
