import { once } from 'node:events';
import net from 'node:net';
import { FrameReader, FrameType, header } from './frames.ts';
import { decodeHello, welcomeProof } from './handshake.ts';

/** An owner that keeps the handshake and answers a read with `answer(request)`, then closes; undefined: nothing ever. */
export class FakeOwner {
  readonly port: number;
  readonly sockets = new Set<net.Socket>();
  readonly #server: net.Server;

  private constructor(server: net.Server) {
    this.#server = server;
    this.port = (server.address() as net.AddressInfo).port;
  }

  static async listen(answer: (request: number) => Buffer | undefined, closers: (() => unknown)[]): Promise<FakeOwner> {
    const server = net.createServer();
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const owner = new FakeOwner(server);
    server.on('connection', (socket) => owner.#serve(socket, answer));
    closers.push(() => owner.close());
    return owner;
  }

  close(): void {
    for (const socket of this.sockets) socket.destroy();
    this.#server.close();
  }

  #serve(socket: net.Socket, answer: (request: number) => Buffer | undefined): void {
    this.sockets.add(socket);
    socket.on('error', () => undefined).on('close', () => this.sockets.delete(socket));
    const challenge = Buffer.alloc(16, 1);
    socket.write(Buffer.concat([header(FrameType.Challenge, 0, 0, 16), challenge]));
    const reader = new FrameReader({
      limit: () => 1 << 20,
      frame: (type, request, _value, body) => {
        if (type === FrameType.Hello) socket.write(Buffer.concat([header(FrameType.Welcome, 0, 0, 32), welcomeProof('', challenge, decodeHello(body).nonce)]));
        if (type !== FrameType.Read) return;
        const bytes = answer(request);
        if (bytes !== undefined) socket.end(bytes);
      },
      dataBegin: () => undefined,
      data: () => undefined,
    });
    socket.on('data', (chunk) => reader.push(chunk));
  }
}

/** A whole and right answer. */
export function answerOf(request: number, payload: Buffer): Buffer {
  return Buffer.concat([header(FrameType.Data, request, 0, payload.length), payload, header(FrameType.End, request, 0, 0)]);
}
