import type { Socket } from 'node:net';
import { ArmatureError } from '@armature/contracts';
import type { KvHostAccess, KvHostPull, KvOperation, Logger } from '@armature/contracts';
import { encodeFrame, FrameReader, invalid } from './frames.ts';
import type { Frame } from './frames.ts';
import { parseLender } from './lender.ts';
import { Prompts } from './prompts.ts';
import type { ConnectorCounts } from './stats.ts';

/** vLLM fills what it reserved within a step; slots that it forgot go back after this. */
const RESERVE_TTL_MS = 30_000;
const MAX_PULL_MS = 30_000;
/** Answers that vLLM has not read. */
const MAX_UNREAD_BYTES = 64 << 20;

export type LinkRole = 'scheduler' | 'worker';

/** What a link needs of the connector it belongs to. */
export interface LinkHost {
  readonly log: Logger;
  readonly counts: ConnectorCounts;
  readonly blockSize: number;
  /** What leases and reservations must name to mean those of now. */
  readonly epoch: string;
  /** Undefined until the tiers are open, and after they closed. */
  access(): KvHostAccess | undefined;
  /** Checks it; throws what the engine is told. */
  hello(link: EngineLink, head: Frame['head']): LinkRole;
  /** Pins and reservations of the engine, of both its links. */
  readonly held: Held;
  closed(link: EngineLink): void;
}

/** What one engine holds of the host tier. */
export interface Held {
  readonly leases: Set<number>;
  readonly reservations: Set<number>;
}

/** One socket of vLLM: its scheduler's or its worker's. Anything that is no valid frame closes it, and with it goes what the engine holds. */
export class EngineLink {
  readonly #socket: Socket;
  readonly #host: LinkHost;
  readonly #reader = new FrameReader();
  readonly #prompts: Prompts;
  readonly #pulls = new Map<number, KvOperation>();
  #role: LinkRole | undefined = undefined;

  constructor(socket: Socket, host: LinkHost) {
    this.#socket = socket;
    this.#host = host;
    this.#prompts = new Prompts(host.blockSize);
    socket.on('data', (chunk: Buffer) => this.#data(chunk));
    socket.on('error', (error) => host.log.debug('the socket of vLLM failed', { reason: error.message }));
    socket.once('close', () => this.#closed());
  }

  get role(): LinkRole | undefined {
    return this.#role;
  }

  /** Requests that are known to it. */
  get prompts(): number {
    return this.#prompts.count;
  }

  send(head: Readonly<Record<string, unknown>>, tail?: Int32Array): void {
    if (!this.#socket.writable) return;
    this.#socket.write(encodeFrame(head, tail));
    if (this.#socket.writableLength <= MAX_UNREAD_BYTES) return;
    this.#host.log.error('vLLM does not read what it asked for: its connection is ended', { unreadBytes: this.#socket.writableLength });
    this.#socket.destroy();
  }

  /** Nothing is taken for it any more. */
  destroy(): void {
    this.#stop();
    this.#socket.destroy();
  }

  #data(chunk: Buffer): void {
    try {
      this.#reader.push(chunk, (frame) => this.#frame(frame));
    } catch (error) {
      const { code, message, hint } = ArmatureError.from(error);
      this.#host.log.error("the connection to vLLM's connector is refused", { code, reason: message, hint });
      this.#host.counts.refusedLinks++;
      if (this.#socket.writable) this.#socket.end(encodeFrame({ op: 'refused', code, message, hint }));
      this.#socket.destroySoon();
    }
  }

  #frame({ head, tail }: Frame): void {
    if (this.#socket.writableEnded || this.#socket.destroyed) return;
    if (this.#role === undefined) {
      if (head['op'] !== 'hello') throw invalid(`${String(head['op'])} before hello`);
      this.#role = this.#host.hello(this, head);
      return;
    }
    switch (head['op']) {
      case 'match':
        return this.#match(head, tail);
      case 'append':
        return this.#append(head, tail);
      case 'forget':
        return this.#prompts.forget(whole(head, 'prompt'));
      case 'pull':
        return this.#pull(head);
      case 'cancel':
        return this.#cancel(whole(head, 'pull'));
      case 'release':
        return this.#release(head);
      case 'reserve':
        return this.#reserve(head, tail);
      case 'commit':
        return this.#commit(head);
      case 'failed':
        this.#host.counts.failedBlocks += whole(head, 'blocks');
        return this.#host.log.warn('vLLM could not use KV blocks of the host tier: it recomputes them', { blocks: head['blocks'], reason: text(head, 'reason') });
      default:
        throw invalid(`an unknown frame "${String(head['op'])}"`);
    }
  }

  #match(head: Frame['head'], tokens: Int32Array): void {
    const { counts } = this.#host;
    const access = this.#host.access();
    const hasher = this.#prompts.begin(whole(head, 'prompt'), { cacheSalt: text(head, 'salt'), lora: text(head, 'lora') }, tokens);
    const hashes = hasher?.sequenceHashes ?? new Int32Array(0);
    const from = whole(head, 'from');
    const own = access?.match(hashes, from) ?? 0;
    const lent = parseLender(head['source'])?.blocks ?? 0;
    const blocks = access === undefined ? 0 : Math.min(Math.max(own, lent - from), (hashes.length >> 1) - from);
    counts.matches++;
    counts.matchedBlocks += Math.max(0, blocks);
    this.send({ op: 'matched', id: head['id'], blocks: Math.max(0, blocks) }, hashes.slice());
  }

  #append(head: Frame['head'], tokens: Int32Array): void {
    const hasher = this.#prompts.get(whole(head, 'prompt'));
    const before = hasher?.blocks ?? 0;
    hasher?.appendAll(tokens, 0, tokens.length);
    this.send({ op: 'appended', id: head['id'] }, hasher?.sequenceHashes.slice(2 * before));
  }

  /** Answered within the deadline, with what is there by then. */
  #pull(head: Frame['head']): void {
    const { counts } = this.#host;
    const access = this.#host.access();
    const id = whole(head, 'id');
    const hasher = this.#prompts.get(whole(head, 'prompt'));
    if (access === undefined || hasher === undefined) return this.send({ op: 'pulled', id, lease: 0 });
    const source = parseLender(head['source']);
    const request: KvHostPull = {
      sequenceHashes: hasher.sequenceHashes.slice(),
      from: whole(head, 'from'),
      to: whole(head, 'to'),
      cacheSalt: text(head, 'salt'),
      deadlineMs: Math.min(MAX_PULL_MS, whole(head, 'deadlineMs')),
      ...(source === undefined ? {} : { lender: source }),
    };
    counts.pulls++;
    let isOver = false;
    const operation = access.pull(request, (pin) => {
      isOver = true;
      this.#pulls.delete(id);
      if (pin === undefined) return this.send({ op: 'pulled', id, lease: 0 });
      this.#host.held.leases.add(pin.lease);
      for (const [name, blocks] of Object.entries(pin.sources)) counts.pulled[name as keyof ConnectorCounts['pulled']] += blocks;
      this.send({ op: 'pulled', id, lease: pin.lease, sources: pin.sources }, pin.blocks);
    });
    if (!isOver) this.#pulls.set(id, operation);
  }

  #cancel(id: number): void {
    this.#pulls.get(id)?.cancel();
    this.#pulls.delete(id);
  }

  #release(head: Frame['head']): void {
    const lease = whole(head, 'lease');
    const isValid = this.#isOfNow(head) && this.#host.held.leases.delete(lease) && this.#host.access()?.release(lease) === 'valid';
    if (!isValid) this.#host.counts.expiredLeases++;
    if (head['id'] !== undefined) this.send({ op: 'released', id: head['id'], valid: isValid });
  }

  /** The tail: sequence hash and parent of each row, four words. */
  #reserve(head: Frame['head'], tail: Int32Array): void {
    if (tail.length % 4 !== 0) throw invalid(`a reserve of ${tail.length} words`);
    const rows = tail.length / 4;
    const sequenceHashes = new Int32Array(2 * rows);
    const parents = new Int32Array(2 * rows);
    for (let row = 0; row < rows; row++) {
      sequenceHashes.set(tail.subarray(4 * row, 4 * row + 2), 2 * row);
      parents.set(tail.subarray(4 * row + 2, 4 * row + 4), 2 * row);
    }
    const reservation = this.#host.access()?.reserve({ sequenceHashes, parents, cacheSalt: text(head, 'salt') }, RESERVE_TTL_MS);
    if (reservation === undefined) return this.send({ op: 'reserved', id: head['id'], reservation: 0 });
    this.#host.held.reservations.add(reservation.id);
    this.#host.counts.reservedBlocks += reservation.rows.length;
    const columns = new Int32Array(2 * reservation.rows.length);
    columns.set(reservation.rows);
    columns.set(reservation.blocks, reservation.rows.length);
    this.send({ op: 'reserved', id: head['id'], reservation: reservation.id }, columns);
  }

  #commit(head: Frame['head']): void {
    const { counts, held } = this.#host;
    const reservation = whole(head, 'reservation');
    const access = this.#host.access();
    const end = (kept: number): void => {
      counts.keptBlocks += kept;
      if (head['id'] !== undefined) this.send({ op: 'committed', id: head['id'], kept });
    };
    if (!this.#isOfNow(head) || !held.reservations.delete(reservation) || access === undefined) return end(0);
    access.commit(reservation, whole(head, 'rows'), end);
  }

  #isOfNow(head: Frame['head']): boolean {
    return head['epoch'] === this.#host.epoch;
  }

  #closed(): void {
    this.#stop();
    this.#host.closed(this);
  }

  #stop(): void {
    for (const operation of this.#pulls.values()) operation.cancel();
    this.#pulls.clear();
  }
}

function whole(head: Frame['head'], name: string): number {
  const value = head[name];
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw invalid(`${String(head['op'])} with ${name} ${String(value)}`);
}

function text(head: Frame['head'], name: string): string {
  const value = head[name] ?? '';
  if (typeof value === 'string') return value;
  throw invalid(`${String(head['op'])} with a ${name} that is no text`);
}

