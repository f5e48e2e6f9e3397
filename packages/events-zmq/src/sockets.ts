import { ArmatureError } from '@armature/contracts';
import type * as Zmq from 'zeromq';

export type ZmqModule = typeof Zmq;

/** Heartbeats find peers whose host has gone without a word; `connectTimeout` those that do not answer. */
export interface SocketSettings {
  /** Messages on the way to one subscriber; what does not fit it asks for later. */
  readonly sendHighWaterMark: number;
  readonly heartbeatMs: number;
  readonly curve: CurveKeys | undefined;
}

/** One pair of keys for the cluster: every process is server with it towards subscribers and client with it towards publishers. */
export interface CurveKeys {
  readonly publicKey: string;
  readonly secretKey: string;
  /** Further public keys that may connect: while keys are changed. */
  readonly acceptedKeys: readonly string[];
}

/** Throws `EVENTS_ZMQ_ADDON_MISSING`. */
export async function loadZmq(load: () => Promise<unknown> = () => import('zeromq')): Promise<ZmqModule> {
  try {
    const module = (await load()) as ZmqModule & { readonly default?: ZmqModule };
    return module.default ?? module;
  } catch (error) {
    throw new ArmatureError('EVENTS_ZMQ_ADDON_MISSING', `the native addon of the npm package zeromq cannot be loaded on ${process.platform}-${process.arch}: ${String(error)}`, {
      hint: 'run `npm install zeromq@6.8.0` on this kind of machine, or use `events: { use: nats }`',
      cause: error,
    });
  }
}

export function newContext(zmq: ZmqModule): Zmq.Context {
  // Two sockets for each publisher of the cluster: its subscriber and its monitor. A process with messages left to send still ends.
  return new zmq.Context({ blocky: false, maxSockets: 16_384 });
}

/** A send never waits: there is no room, then the message goes nowhere. */
export function publisherSocket(zmq: ZmqModule, context: Zmq.Context, settings: SocketSettings): Zmq.XPublisher {
  return new zmq.XPublisher({
    context,
    ...common(settings),
    linger: 500,
    sendHighWaterMark: settings.sendHighWaterMark,
    ...(settings.curve === undefined ? {} : { curveServer: true, curveSecretKey: settings.curve.secretKey, zapDomain: 'armature' }),
  });
}

export function subscriberSocket(zmq: ZmqModule, context: Zmq.Context, settings: SocketSettings): Zmq.XSubscriber {
  const { curve } = settings;
  return new zmq.XSubscriber({
    context,
    ...common(settings),
    linger: 0,
    receiveHighWaterMark: settings.sendHighWaterMark,
    reconnectInterval: 100,
    reconnectMaxInterval: 2_000,
    connectTimeout: settings.heartbeatMs * 3,
    ...(curve === undefined ? {} : { curveServerKey: curve.publicKey, curvePublicKey: curve.publicKey, curveSecretKey: curve.secretKey }),
  });
}

function common({ heartbeatMs }: SocketSettings): { sendTimeout: number; heartbeatInterval: number; heartbeatTimeout: number; heartbeatTimeToLive: number } {
  return { sendTimeout: 0, heartbeatInterval: heartbeatMs, heartbeatTimeout: heartbeatMs * 3, heartbeatTimeToLive: heartbeatMs * 3 };
}

const ZAP_ENDPOINT = 'inproc://zeromq.zap.01';

/**
 * CURVE alone proves the server to the client and encrypts; any client may come. This answers ZeroMQ's question who is there (ZAP, RFC 27),
 * so that only holders of a known key may. Bind before the publisher.
 */
export async function guardClients(zmq: ZmqModule, context: Zmq.Context, curve: CurveKeys, refused: () => void): Promise<{ close(): void }> {
  const accepted = new Set([curve.publicKey, ...curve.acceptedKeys].map((key) => z85Decode(key).toString('hex')));
  const socket = new zmq.Reply({ context, linger: 0 });
  await socket.bind(ZAP_ENDPOINT);
  const answer = async (): Promise<void> => {
    for await (const [version, id, , , , mechanism, key] of socket) {
      const isKnown = String(mechanism) === 'CURVE' && key !== undefined && accepted.has(key.toString('hex'));
      if (!isKnown) refused();
      await socket.send([version ?? '1.0', id ?? '', isKnown ? '200' : '400', isKnown ? 'OK' : 'key not accepted', '', '']);
    }
  };
  void answer().catch(() => undefined); // ends with the socket
  return { close: () => socket.close() };
}

const Z85 = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#';

/** ZeroMQ's printable form of 32 bytes (RFC 32): 40 characters, five for four bytes. */
export function z85Decode(text: string): Buffer {
  const bytes = Buffer.alloc((text.length / 5) * 4);
  for (let i = 0, at = 0; i < text.length; i += 5, at += 4) {
    let value = 0;
    for (let k = 0; k < 5; k++) value = value * 85 + Z85.indexOf(text[i + k] as string);
    bytes.writeUInt32BE(value >>> 0, at);
  }
  return bytes;
}
