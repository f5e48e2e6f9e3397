import type { ArmatureError, Timer } from '@armature/contracts';
import { etcdError } from './errors.ts';
import type { WatchAnswer, WatchStream } from './etcd-client.ts';
import type { KeySpace } from './keys.ts';
import type { EtcdLink, LinkUser, Session } from './link.ts';
import type { DiscoveryGauges } from './metrics.ts';
import type { Leaves } from './options.ts';
import type { Stored, WatchView } from './view.ts';

interface PrefixWatchParts {
  readonly leaves: Leaves;
  readonly link: EtcdLink;
  readonly keys: KeySpace;
  readonly gauges: DiscoveryGauges;
}

/** Entries read with one request; the snapshot's pages are all of one revision. */
const PAGE = 1000;

/**
 * Feeds one view: a snapshot at a revision, then every event from the next revision on. A new session goes on from the last event seen;
 * where etcd cannot do that (compacted, wiped, restored), a new snapshot is compared with what is known.
 */
export class PrefixWatch implements LinkUser {
  readonly #parts: PrefixWatchParts;
  readonly #prefix: string;
  readonly #view: WatchView;
  readonly #onSynced: () => void;
  #store = '';
  /** Revision of the snapshot or of the last event seen. Never a header's: while catching up, those run ahead of the events. */
  #revision = 0n;
  #isSynced = false;
  #stream: WatchStream | undefined = undefined;
  #retry: Timer | undefined = undefined;
  #graceTimer: Timer | undefined = undefined;
  #isInGrace = false;
  /** Counts attempts, so that one that was overtaken ends. */
  #attempt = 0;
  #isClosed = false;

  constructor(prefix: string, view: WatchView, onSynced: () => void, parts: PrefixWatchParts) {
    this.#prefix = prefix;
    this.#view = view;
    this.#onSynced = onSynced;
    this.#parts = parts;
  }

  up(session: Session): void {
    if (this.#isSynced) this.#startGrace();
    void this.#follow(session, this.#isSynced && this.#store === session.store);
  }

  down(): void {
    this.#attempt++;
    this.#clear('retry');
    this.#stopStream();
    // Unreachable is no proof that anybody has gone: what is held stays until etcd is back and the grace begins anew.
    if (this.#isSynced) this.#isInGrace = true;
    this.#clear('grace');
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#parts.link.detach(this);
    this.down();
    this.#view.close();
  }

  /** One way from here to a running stream. */
  async #follow(session: Session, canResume: boolean): Promise<void> {
    const attempt = ++this.#attempt;
    const isCurrent = (): boolean => attempt === this.#attempt && session.isOpen && !this.#isClosed;
    try {
      if (!canResume) {
        const snapshot = await this.#snapshot(session);
        if (!isCurrent()) return;
        this.#apply(snapshot.entries);
        this.#revision = snapshot.revision;
        this.#store = session.store;
      }
      if (this.#isSynced && !this.#isClosed) (canResume ? this.#parts.gauges.watchResumes : this.#parts.gauges.watchSnapshots).inc();
      const stream = await session.client.watch();
      stream.on('error', (error) => this.#broken(session, stream, error));
      if (!isCurrent()) return void stream.cancel();
      this.#stream = stream;
      stream.on('end', () => this.#broken(session, stream, new Error('the watch stream ended')));
      stream.on('data', (answer) => this.#answered(session, stream, answer));
      stream.write({ create_request: { ...this.#parts.keys.range(this.#prefix), start_revision: String(this.#revision + 1n) } });
    } catch (error) {
      if (isCurrent()) this.#again(session, etcdError(error, session.endpoint));
      return;
    }
    if (this.#isSynced) return;
    this.#isSynced = true;
    this.#view.synced();
    this.#onSynced();
  }

  async #snapshot(session: Session): Promise<{ readonly entries: Stored[]; readonly revision: bigint }> {
    const { keys, link } = this.#parts;
    const range = keys.range(this.#prefix);
    const entries: Stored[] = [];
    let key = range.key;
    let revision = '0';
    for (;;) {
      const page = await link.once(session, (client) => client.kv.range({ ...range, key, limit: PAGE, revision }));
      if (revision === '0') revision = page.header.revision;
      for (const kv of page.kvs) entries.push(this.#stored(kv));
      const last = page.kvs.at(-1);
      if (!page.more || last === undefined) return { entries, revision: BigInt(revision) };
      key = Buffer.concat([last.key, Buffer.of(0)]);
    }
  }

  #apply(entries: readonly Stored[]): void {
    this.#view.replace(entries, this.#isInGrace);
  }

  #answered(session: Session, stream: WatchStream, answer: WatchAnswer): void {
    if (this.#stream !== stream) return;
    if (answer.canceled) {
      const isCompacted = Number(answer.compact_revision) > 0;
      const reason = isCompacted ? `revision ${this.#revision + 1n} is compacted, ${answer.compact_revision} is the first` : `the watch was cancelled: ${answer.cancel_reason}`;
      this.#stopStream();
      if (isCompacted) {
        this.#parts.leaves.log.info('a discovery watch takes a new snapshot', { prefix: this.#prefix, reason });
        this.#startGrace();
        void this.#follow(session, false);
      } else {
        this.#again(session, etcdError(new Error(reason), session.endpoint));
      }
      return;
    }
    for (const event of answer.events) {
      if (String(event.type).toUpperCase() === 'DELETE') this.#view.removed(this.#parts.keys.keyOf(event.kv.key), this.#isInGrace);
      else this.#view.put(this.#stored(event.kv));
      if (this.#stream !== stream) return; // closed by the watcher
      this.#revision = BigInt(event.kv.mod_revision);
    }
  }

  #stored(kv: { readonly key: Buffer; readonly value: Buffer }): Stored {
    return { key: this.#parts.keys.keyOf(kv.key), bytes: kv.value };
  }

  #broken(session: Session, stream: WatchStream, error: unknown): void {
    if (this.#stream !== stream) return;
    this.#stopStream();
    this.#again(session, etcdError(error, session.endpoint));
  }

  /** The stream broke, the session perhaps not: goes on from the last event after a pause. */
  #again(session: Session, error: ArmatureError): void {
    const { clock, config, random, log } = this.#parts.leaves;
    if (!session.isOpen || this.#isClosed) return;
    log.warn('a discovery watch was interrupted', { code: error.code, prefix: this.#prefix, reason: error.message });
    this.#clear('retry');
    this.#retry = clock.setTimer(config.reconnectMinMs * (1 + random.next()), () => {
      this.#retry = undefined;
      if (session.isOpen) this.up(session);
    });
  }

  /** From now on removals are held back, until `graceMs` have passed on a session. */
  #startGrace(): void {
    const { clock, config } = this.#parts.leaves;
    this.#isInGrace = true;
    this.#clear('grace');
    this.#graceTimer = clock.setTimer(config.graceMs, () => {
      this.#graceTimer = undefined;
      this.#isInGrace = false;
      this.#view.releaseHeld();
    });
  }

  #stopStream(): void {
    const stream = this.#stream;
    this.#stream = undefined;
    stream?.cancel();
  }

  #clear(which: 'retry' | 'grace'): void {
    const timer = which === 'retry' ? this.#retry : this.#graceTimer;
    if (timer !== undefined) this.#parts.leaves.clock.clearTimer(timer);
    if (which === 'retry') this.#retry = undefined;
    else this.#graceTimer = undefined;
  }
}
