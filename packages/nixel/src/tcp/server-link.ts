import type net from 'node:net';
import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { DescriptorColumns, Timer, TransportHost } from '@armature/contracts';
import { KEEP_ALIVE_MS } from './client-link.ts';
import type { LinkSettings } from './client-link.ts';
import { ListCursor } from './cursor.ts';
import { totalBytes } from '../descriptors.ts';
import { CHUNK_BYTES, decodeTable, frameInvalid, FrameType, MAX_HANDSHAKE_BYTES, MAX_NOTIFICATION_BYTES, MAX_TABLE_BYTES, ROW_BYTES } from './frames.ts';
import { FrameSender } from './frame-sender.ts';
import { Landing, TURN_BYTES } from './landing.ts';
import type { LandingHandler } from './landing.ts';
import { receiving } from './receiving.ts';
import { descriptorOf, vectorIo } from './vector-io.ts';
import { decodeHello, helloProof, NONCE_BYTES, proves, welcomeProof } from './handshake.ts';

const MAX_READS = 4096;
/** Descriptor tables of running requests of one connection; more are answered with Overloaded. */
const MAX_TABLES_BYTES = 64 << 20;
const MAX_QUEUED_BYTES = 64 << 20;

interface Job {
  readonly id: number;
  readonly op: 'read' | 'write';
  readonly table: DescriptorColumns;
  readonly cursor: ListCursor;
}

/** The owner's end of one connection: checks every descriptor against the grants, then serves. */
export class ServerLink implements LandingHandler {
  readonly #host: TransportHost;
  readonly socket: net.Socket;
  readonly #landing: Landing;
  readonly #sender: FrameSender;
  readonly #settings: LinkSettings;
  readonly #challenge: Buffer;
  readonly #onRefused: (error: ArmatureError) => void;
  readonly #reads: Job[] = [];
  readonly #writes = new Map<number, Job>();
  #tablesBytes = 0;
  #peer = '';
  #current: Job | undefined = undefined;
  #pumpsLater = false;
  /** What comes after a refusal is dropped. */
  #isRefused = false;
  #authTimer: Timer | undefined;

  /** Takes `accepted` over; what it becomes is `socket`. */
  constructor(host: TransportHost, accepted: net.Socket, settings: LinkSettings, onRefused: (error: ArmatureError) => void) {
    this.#host = host;
    this.#settings = settings;
    this.#onRefused = onRefused;
    this.#challenge = settings.randomBytes(NONCE_BYTES);
    const io = settings.tls === undefined ? vectorIo() : undefined;
    this.#landing = new Landing(this, io);
    const onread = { buffer: this.#landing.nextBuffer, callback: (length: number) => this.#received(() => this.#landing.received(length, descriptorOf(this.socket))) };
    const onChunk = (chunk: Buffer): boolean => this.#received(() => (this.#landing.push(chunk), true));
    const socket = receiving(accepted, { onread, onChunk, adopts: io !== undefined });
    this.socket = socket;
    this.#sender = new FrameSender(socket, io, () => this.#pump());
    this.#authTimer = settings.clock.setTimer(settings.connectTimeoutMs, () => socket.destroy());
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    socket.on('end', () => socket.destroy());
    socket.on('error', () => undefined);
    socket.on('close', () => this.#clearAuthTimer());
    this.#sender.send(FrameType.Challenge, 0, 0, this.#challenge);
  }

  /** Empty until it has said who it is. */
  get peer(): string {
    return this.#peer;
  }

  /** What the peer may touch has changed: requests that are no longer allowed end now. No further byte of theirs lands; at most the frame that is queued leaves. */
  accessChanged(): void {
    for (const job of [...this.#reads, ...this.#writes.values()]) {
      const status = this.#refusal(job.table, job.op);
      if (status === TransferStatus.Done) continue;
      this.#drop(job);
      this.#end(job.id, status);
    }
  }

  limit(type: number): number {
    if (this.#peer === '') return type === FrameType.Hello ? MAX_HANDSHAKE_BYTES : -1;
    switch (type) {
      case FrameType.Read:
      case FrameType.Write:
        return MAX_TABLE_BYTES;
      case FrameType.Data:
        return CHUNK_BYTES;
      case FrameType.Commit:
      case FrameType.Notify:
        return MAX_NOTIFICATION_BYTES;
      case FrameType.Cancel:
        return 0;
      default:
        return -1;
    }
  }

  frame(type: number, id: number, value: number, body: Buffer): void {
    switch (type) {
      case FrameType.Hello:
        this.#hello(body);
        return;
      case FrameType.Read:
        this.#open(id, 'read', body);
        return;
      case FrameType.Write:
        this.#open(id, 'write', body);
        return;
      case FrameType.Commit:
        this.#commit(id, value, body);
        return;
      case FrameType.Cancel:
        this.#cancel(id);
        return;
      default:
        this.#host.notified(this.#peer, Uint8Array.from(body));
    }
  }

  dataBegin(id: number, length: number): void {
    const job = this.#writes.get(id);
    if (job !== undefined && length > job.cursor.left) throw frameInvalid('more data than its table names');
    // Unknown: refused or cancelled before; the rest is dropped.
    this.#current = job;
  }

  data(bytes: Buffer): void {
    const job = this.#current;
    if (job === undefined || job.cursor.scatter(bytes)) return;
    this.#drop(job);
    this.#end(job.id, TransferStatus.NotFound);
  }

  target(): ListCursor | undefined {
    return this.#current?.cursor;
  }

  #received(receive: () => boolean): boolean {
    const { directBytes, copiedBytes } = this.#landing;
    let goesOn = true;
    try {
      if (!this.#isRefused) goesOn = receive();
      this.#pump();
      if (this.socket.writableLength > MAX_QUEUED_BYTES) throw frameInvalid('requests without reading the answers');
    } catch (error) {
      this.#refuse(ArmatureError.from(error, 'TRANSFER_INTERNAL'));
    }
    const { counters } = this.#settings;
    if (counters !== undefined) {
      counters.directBytes += this.#landing.directBytes - directBytes;
      counters.copiedBytes += this.#landing.copiedBytes - copiedBytes;
    }
    if (!goesOn) setImmediate(() => this.socket.resume());
    return goesOn;
  }

  #refuse(error: ArmatureError): void {
    this.#isRefused = true;
    this.#reads.length = 0;
    this.#onRefused(error);
    this.#sender.send(FrameType.Error, 0, 0, Buffer.from(error.code));
    this.socket.destroySoon();
  }

  #hello(body: Buffer): void {
    const hello = decodeHello(body);
    if (!proves(hello.proof, helloProof(this.#settings.token, this.#challenge, hello))) {
      throw new ArmatureError('TRANSFER_AUTH_FAILED', `"${hello.name.slice(0, 64)}" did not prove the shared token`, { hint: 'configure the same transports[].config.token everywhere' });
    }
    if (hello.peerIncarnation !== this.#host.incarnation) {
      throw new ArmatureError('TRANSFER_PEER_STALE', `"${hello.name.slice(0, 64)}" looks for an earlier life of this agent`, { hint: 'exchange metadata again' });
    }
    this.#peer = hello.name;
    this.#clearAuthTimer();
    this.#sender.send(FrameType.Welcome, 0, 0, welcomeProof(this.#settings.token, this.#challenge, hello.nonce));
  }

  #open(id: number, op: 'read' | 'write', body: Buffer): void {
    if (this.#reads.length + this.#writes.size >= MAX_READS) throw frameInvalid(`more than ${MAX_READS} requests at once`);
    if (this.#writes.has(id)) throw frameInvalid('a request number that is in use');
    const table = decodeTable(body);
    const refused = this.#tablesBytes + body.length > MAX_TABLES_BYTES ? TransferStatus.Overloaded : this.#refusal(table, op);
    if (refused !== TransferStatus.Done) {
      this.#end(id, refused);
      return;
    }
    const bytes = totalBytes(table);
    this.#tablesBytes += body.length;
    const job: Job = { id, op, table, cursor: new ListCursor(table, bytes, (segment) => this.#host.segment(segment)) };
    if (op === 'read') this.#reads.push(job);
    else this.#writes.set(id, job);
  }

  #refusal(table: DescriptorColumns, op: 'read' | 'write'): TransferStatus {
    let known = -1;
    for (let i = 0; i < table.count; i++) {
      const id = table.segments[i]!;
      if (id !== known) {
        const segment = this.#host.segment(id);
        if (segment !== undefined && segment.kind !== 'dram') return TransferStatus.NotSupported;
        known = id;
      }
      const status = this.#host.allows(this.#peer, table.segments[i]!, table.offsets[i]!, table.lengths[i]!, op);
      if (status !== TransferStatus.Done) return status;
    }
    return TransferStatus.Done;
  }

  #commit(id: number, value: number, body: Buffer): void {
    const job = this.#writes.get(id);
    if (job === undefined) return;
    this.#drop(job);
    if (job.cursor.left > 0) throw frameInvalid('a commit before all data');
    if (value === 1) this.#host.notified(this.#peer, Uint8Array.from(body));
    this.#end(id, TransferStatus.Done);
  }

  #cancel(id: number): void {
    const job = this.#writes.get(id) ?? this.#reads.find((read) => read.id === id);
    if (job === undefined) return;
    this.#drop(job);
    this.#end(id, TransferStatus.Canceled);
  }

  #drop(job: Job): void {
    const at = this.#reads.indexOf(job);
    if (at >= 0) this.#reads.splice(at, 1);
    else if (!this.#writes.delete(job.id)) return;
    if (this.#current === job) this.#current = undefined;
    this.#tablesBytes -= job.table.count * ROW_BYTES;
  }

  /** Sends data of reads, in order of arrival, until the socket has enough, a turn's worth at a time. */
  #pump(): void {
    let turnBytes = 0;
    while (this.#reads.length > 0 && this.#sender.hasRoom && !this.socket.destroyed) {
      if (turnBytes >= TURN_BYTES) {
        this.#pumpLater();
        return;
      }
      const job = this.#reads[0]!;
      const before = job.cursor.left;
      if (before === 0) this.#end(job.id, TransferStatus.Done);
      else if (!this.#sender.data(job.id, job.cursor, TURN_BYTES, TransferStatus.Done)) {
        this.#drop(job);
        this.#end(job.id, TransferStatus.NotFound);
        continue;
      }
      turnBytes += before - job.cursor.left;
      if (job.cursor.left === 0) this.#drop(job);
    }
  }

  #pumpLater(): void {
    if (this.#pumpsLater) return;
    this.#pumpsLater = true;
    setImmediate(() => {
      this.#pumpsLater = false;
      this.#pump();
    });
  }

  #end(id: number, status: TransferStatus): void {
    this.#sender.send(FrameType.End, id, status);
  }

  #clearAuthTimer(): void {
    if (this.#authTimer !== undefined) this.#settings.clock.clearTimer(this.#authTimer);
    this.#authTimer = undefined;
  }
}
