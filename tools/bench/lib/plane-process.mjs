// One end of the request-plane benchmark: `worker` streams tokens, one per stream and step; `frontend` opens streams and counts.
import net from 'node:net';
import { MsgpackCodec, SystemClock } from '../../../packages/core/dist/index.js';
import { TcpRequestPlane } from '../../../packages/serving/dist/tcp-plane/tcp-request-plane.js';

const [role, kind] = process.argv.slice(2);
const silent = { debug() {}, info() {}, warn() {}, error: console.error, child: () => silent, isEnabled: () => false };
const FRAME_BYTES = 26; // a tokens frame of one token

const cpu = () => {
  const { user, system } = process.cpuUsage();
  return { cpuUs: user + system };
};

function plane() {
  return new TcpRequestPlane({
    host: '127.0.0.1', port: 0, advertiseHost: '', connect: [], bridge: undefined, clock: new SystemClock(), codec: new MsgpackCodec(), log: silent,
    node: `${process.pid}`, token: '', maxFrameBytes: 1 << 26, highWaterBytes: 1 << 20, pingIntervalMs: 5000, pingDeadlineMs: 15_000, connectTimeoutMs: 5000,
  });
}

/** As an engine: one step after the other, each gives a token to every running stream. */
class Steps {
  running = new Set();
  #isStepping = false;
  add(stream) {
    this.running.add(stream);
    if (!this.#isStepping) setImmediate(() => this.#step());
    this.#isStepping = true;
  }
  #step() {
    for (const stream of this.running) if (stream.next()) this.running.delete(stream);
    this.#isStepping = this.running.size > 0;
    // A pause between steps, so that both ends see one step after the other and not one burst.
    if (this.#isStepping) setTimeout(() => this.#step(), 1);
  }
}

async function planeWorker() {
  const requests = plane();
  const steps = new Steps();
  const { address } = await requests.serve('worker', (open, stream) => {
    let left = open.message.tokens;
    const tokens = { type: 'tokens', count: 1, tokenIds: Int32Array.of(7), choices: undefined, finish: Uint8Array.of(0), logprobs: undefined, topCount: 0, topTokenIds: undefined, topLogprobs: undefined };
    steps.add({
      next: () => {
        stream.send(tokens);
        if (--left > 0) return false;
        stream.close();
        return true;
      },
    });
    return { message() {}, closed() {} };
  });
  return address;
}

async function bareWorker() {
  const steps = new Steps();
  const server = net.createServer((socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => undefined);
    socket.on('data', (order) => {
      const [streams, tokens] = [order.readUInt32LE(0), order.readUInt32LE(4)];
      let left = tokens;
      const frames = Buffer.alloc(FRAME_BYTES * streams, 7);
      steps.add({ next: () => (socket.write(frames), --left === 0) });
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `127.0.0.1:${server.address().port}`;
}

const requests = role === 'frontend' && kind === 'plane' ? plane() : undefined;

function runPlane({ address, streams, tokens }) {
  return new Promise((resolve) => {
    let came = 0;
    let open = streams;
    for (let i = 0; i < streams; i++) {
      requests.open(address, { method: 'generate', message: { type: 'request', tokens }, deadlineMs: 60_000 }, {
        message: (message) => (came += message.count),
        closed: () => {
          if (--open === 0) resolve({ tokens: came, writes: requests.counts().writes });
        },
      });
    }
  });
}

function runBare({ address, streams, tokens }) {
  return new Promise((resolve) => {
    const [host, port] = address.split(':');
    const socket = net.connect({ host, port: Number(port), noDelay: true });
    let bytes = 0;
    socket.on('data', (chunk) => {
      bytes += chunk.length;
      if (bytes === streams * tokens * FRAME_BYTES) {
        socket.destroy();
        resolve({ tokens: bytes / FRAME_BYTES, writes: 0 });
      }
    });
    const order = Buffer.alloc(8);
    order.writeUInt32LE(streams, 0);
    order.writeUInt32LE(tokens, 4);
    socket.write(order);
  });
}

process.on('message', async (message) => {
  if (message.type === 'cpu') process.send(cpu());
  else process.send(await (kind === 'plane' ? runPlane : runBare)(message));
});
process.send({ address: role === 'worker' ? await (kind === 'plane' ? planeWorker : bareWorker)() : '' });
