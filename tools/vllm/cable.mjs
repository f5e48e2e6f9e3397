// A TCP connection that can be cut and mended, between one who connects to `from` and one who listens on `to`.
import { connect, createServer } from 'node:net';

export class Cable {
  #to;
  #server;
  #isCut = false;
  #sockets = new Set();

  static async lay(from, to) {
    const cable = new Cable(to);
    await new Promise((resolve, reject) => cable.#server.once('error', reject).listen(from, '127.0.0.1', resolve));
    return cable;
  }

  constructor(to) {
    this.#to = to;
    this.#server = createServer((socket) => this.#join(socket));
  }

  cut() {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend() {
    this.#isCut = false;
  }

  async stop() {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #join(near) {
    if (this.#isCut) return near.destroy();
    const far = connect(this.#to, '127.0.0.1');
    for (const [socket, other] of [[near, far], [far, near]]) {
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
  }
}
