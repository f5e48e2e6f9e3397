import { createHash, randomUUID } from 'node:crypto';
import { watch as watchFolder } from 'node:fs';
import type { FSWatcher } from 'node:fs';
import { link, mkdir, readdir, readFile, rename, stat, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Codec, Discovery, DiscoveryWatcher, Logger, PlainData, Registration, Timer } from '@armature/contracts';
import { isProcessGone, processIdentity } from './process-identity.ts';
import type { ProcessIdentity } from './process-identity.ts';
import { SerialQueue } from './serial-queue.ts';

export interface FileDiscoveryOptions {
  /** Folder that all processes see: a local one, or a network file system. */
  readonly path: string;
  readonly pollMs: number;
  readonly codec: Codec;
  readonly clock: Clock;
  readonly log: Logger;
}

/** What a file of `entries/` says. */
interface Entry {
  readonly key: string;
  readonly owner: string;
  readonly ttlMs: number;
  readonly process: ProcessIdentity;
  readonly value: PlainData;
}
interface Seen {
  readonly entry: Entry;
  /** Changes with each rewrite of the file. */
  readonly signature: string;
}
interface Watch {
  readonly prefix: string;
  readonly watcher: DiscoveryWatcher;
  isOpen: boolean;
}

const DEFAULT_TTL_MS = 10_000;
const HEARTBEAT_MS = 1_000;
/** An entry whose owner has been dead for this many times its life is deleted by whoever sees it. */
const FORGOTTEN_AFTER = 10;
/** A folder changed this recently may change again within the same time stamp. */
const STAMP_MS = 100;
const TAKE_TRIES = 5;

/**
 * Discovery through a folder: one file per entry, written beside and renamed, and one file per process whose time stamp is renewed every second.
 * All times are those the file system gives, so that clocks of hosts need not agree. On the same host a process that has ended is noticed at once.
 */
export class FileDiscovery implements Discovery {
  readonly supports = { processes: true } as const;
  readonly #options: FileDiscoveryOptions;
  readonly #owner = randomUUID();
  readonly #identity = processIdentity();
  readonly #entries: string;
  readonly #owners: string;
  readonly #watches = new Set<Watch>();
  readonly #own = new Map<string, Entry>();
  readonly #queue: SerialQueue;
  /** What watchers know, by key. */
  #view = new Map<string, Seen>();
  /** By file name: what was read last, so that unchanged files are not read again. */
  #files = new Map<string, Seen>();
  #folderStamp = -1;
  /** Time of the file system at a moment of the clock. */
  #stampMs = 0;
  #stampedAtMs = 0;
  #polling: Promise<void> | undefined = undefined;
  #nextPoll: Promise<void> | undefined = undefined;
  #timer: Timer | undefined = undefined;
  #notifier: FSWatcher | undefined = undefined;
  #isClosed = false;

  constructor(options: FileDiscoveryOptions) {
    this.#options = options;
    this.#entries = join(options.path, 'entries');
    this.#owners = join(options.path, 'owners');
    this.#queue = new SerialQueue((error) => options.log.error('discovery watcher threw', { error: String(error) }));
  }

  /** Throws `DISCOVERY_FOLDER_UNUSABLE`. */
  async start(): Promise<void> {
    try {
      await mkdir(this.#entries, { recursive: true });
      await mkdir(this.#owners, { recursive: true });
      await this.#beat();
    } catch (error) {
      const hint = 'give discovery.config.path a folder that this process may write to';
      throw new ArmatureError('DISCOVERY_FOLDER_UNUSABLE', `the discovery folder ${this.#options.path} cannot be used: ${(error as Error).message}`, { hint, cause: error });
    }
    // A hint only: network file systems tell nothing, polling finds every change.
    try {
      this.#notifier = watchFolder(this.#entries, { persistent: false }, () => void this.#poll());
      this.#notifier.on('error', () => this.#notifier?.close());
    } catch {
      this.#notifier = undefined;
    }
    this.#schedule();
  }

  async register(key: string, value: PlainData, options: { readonly ttlMs?: number } = {}): Promise<Registration> {
    this.#refuseIfClosed(`"${key}" was registered`);
    if (this.#stampedAtMs === 0) await this.start();
    const entry: Entry = { key, owner: this.#owner, ttlMs: options.ttlMs ?? DEFAULT_TTL_MS, process: this.#identity, value };
    if (this.#own.has(key)) throw taken(key);
    this.#own.set(key, entry); // before the first await: a second register of the same key in this process meets it
    try {
      await this.#take(entry);
    } catch (error) {
      this.#own.delete(key);
      throw error;
    }
    await this.#poll();
    let current = entry;
    return {
      update: async (next) => {
        if (this.#own.get(key) !== current) throw new ArmatureError('DISCOVERY_REGISTRATION_CLOSED', `the registration of "${key}" has ended`, { hint: 'register again' });
        current = { ...current, value: next };
        this.#own.set(key, current);
        await this.#write(current, (from, to) => rename(from, to));
        await this.#poll();
      },
      close: async () => {
        if (this.#own.get(key) !== current) return;
        this.#own.delete(key);
        await this.#removeOwn(key);
        await this.#poll();
      },
    };
  }

  async watch(prefix: string, watcher: DiscoveryWatcher): Promise<{ close(): void }> {
    this.#refuseIfClosed(`"${prefix}" was watched`);
    if (this.#stampedAtMs === 0) await this.start();
    await this.#poll();
    const watch: Watch = { prefix, watcher, isOpen: true };
    return new Promise((resolve) => {
      for (const { entry } of this.#view.values()) if (entry.key.startsWith(prefix)) this.#tell(watch, () => watcher.put({ key: entry.key, value: this.#copy(entry.value) }));
      this.#watches.add(watch);
      this.#queue.push(() => {
        try {
          if (watch.isOpen) watcher.synced?.();
        } finally {
          resolve({
            close: () => {
              watch.isOpen = false;
              this.#watches.delete(watch);
            },
          });
        }
      });
      this.#queue.drain();
    });
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#notifier?.close();
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    for (const watch of this.#watches) watch.isOpen = false;
    this.#watches.clear();
    await this.#polling;
    await this.#nextPoll;
    for (const key of this.#own.keys()) await this.#removeOwn(key);
    this.#own.clear();
    if (this.#stampedAtMs !== 0) await unlink(join(this.#owners, this.#owner)).catch(() => undefined);
  }

  #refuseIfClosed(what: string): void {
    if (this.#isClosed) throw new ArmatureError('DISCOVERY_CLOSED', `${what} after discovery was closed`, { hint: 'register and watch before close' });
  }

  // ---------------------------------------------------------------- entries

  /** Creates the entry's file, or takes over one whose owner is dead. */
  async #take(entry: Entry): Promise<void> {
    for (let tries = 0; tries < TAKE_TRIES; tries++) {
      const present = await this.#read(fileOf(entry.key));
      if (present !== undefined && !(await this.#isDead(present, 1))) throw taken(entry.key);
      try {
        await this.#write(entry, present === undefined ? (from, to) => link(from, to).then(() => unlink(from)) : (from, to) => rename(from, to));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EEXIST') continue; // another one was faster: look again
        throw error;
      }
      // Two that take over the same dead entry: the last rename counts, the other one finds it here.
      const now = await this.#read(fileOf(entry.key));
      if (now?.owner === this.#owner) return;
    }
    throw taken(entry.key);
  }

  async #write(entry: Entry, place: (from: string, to: string) => Promise<unknown>): Promise<void> {
    const target = join(this.#entries, fileOf(entry.key));
    const draft = join(this.#owners, `${randomUUID()}.draft`);
    await writeFile(draft, this.#options.codec.encode(entry as unknown as PlainData), { mode: 0o600 });
    try {
      await place(draft, target);
    } catch (error) {
      await unlink(draft).catch(() => undefined);
      throw error;
    }
  }

  async #removeOwn(key: string): Promise<void> {
    const present = await this.#read(fileOf(key));
    if (present?.owner === this.#owner) await unlink(join(this.#entries, fileOf(key))).catch(() => undefined);
  }

  /** Undefined: no such file, or not (yet) one of ours. */
  async #read(file: string): Promise<Entry | undefined> {
    try {
      const entry = this.#options.codec.decode(await readFile(join(this.#entries, file))) as unknown as Entry;
      return typeof entry.key === 'string' && typeof entry.owner === 'string' && fileOf(entry.key) === file ? entry : undefined;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') this.#options.log.warn('a file in the discovery folder cannot be read', { code: 'DISCOVERY_FILE_INVALID', file, reason: String(error) });
      return undefined;
    }
  }

  // ---------------------------------------------------------------- who is alive

  /** Renews this process' time stamp, and learns the file system's time from it. */
  async #beat(): Promise<void> {
    const file = join(this.#owners, this.#owner);
    await writeFile(file, '', { mode: 0o600 });
    // Truncating an empty file may leave its time alone: one byte makes sure.
    await writeFile(file, '.', { mode: 0o600 });
    this.#stampMs = (await stat(file)).mtimeMs;
    this.#stampedAtMs = this.#options.clock.nowMs();
  }

  #fileSystemNow(): number {
    return this.#stampMs + (this.#options.clock.nowMs() - this.#stampedAtMs);
  }

  /** Its owner has not renewed for `lives` times the entry's life, or has ended. */
  async #isDead(entry: Entry, lives: number): Promise<boolean> {
    if (entry.owner === this.#owner) return !this.#own.has(entry.key);
    if (lives === 1 && isProcessGone(entry.process, this.#identity)) return true;
    try {
      const { mtimeMs } = await stat(join(this.#owners, entry.owner));
      return this.#fileSystemNow() - mtimeMs >= lives * entry.ttlMs;
    } catch {
      return true;
    }
  }

  // ---------------------------------------------------------------- changes

  #schedule(): void {
    if (this.#isClosed) return;
    this.#timer = this.#options.clock.setTimer(this.#options.pollMs, () => {
      void this.#poll().then(() => this.#schedule());
    });
  }

  /** A look that begins now, or after the one that runs: what the caller did before is seen. */
  #poll(): Promise<void> {
    if (this.#isClosed) return this.#polling ?? Promise.resolve();
    if (this.#polling === undefined) {
      this.#polling = this.#look()
        .catch((error: unknown) => {
          // An unreachable folder is no proof that anybody has gone: what is known stays.
          this.#options.log.warn('the discovery folder cannot be read; what is known stays', { code: 'DISCOVERY_FOLDER_UNUSABLE', path: this.#options.path, reason: String(error) });
        })
        .finally(() => {
          this.#polling = undefined;
        });
      return this.#polling;
    }
    this.#nextPoll ??= this.#polling.then(() => {
      this.#nextPoll = undefined;
      return this.#poll();
    });
    return this.#nextPoll;
  }

  async #look(): Promise<void> {
    if (this.#options.clock.nowMs() - this.#stampedAtMs >= HEARTBEAT_MS) await this.#beat();
    const folder = await stat(this.#entries);
    const isQuiet = folder.mtimeMs === this.#folderStamp && this.#fileSystemNow() - folder.mtimeMs > STAMP_MS;
    if (!isQuiet) await this.#readFolder();
    this.#folderStamp = folder.mtimeMs;
    const view = new Map<string, Seen>();
    const owners = new Map<string, boolean>();
    for (const seen of this.#files.values()) {
      const { entry } = seen;
      const life = `${entry.owner} ${entry.ttlMs}`;
      let isDead = owners.get(life);
      if (isDead === undefined || entry.owner === this.#owner) owners.set(life, (isDead = await this.#isDead(entry, 1)));
      if (!isDead) view.set(entry.key, seen);
      else if (entry.owner !== this.#owner && (await this.#isDead(entry, FORGOTTEN_AFTER))) await unlink(join(this.#entries, fileOf(entry.key))).catch(() => undefined);
    }
    if (!this.#isClosed) this.#apply(view);
  }

  async #readFolder(): Promise<void> {
    const files = new Map<string, Seen>();
    for (const file of await readdir(this.#entries)) {
      let signature: string;
      try {
        const { mtimeMs, size, ino } = await stat(join(this.#entries, file));
        signature = `${mtimeMs} ${size} ${ino}`;
      } catch {
        continue; // gone since
      }
      const known = this.#files.get(file);
      if (known?.signature === signature) {
        files.set(file, known);
        continue;
      }
      const entry = await this.#read(file);
      if (entry !== undefined) files.set(file, { entry, signature });
    }
    this.#files = files;
  }

  #apply(view: Map<string, Seen>): void {
    const before = this.#view;
    this.#view = view;
    for (const [key, { entry }] of before) if (view.get(key)?.entry.owner !== entry.owner) this.#tellAll(key, (watcher) => watcher.removed(key));
    for (const [key, seen] of view) {
      const known = before.get(key);
      if (known?.signature === seen.signature && known.entry.owner === seen.entry.owner) continue;
      this.#tellAll(key, (watcher) => watcher.put({ key, value: this.#copy(seen.entry.value) }));
    }
    this.#queue.drain();
  }

  #tellAll(key: string, say: (watcher: DiscoveryWatcher) => void): void {
    for (const watch of this.#watches) if (key.startsWith(watch.prefix)) this.#tell(watch, () => say(watch.watcher));
  }

  #tell(watch: Watch, say: () => void): void {
    this.#queue.push(() => {
      if (watch.isOpen) say();
    });
  }

  /** Each watcher has its own. */
  #copy(value: PlainData): PlainData {
    return this.#options.codec.decode(this.#options.codec.encode(value));
  }
}

function taken(key: string): ArmatureError {
  return new ArmatureError('DISCOVERY_KEY_TAKEN', `another owner holds the key "${key}"`, { hint: 'give this instance another name, or wait until the other one has gone' });
}

/** Keys hold any characters; file names do not. */
function fileOf(key: string): string {
  return createHash('sha256').update(key).digest('hex').slice(0, 40);
}
