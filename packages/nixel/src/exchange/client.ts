import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { ArmatureError } from '@armature/contracts';
import type { Clock } from '@armature/contracts';
import { realClock } from '../leaves/real-clock.ts';
import { encodeHello, helloProof, NONCE_BYTES, proves, welcomeProof } from '../tcp/handshake.ts';
import { EXCHANGE_PURPOSE } from './listener.ts';
import type { MetadataParty } from './listener.ts';
import { decodeError, encodeSelection, exchangeInvalid, limitOf, message, MessageReader, MessageType } from './messages.ts';

/** A MetadataListener, and who asks. */
export interface ExchangeTarget {
  /** Default 127.0.0.1. */
  readonly host?: string;
  readonly port: number;
  readonly agent: Pick<MetadataParty, 'name' | 'incarnation'>;
  /** Default: real time. */
  readonly clock?: Clock;
  readonly token?: string;
  /** For the whole exchange, connection included. Default 5 s. */
  readonly deadlineMs?: number;
}

export interface SegmentSelection {
  /** Ids of segments; all when absent. */
  readonly segments?: readonly number[];
}

/**
 * The listener's agent metadata, for `addPeer`. The listener has proved the token. Throws `TRANSFER_EXCHANGE_FAILED`, `TRANSFER_EXCHANGE_TIMEOUT`,
 * `TRANSFER_EXCHANGE_VERSION`, `TRANSFER_EXCHANGE_INVALID`, `TRANSFER_AUTH_FAILED`.
 */
export async function fetchMetadata(target: ExchangeTarget, selection: SegmentSelection = {}): Promise<Uint8Array> {
  return new Uint8Array(await ask(target, MessageType.Fetch, encodeSelection(selection.segments), MessageType.Metadata));
}

/** Makes the asking agent known there: `metadata` must be its own. Throws as `fetchMetadata`, or what the other side's `addPeer` threw. */
export async function pushMetadata(target: ExchangeTarget, metadata: Uint8Array): Promise<void> {
  await ask(target, MessageType.Push, metadata, MessageType.Ack);
}

/** Takes segments of the asking agent back there, or the whole agent. Throws as `fetchMetadata`. */
export async function sendInvalidation(target: ExchangeTarget, selection: SegmentSelection = {}): Promise<void> {
  await ask(target, MessageType.Invalidate, encodeSelection(selection.segments), MessageType.Ack);
}

/** Both ways: afterwards each knows the other. Returns the peer's name. */
export async function exchangeMetadata(agent: MetadataParty, target: Omit<ExchangeTarget, 'agent'>): Promise<string> {
  const asking = { ...target, agent };
  const peer = agent.addPeer(await fetchMetadata(asking));
  await pushMetadata(asking, agent.metadata());
  return peer;
}

function ask(target: ExchangeTarget, type: number, body: Uint8Array, answer: number): Promise<Buffer> {
  const { clock = realClock, host = '127.0.0.1', port, deadlineMs = 5000 } = target;
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host, port, noDelay: true });
    const timer = clock.setTimer(deadlineMs, () => {
      fail(new ArmatureError('TRANSFER_EXCHANGE_TIMEOUT', `no answer from ${host}:${port} within ${deadlineMs} ms`, { hint: 'check that the other side runs and is reachable', retryable: true }));
    });
    const end = (): void => {
      clock.clearTimer(timer);
      socket.destroy();
    };
    const fail = (error: unknown): void => {
      end();
      reject(ArmatureError.from(error, 'TRANSFER_EXCHANGE_FAILED'));
    };
    const dialog = new Dialog(target, socket, { type, body, answer }, (found) => {
      end();
      resolve(found);
    });
    socket.on('data', (chunk) => {
      try {
        dialog.received(chunk);
      } catch (error) {
        fail(error);
      }
    });
    socket.on('error', (error) => fail(unreachable(host, port, error.message, error)));
    socket.on('close', () => fail(unreachable(host, port, 'the connection was closed')));
  });
}

function unreachable(host: string, port: number, why: string, cause?: Error): ArmatureError {
  return new ArmatureError('TRANSFER_EXCHANGE_FAILED', `no metadata from ${host}:${port}: ${why}`, { hint: 'check that the other side runs and is reachable', retryable: true, cause });
}

/** Challenge, hello, welcome, one question, one answer. */
class Dialog {
  readonly #target: ExchangeTarget;
  readonly #socket: net.Socket;
  readonly #question: { readonly type: number; readonly body: Uint8Array; readonly answer: number };
  readonly #answered: (body: Buffer) => void;
  readonly #reader: MessageReader;
  readonly #nonce: Buffer;
  #challenge: Buffer | undefined = undefined;
  #isAuthenticated = false;

  constructor(target: ExchangeTarget, socket: net.Socket, question: { readonly type: number; readonly body: Uint8Array; readonly answer: number }, answered: (body: Buffer) => void) {
    this.#target = target;
    this.#socket = socket;
    this.#question = question;
    this.#answered = answered;
    this.#nonce = randomBytes(NONCE_BYTES);
    this.#reader = new MessageReader((type) => limitOf(type, 'server', this.#isAuthenticated), (type, body) => this.#message(type, body));
  }

  received(chunk: Buffer): void {
    this.#reader.push(chunk);
  }

  #message(type: number, body: Buffer): void {
    if (type === MessageType.Error) throw decodeError(body);
    if (type === MessageType.Challenge) this.#hello(body);
    else if (type === MessageType.Welcome) this.#welcome(body);
    else if (type === this.#question.answer) this.#answered(body);
    else throw exchangeInvalid(`an answer of type ${type}`);
  }

  #hello(challenge: Buffer): void {
    if (this.#challenge !== undefined || challenge.length !== NONCE_BYTES) throw exchangeInvalid('a second or torn challenge');
    this.#challenge = challenge;
    const { name, incarnation } = this.#target.agent;
    const hello = { nonce: this.#nonce, name, incarnation, peerIncarnation: EXCHANGE_PURPOSE };
    this.#socket.write(message(MessageType.Hello, encodeHello({ ...hello, proof: helloProof(this.#target.token ?? '', challenge, hello) })));
  }

  #welcome(proof: Buffer): void {
    const challenge = this.#challenge;
    if (challenge === undefined) throw exchangeInvalid('a welcome before the challenge');
    if (!proves(proof, welcomeProof(this.#target.token ?? '', challenge, this.#nonce))) {
      throw new ArmatureError('TRANSFER_AUTH_FAILED', `${this.#target.host ?? '127.0.0.1'}:${this.#target.port} did not prove the shared token`, { hint: 'give all agents that meet the same token' });
    }
    this.#isAuthenticated = true;
    this.#socket.write(message(this.#question.type, this.#question.body));
  }
}
