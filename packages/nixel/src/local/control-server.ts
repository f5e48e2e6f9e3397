import type net from 'node:net';
import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { DescriptorColumns, Timer, TransferSegment, TransportHost } from '@armature/contracts';
import { peerCredentials } from '../native/process.ts';
import { decodeTable, FrameReader, FrameType, frameInvalid, MAX_HANDSHAKE_BYTES, MAX_NOTIFICATION_BYTES } from '../tcp/frames.ts';
import type { FrameHandler } from '../tcp/frames.ts';
import { decodeHello, helloProof, NONCE_BYTES, proves, welcomeProof } from '../tcp/handshake.ts';
import type { ControlPage } from './control-page.ts';
import type { ControlSettings } from './control-client.ts';
import { encodeVerdict, LocalFrame, MAX_ASK_ROWS, MAX_QUEUED_BYTES, send, socketFd } from './control-frames.ts';
import type { SegmentFacts } from './pieces.ts';

const ROW_BYTES = 16;

export interface ControlServerOptions {
  readonly host: TransportHost;
  readonly socket: net.Socket;
  readonly settings: ControlSettings;
  readonly page: ControlPage;
  readonly place: (segment: TransferSegment) => SegmentFacts['place'];
  readonly onRefused: (error: ArmatureError) => void;
}

/** The owner's end of a control connection: says who it is, answers what a peer may touch and where that lies, takes notifications. */
export class ControlServer implements FrameHandler {
  readonly #options: ControlServerOptions;
  readonly #socket: net.Socket;
  readonly #reader = new FrameReader(this);
  readonly #challenge: Buffer;
  /** Of the control page. */
  readonly slot: number;
  #peer = '';
  #authTimer: Timer | undefined;

  constructor(options: ControlServerOptions) {
    const { socket, settings } = options;
    this.#options = options;
    this.#socket = socket;
    this.slot = options.page.takeSlot();
    this.#challenge = settings.randomBytes(NONCE_BYTES);
    this.#authTimer = settings.clock.setTimer(settings.connectTimeoutMs, () => socket.destroy());
    socket.on('data', (chunk: Buffer) => this.#received(chunk));
    socket.on('error', () => undefined);
    socket.on('close', () => this.#clearAuthTimer());
    const fd = socketFd(socket);
    const credentials = fd === undefined ? undefined : peerCredentials(fd);
    if (credentials === undefined || credentials.uid !== process.geteuid?.()) this.#refuse(peerForeign(credentials?.uid));
    else send(socket, FrameType.Challenge, 0, 0, this.#challenge);
  }

  /** After the epoch has moved: the peer lets go of the memory. */
  gone(segment: number): void {
    if (this.#peer !== '' && !this.#socket.destroyed) send(this.#socket, LocalFrame.Gone, 0, segment);
  }

  /** Empty until it has said who it is. */
  get peer(): string {
    return this.#peer;
  }

  limit(type: number): number {
    if (this.#peer === '') return type === FrameType.Hello ? MAX_HANDSHAKE_BYTES : -1;
    if (type === LocalFrame.Ask) return MAX_ASK_ROWS * ROW_BYTES;
    return type === FrameType.Notify ? MAX_NOTIFICATION_BYTES : -1;
  }

  frame(type: number, id: number, value: number, body: Buffer): void {
    if (type === FrameType.Hello) this.#hello(body);
    else if (type === LocalFrame.Ask) this.#answer(id, value === 1 ? 'write' : 'read', decodeTable(body));
    else this.#options.host.notified(this.#peer, Uint8Array.from(body));
  }

  dataBegin(): void {
    throw frameInvalid('data on a control connection');
  }

  data(): void {
    throw frameInvalid('data on a control connection');
  }

  #received(chunk: Buffer): void {
    try {
      this.#reader.push(chunk);
      if (this.#socket.writableLength > MAX_QUEUED_BYTES) throw frameInvalid('questions without reading the answers');
    } catch (error) {
      this.#refuse(ArmatureError.from(error, 'TRANSFER_INTERNAL'));
    }
  }

  #hello(body: Buffer): void {
    const { host, settings } = this.#options;
    const hello = decodeHello(body);
    if (!proves(hello.proof, helloProof(settings.token, this.#challenge, hello))) {
      throw new ArmatureError('TRANSFER_AUTH_FAILED', `"${hello.name.slice(0, 64)}" did not prove the shared token`, { hint: 'configure the same transports[].config.token everywhere' });
    }
    if (hello.peerIncarnation !== host.incarnation) {
      throw new ArmatureError('TRANSFER_PEER_STALE', `"${hello.name.slice(0, 64)}" looks for an earlier life of this agent`, { hint: 'exchange metadata again' });
    }
    this.#peer = hello.name;
    this.#clearAuthTimer();
    send(this.#socket, FrameType.Welcome, 0, this.slot, welcomeProof(settings.token, this.#challenge, hello.nonce));
  }

  #answer(id: number, op: 'read' | 'write', table: DescriptorColumns): void {
    const { host, page, place } = this.#options;
    const epoch = page.epoch(this.slot);
    const found = new Map<number, SegmentFacts>();
    for (let i = 0; i < table.count; i++) {
      const segment = table.segments[i]!;
      const status = host.allows(this.#peer, segment, table.offsets[i]!, table.lengths[i]!, op);
      if (status !== TransferStatus.Done) {
        send(this.#socket, LocalFrame.Verdict, id, status, encodeVerdict({ epoch, segments: [] }));
        return;
      }
      if (found.has(segment)) continue;
      const known = host.segment(segment)!;
      const isWhole = host.allows(this.#peer, segment, 0, known.lengthBytes, op) === TransferStatus.Done;
      found.set(segment, { id: segment, lengthBytes: known.lengthBytes, isWhole, place: place(known) });
    }
    send(this.#socket, LocalFrame.Verdict, id, TransferStatus.Done, encodeVerdict({ epoch, segments: [...found.values()] }));
  }

  #refuse(error: ArmatureError): void {
    this.#options.onRefused(error);
    if (this.#socket.destroyed) return;
    send(this.#socket, FrameType.Error, 0, 0, Buffer.from(error.code));
    this.#socket.destroySoon();
  }

  #clearAuthTimer(): void {
    if (this.#authTimer !== undefined) this.#options.settings.clock.clearTimer(this.#authTimer);
    this.#authTimer = undefined;
  }
}

function peerForeign(uid: number | undefined): ArmatureError {
  return new ArmatureError('TRANSFER_PEER_FOREIGN', uid === undefined ? 'the kernel does not say who connected' : `user ${uid} connected`, {
    hint: 'run both processes as the same user, or use the tcp transport',
  });
}
