import type net from 'node:net';
import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { DescriptorColumns, Timer, TransportHost } from '@armature/contracts';
import type { LinkSettings } from './client-link.ts';
import { ListCursor } from './cursor.ts';
import { totalBytes } from '../descriptors.ts';
import { CHUNK_BYTES, decodeTable, frameInvalid, FrameReader, FrameType, header, MAX_HANDSHAKE_BYTES, MAX_NOTIFICATION_BYTES, MAX_TABLE_BYTES } from './frames.ts';
import type { FrameHandler } from './frames.ts';
import { decodeHello, helloProof, NONCE_BYTES, proves, welcomeProof } from './handshake.ts';

const MAX_READS = 4096;
const MAX_QUEUED_BYTES = 64 << 20;

interface Job {
  readonly id: number;
  readonly cursor: ListCursor;
}

/** The owner's end of one connection: checks every descriptor against the grants, then serves. */
export class ServerLink implements FrameHandler {
  readonly #host: TransportHost;
  readonly #socket: net.Socket;
  readonly #settings: LinkSettings;
  readonly #reader = new FrameReader(this);
  readonly #challenge: Buffer;
  readonly #onRefused: (error: ArmatureError) => void;
  readonly #reads: Job[] = [];
  readonly #writes = new Map<number, Job>();
  #peer = '';
  #current: Job | undefined = undefined;
  #authTimer: Timer | undefined;

  constructor(host: TransportHost, socket: net.Socket, settings: LinkSettings, onRefused: (error: ArmatureError) => void) {
    this.#host = host;
    this.#socket = socket;
    this.#settings = settings;
    this.#onRefused = onRefused;
    this.#challenge = settings.randomBytes(NONCE_BYTES);
    this.#authTimer = settings.clock.setTimer(settings.connectTimeoutMs, () => socket.destroy());
    socket.setNoDelay(true);
    socket.on('data', (chunk) => this.#received(chunk));
    socket.on('drain', () => this.#pump());
    socket.on('error', () => undefined);
    socket.on('close', () => this.#clearAuthTimer());
    this.#send(FrameType.Challenge, 0, 0, this.#challenge);
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
    this.#current = undefined;
    this.#writes.delete(job.id);
    this.#end(job.id, TransferStatus.NotFound);
  }

  #received(chunk: Buffer): void {
    try {
      this.#reader.push(chunk);
      this.#pump();
      if (this.#socket.writableLength > MAX_QUEUED_BYTES) throw frameInvalid('requests without reading the answers');
    } catch (error) {
      this.#refuse(ArmatureError.from(error, 'TRANSFER_INTERNAL'));
    }
  }

  #refuse(error: ArmatureError): void {
    this.#onRefused(error);
    this.#send(FrameType.Error, 0, 0, Buffer.from(error.code));
    this.#socket.destroySoon();
    this.#socket.removeAllListeners('data').resume();
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
    this.#send(FrameType.Welcome, 0, 0, welcomeProof(this.#settings.token, this.#challenge, hello.nonce));
  }

  #open(id: number, op: 'read' | 'write', body: Buffer): void {
    if (this.#reads.length + this.#writes.size >= MAX_READS) throw frameInvalid(`more than ${MAX_READS} requests at once`);
    const table = decodeTable(body);
    const refused = this.#refusal(table, op);
    if (refused !== TransferStatus.Done) {
      this.#end(id, refused);
      return;
    }
    const bytes = totalBytes(table);
    const job = { id, cursor: new ListCursor(table, bytes, (segment) => this.#host.segment(segment)) };
    if (op === 'read') this.#reads.push(job);
    else this.#writes.set(id, job);
  }

  #refusal(table: DescriptorColumns, op: 'read' | 'write'): TransferStatus {
    for (let i = 0; i < table.count; i++) {
      const status = this.#host.allows(this.#peer, table.segments[i]!, table.offsets[i]!, table.lengths[i]!, op);
      if (status !== TransferStatus.Done) return status;
    }
    return TransferStatus.Done;
  }

  #commit(id: number, value: number, body: Buffer): void {
    const job = this.#writes.get(id);
    if (job === undefined) return;
    this.#writes.delete(id);
    if (job.cursor.left > 0) throw frameInvalid('a commit before all data');
    if (value === 1) this.#host.notified(this.#peer, Uint8Array.from(body));
    this.#end(id, TransferStatus.Done);
  }

  #cancel(id: number): void {
    const at = this.#reads.findIndex((job) => job.id === id);
    if (at >= 0) this.#reads.splice(at, 1);
    else if (!this.#writes.delete(id)) return;
    if (this.#current?.id === id) this.#current = undefined;
    this.#end(id, TransferStatus.Canceled);
  }

  /** Sends data of reads, in order of arrival, until the socket has enough. */
  #pump(): void {
    const socket = this.#socket;
    while (this.#reads.length > 0 && !socket.writableNeedDrain && !socket.destroyed) {
      const job = this.#reads[0]!;
      const bytes = Math.min(job.cursor.left, CHUNK_BYTES);
      const views = job.cursor.gather(bytes);
      if (views === undefined) {
        this.#reads.shift();
        this.#end(job.id, TransferStatus.NotFound);
        continue;
      }
      const isLast = job.cursor.left === 0;
      socket.cork();
      if (bytes > 0) {
        socket.write(header(FrameType.Data, job.id, 0, bytes));
        for (let i = 0; i < views.length; i++) socket.write(views[i]!);
      }
      if (isLast) this.#end(job.id, TransferStatus.Done);
      socket.uncork();
      if (isLast) this.#reads.shift();
    }
  }

  #end(id: number, status: TransferStatus): void {
    this.#send(FrameType.End, id, status);
  }

  #send(type: number, id: number, value: number, body?: Uint8Array): void {
    const socket = this.#socket;
    socket.cork();
    socket.write(header(type, id, value, body?.length ?? 0));
    if (body !== undefined && body.length > 0) socket.write(body);
    socket.uncork();
  }

  #clearAuthTimer(): void {
    if (this.#authTimer !== undefined) this.#settings.clock.clearTimer(this.#authTimer);
    this.#authTimer = undefined;
  }
}
