import net from 'node:net';

type OnRead = NonNullable<net.ConnectOpts['onread']>;

/** What hides under an accepted socket. */
interface WithHandle {
  _handle: unknown;
}

/**
 * An accepted connection as a socket whose reads go through `onread`, or, where that cannot be, through `onChunk`. A listener gives no
 * way to ask for `onread`: the handle moves to a socket that can, and the accepted one, left empty, is discarded. The listener must be
 * made with `pauseOnConnect`, so that nothing was read before.
 */
export function receiving(accepted: net.Socket, { onread, onChunk, adopts }: { onread: OnRead; onChunk: (chunk: Buffer) => unknown; adopts: boolean }): net.Socket {
  const shell = accepted as unknown as WithHandle;
  if (!adopts || typeof shell._handle !== 'object' || shell._handle === null) {
    accepted.on('data', onChunk);
    accepted.resume();
    return accepted;
  }
  const handle = shell._handle;
  const options: unknown = { handle, onread, readable: true, writable: true };
  shell._handle = null;
  const socket = new net.Socket(options as net.SocketConstructorOpts);
  accepted.on('error', () => undefined);
  accepted.destroy();
  socket.resume();
  return socket;
}
