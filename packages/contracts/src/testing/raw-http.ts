import { connect } from 'node:net';
import type { Socket } from 'node:net';

/** One HTTP/1.1 answer as it came off the wire. */
export interface RawAnswer {
  readonly status: number;
  /** By lower-case name; repeated ones joined with ", ". */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  /** The data of each chunk of a chunked answer, in order. */
  readonly chunks: readonly Buffer[];
}

/** A connection whose every byte a test controls, with a strict reader: framing errors throw. */
export class RawHttpClient {
  readonly socket: Socket;
  #buffer: Buffer = Buffer.alloc(0);
  #closed = false;
  #owed = 0;
  #wake: (() => void) | undefined = undefined;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (data: Buffer) => {
      this.#buffer = this.#buffer.length === 0 ? data : Buffer.concat([this.#buffer, data]);
      this.#wake?.();
    });
    const closed = (): void => {
      this.#closed = true;
      this.#wake?.();
    };
    socket.on('end', closed);
    socket.on('close', closed);
    socket.on('error', closed);
  }

  static open(port: number, host = '127.0.0.1'): Promise<RawHttpClient> {
    return new Promise((resolve, reject) => {
      const socket = connect({ port, host, noDelay: true });
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new RawHttpClient(socket));
      });
    });
  }

  send(text: string | Uint8Array): void {
    this.socket.write(text);
  }

  /** A whole request; `content-length` is added for a body. */
  request(method: string, path: string, body?: string | Uint8Array, headers: Readonly<Record<string, string>> = {}): void {
    let head = `${method} ${path} HTTP/1.1\r\nhost: test\r\n`;
    for (const [name, value] of Object.entries(headers)) head += `${name}: ${value}\r\n`;
    const bytes = body === undefined ? undefined : Buffer.from(body);
    if (bytes !== undefined) head += `content-length: ${bytes.length}\r\n`;
    this.send(bytes === undefined ? `${head}\r\n` : Buffer.concat([Buffer.from(`${head}\r\n`), bytes]));
  }

  /** The next whole answer. Throws when the connection ends first. */
  async answer(method = 'GET'): Promise<RawAnswer> {
    const { status, headers } = await this.head();
    if (method === 'HEAD' || status === 204 || status === 304) return { status, headers, body: Buffer.alloc(0), chunks: [] };
    if (headers['transfer-encoding'] !== 'chunked') {
      const length = Number(headers['content-length']);
      if (!Number.isInteger(length)) throw new Error(`answer has neither chunks nor a content-length: ${JSON.stringify(headers)}`);
      return { status, headers, body: await this.bytes(length), chunks: [] };
    }
    const chunks: Buffer[] = [];
    for (;;) {
      const chunk = await this.chunk();
      if (chunk === undefined) return { status, headers, body: Buffer.concat(chunks), chunks };
      chunks.push(chunk);
    }
  }

  async head(): Promise<{ readonly status: number; readonly headers: Readonly<Record<string, string>> }> {
    for (;;) {
      const lines = (await this.#until('\r\n\r\n')).split('\r\n');
      const status = /^HTTP\/1\.1 (\d{3})/.exec(lines[0]!);
      if (status === null) throw new Error(`not a status line: ${JSON.stringify(lines[0])}`);
      if (status[1]!.startsWith('1')) continue;
      const headers: Record<string, string> = {};
      for (const line of lines.slice(1)) {
        const colon = line.indexOf(':');
        const name = line.slice(0, colon).toLowerCase();
        const value = line.slice(colon + 1).trim();
        headers[name] = headers[name] === undefined ? value : `${headers[name]}, ${value}`;
      }
      return { status: Number(status[1]), headers };
    }
  }

  /** Data of the next chunk; undefined for the terminating one. */
  async chunk(): Promise<Buffer | undefined> {
    if (this.#owed > 0) await this.#chunkEnd();
    const size = await this.#until('\r\n');
    if (!/^[0-9a-fA-F]+$/.test(size)) throw new Error(`not a chunk size: ${JSON.stringify(size.slice(0, 40))}`);
    const length = parseInt(size, 16);
    const data = await this.bytes(length);
    // The line end after the data is checked with the next chunk: some servers send it only then.
    this.#owed = Math.max(1, length);
    if (length > 0) return data;
    await this.#chunkEnd();
    return undefined;
  }

  async #chunkEnd(): Promise<void> {
    const length = this.#owed;
    this.#owed = 0;
    const ending = (await this.bytes(2)).toString('latin1');
    if (ending !== '\r\n') throw new Error(`chunk of ${length} bytes is followed by ${JSON.stringify(ending)}: its length is wrong`);
  }

  async bytes(count: number): Promise<Buffer> {
    while (this.#buffer.length < count) await this.#more();
    const data = this.#buffer.subarray(0, count);
    this.#buffer = this.#buffer.subarray(count);
    return data;
  }

  /** Resolves when the server has closed the connection; what came before is thrown away. */
  async closed(): Promise<void> {
    while (!this.#closed) await this.#wait();
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  async #until(mark: string): Promise<string> {
    for (;;) {
      const at = this.#buffer.indexOf(mark);
      if (at >= 0) {
        const text = this.#buffer.toString('latin1', 0, at);
        this.#buffer = this.#buffer.subarray(at + mark.length);
        return text;
      }
      await this.#more();
    }
  }

  async #more(): Promise<void> {
    const before = this.#buffer.length;
    if (this.#closed) throw new Error(`the connection ended after ${JSON.stringify(this.#buffer.toString('latin1').slice(0, 200))}`);
    await this.#wait();
    if (this.#closed && this.#buffer.length === before) throw new Error('the connection ended inside an answer');
  }

  #wait(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined;
        resolve();
      };
    });
  }

  destroy(): void {
    this.socket.destroy();
  }
}
