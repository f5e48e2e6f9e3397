import { closeSync } from 'node:fs';
import { libc } from '../native/libc.ts';
import { mapPeerMemory, mappingFailed } from '../native/mapping.ts';
import type { Mapping } from '../native/mapping.ts';
import { createSharedMemory } from '../shm/shared-memory.ts';
import type { SharedMemory } from '../shm/shared-memory.ts';

// One page per endpoint, written by its owner, read by its peers before and after each copy: state, changes for all, changes per connection.
const PAGE_BYTES = 4096;
const WORDS = PAGE_BYTES / 4;
const STATE = 0;
const EPOCH = 1;
const FIRST_SLOT = 2;
const OPEN = 0x3150_4c41; // "ALP1"

/** The owner's page: says that its endpoint is open, and counts changes of what peers may touch. */
export class ControlPage {
  readonly #memory: SharedMemory;
  readonly #words: Int32Array;
  #nextSlot = FIRST_SLOT;

  constructor(name: string) {
    this.#memory = createSharedMemory({ name, lengthBytes: PAGE_BYTES, peerAccess: 'read' });
    this.#words = new Int32Array(this.#memory.buffer, 0, WORDS);
    this.#words[STATE] = OPEN;
  }

  get fd(): number {
    return this.#memory.fd;
  }

  /** The word of one connection. Above 1,022 connections some share one, and ask more often than they must. */
  takeSlot(): number {
    const slot = this.#nextSlot;
    this.#nextSlot = slot + 1 === WORDS ? FIRST_SLOT : slot + 1;
    return slot;
  }

  epoch(slot: number): number {
    return (this.#words[EPOCH]! + this.#words[slot]!) | 0;
  }

  /** What peers were told may be wrong now, all or the one of a slot: they ask again before their next copy. */
  changed(slot: number = EPOCH): void {
    this.#words[slot] = (this.#words[slot]! + 1) | 0;
  }

  /** Idempotent. */
  close(): void {
    this.#words[STATE] = 0;
    this.#memory.close();
  }
}

/** A peer's page, mapped for reading. */
export class ControlPageView {
  readonly #mapping: Mapping;
  readonly #words: Int32Array;
  readonly #slot: number;

  /** Throws `TRANSFER_MAPPING_FAILED`. The caller has pinned the process. */
  constructor(pid: number, fd: number, slot: number) {
    if (!(slot >= FIRST_SLOT && slot < WORDS)) throw mappingFailed(`the peer names word ${slot} of its control page`);
    this.#slot = slot;
    this.#mapping = mapPeerMemory(pid, fd, PAGE_BYTES, false);
    this.#words = new Int32Array(this.#mapping.buffer, 0, WORDS);
  }

  /** False once the owner has closed its endpoint. A killed owner's page still says open: its socket tells. */
  get isOpen(): boolean {
    return this.#words[STATE] === OPEN;
  }

  get epoch(): number {
    return (this.#words[EPOCH]! + this.#words[this.#slot]!) | 0;
  }

  close(): void {
    this.#mapping.release();
  }
}

/** Why pages and mappings cannot work here, or undefined. Tries one. */
export function controlPageMissing(): string | undefined {
  let page: ControlPage | undefined;
  try {
    page = new ControlPage('armature-probe');
    new ControlPageView(process.pid, page.fd, FIRST_SLOT).close();
    const pidfd = libc().pidfdOpen(process.pid);
    if (pidfd < 0) return `the kernel has no process handles (pidfd_open ended with ${libc().errorName()}); Linux 5.3 has`;
    closeSync(pidfd);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    page?.close();
  }
}
