import { afterEach, describe, expect, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import type { Clock, KvArena, KvLayout, Logger, TransferTransport } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { createSharedMemory, MemoryTransport, ShmTransport, TcpTransport } from '@armature/nixel';
import { ManualClock } from '../test-support/fakes.ts';
import { createAgentMover } from './agent-mover.ts';
import type { AgentMoverOptions } from './agent-mover.ts';
import type { KvMover, Pull } from './kv-mover.ts';

const BLOCKS = 8;
const BLOCK_BYTES = 256;
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Line {
  readonly message: string;
  readonly code: unknown;
}

function recording(): Logger & { readonly lines: Line[] } {
  const lines: Line[] = [];
  const say = (message: string, fields?: Readonly<Record<string, unknown>>): void => void lines.push({ message, code: fields?.['code'] });
  const log: Logger & { readonly lines: Line[] } = { lines, debug: () => undefined, info: say, warn: say, error: say, child: () => log, isEnabled: () => true };
  return log;
}

interface Made {
  readonly mover: KvMover;
  readonly bytes: Uint8Array;
  readonly log: ReturnType<typeof recording>;
}

/** Blocks of 256 bytes, or the order that `layout` tells; block b is filled with `first + b`. */
async function made(name: string, transports: readonly TransferTransport[], options: Partial<AgentMoverOptions> & { first?: number; location?: object; buffer?: ArrayBuffer; layout?: KvLayout } = {}): Promise<Made> {
  const { first = 0, location, layout, buffer = new ArrayBuffer(BLOCKS * BLOCK_BYTES), ...rest } = options;
  const bytes = new Uint8Array(buffer, 0, BLOCKS * BLOCK_BYTES);
  for (let b = 0; b < BLOCKS; b++) bytes.fill(first + b, b * BLOCK_BYTES, (b + 1) * BLOCK_BYTES);
  const segment = { buffer, byteOffset: 0, lengthBytes: bytes.length, ...(location === undefined ? {} : { location }) } as KvArena['segments'][0];
  const arena: KvArena = { segments: [segment], blockStrideBytes: BLOCK_BYTES, pieces: 1, pieceBytes: BLOCK_BYTES, pieceStrideBytes: 0, layoutFingerprint: 'x', ...(layout === undefined ? {} : { layout }) };
  const log = recording();
  const mover = await createAgentMover({ name, incarnation: `${name}-1`, arena, transports, clock: realClock, log, ...rest });
  closers.push(() => mover.close());
  return { mover, bytes, log };
}

interface Started {
  readonly pull: Pull;
  readonly ended: Promise<TransferStatus>;
  status: TransferStatus | undefined;
}

function pull(to: Made, metadata: Uint8Array, remote: number[], local: number[], deadlineMs = 5000): Started {
  const started: Partial<Started> & { status: TransferStatus | undefined } = { status: undefined };
  const ended = new Promise<TransferStatus>((resolve) => {
    const done = (status: TransferStatus): void => {
      if (started.status !== undefined) throw new Error('done twice');
      started.status = status;
      resolve(status);
    };
    Object.assign(started, { pull: to.mover.pull(metadata, Int32Array.from(remote), Int32Array.from(local), deadlineMs, done) });
  });
  return Object.assign(started, { ended }) as Started;
}

/** Reaches everybody and moves nothing; `later`: says so in another turn. */
function unable(status: TransferStatus = TransferStatus.NotSupported, later = false): TransferTransport {
  const transport = memory();
  return {
    name: transport.name,
    supports: transport.supports,
    unavailable: () => undefined,
    open: async (host) => {
      const endpoint = await transport.open(host);
      endpoint.post = (_plan, _notification, done) => {
        if (later) realClock.defer(() => done(status));
        else done(status);
        return 0;
      };
      return endpoint;
    },
  };
}

const block = (made: Made, b: number): number[] => [...new Set(made.bytes.subarray(b * BLOCK_BYTES, (b + 1) * BLOCK_BYTES))];
const memory = (clock: Clock = realClock): MemoryTransport => new MemoryTransport({ clock });

describe('pulls', () => {
  test('pick blocks of both arenas, again and again with the same metadata', async () => {
    const transport = memory();
    const [a, b] = [await made('a', [transport], { first: 100 }), await made('b', [transport])];
    const metadata = b.mover.metadata();
    expect(await pull(a, metadata, [7, 2], [0, 5]).ended).toBe(TransferStatus.Done);
    expect(await pull(a, metadata.slice(), [3], [1]).ended).toBe(TransferStatus.Done);
    expect([0, 1, 2, 3, 4, 5].map((at) => block(a, at))).toEqual([[7], [3], [102], [103], [104], [2]]);
    expect(await pull(a, metadata, [8], [0]).ended).toBe(TransferStatus.InvalidDescriptor);
    expect(await pull(a, metadata, [1, 2], [0]).ended).toBe(TransferStatus.InvalidDescriptor);
    expect(await pull(a, Uint8Array.of(1, 2, 3), [1], [0]).ended).toBe(TransferStatus.InvalidDescriptor);
    expect(block(a, 0)).toEqual([7]);
  });

  test('use what both sides have: memory that is shared goes by shm, else tcp', async ({ skip }) => {
    const shm = (): ShmTransport => new ShmTransport({ clock: realClock, log: recording() });
    const reason = shm().unavailable();
    if (reason !== undefined) skip(reason);
    const tcp = (): TcpTransport => new TcpTransport({ clock: realClock, log: recording() });
    const shared = createSharedMemory({ name: 'arena', lengthBytes: BLOCKS * BLOCK_BYTES });
    const b = await made('b', [shm()], { buffer: shared.buffer, location: shared.location() });
    const c = await made('c', [tcp()]);
    const a = await made('a', [shm(), tcp()], { first: 100 });
    closers.push(() => shared.close());
    expect(await pull(a, b.mover.metadata(), [4], [0]).ended).toBe(TransferStatus.Done);
    expect(await pull(a, c.mover.metadata(), [5], [1]).ended).toBe(TransferStatus.Done);
    expect([block(a, 0), block(a, 1)]).toEqual([[4], [5]]);
  });

  test('a peer that no transport reaches, or whose memory none can move, is NotSupported, with a line that says so', async () => {
    const a = await made('a', [memory()]);
    const b = await made('b', [memory()]);
    expect(await pull(a, b.mover.metadata(), [1], [1]).ended).toBe(TransferStatus.NotSupported);
    expect(a.log.lines.map(({ code }) => code)).toEqual(['TRANSFER_PEER_UNREACHABLE']);
    const none = unable();
    const [c, d] = [await made('c', [none]), await made('d', [none])];
    expect(await pull(c, d.mover.metadata(), [1], [1]).ended).toBe(TransferStatus.NotSupported);
    expect(c.log.lines.map(({ message }) => message)).toEqual(['no transport moves KV blocks of this peer']);
  });
});

describe('as many run with one peer as may', () => {
  async function slow(): Promise<{ a: Made; b: Made; clock: ManualClock }> {
    const clock = new ManualClock();
    const transport = new MemoryTransport({ clock, completion: 'deferred', delayMs: () => 10 });
    return { a: await made('a', [transport], { clock, maxRunningPerPeer: 2, first: 100 }), b: await made('b', [transport], { clock }), clock };
  }

  test('others wait, in order, and none fails as Overloaded', async () => {
    const { a, b, clock } = await slow();
    const pulls = Array.from({ length: 6 }, (_, i) => pull(a, b.mover.metadata(), [i], [i]));
    const ended = (): number => pulls.filter(({ status }) => status === TransferStatus.Done).length;
    const counts: number[] = [];
    for (let i = 0; i < 3; i++) {
      clock.advance(10);
      clock.advance(0);
      counts.push(ended());
    }
    expect(counts).toEqual([2, 4, 6]);
    expect(Array.from({ length: 6 }, (_, i) => block(a, i))).toEqual([[0], [1], [2], [3], [4], [5]]);
  });

  test('one that waits is cancelled at once, ends by its deadline, and with close', async () => {
    const { a, b, clock } = await slow();
    const metadata = b.mover.metadata();
    const pulls = [1, 2, 3, 4, 5, 6].map((at) => pull(a, metadata, [at], [at], at === 4 ? 5 : 1000));
    pulls[2]!.pull.cancel();
    expect(pulls[2]!.status).toBe(TransferStatus.Canceled);
    clock.advance(10);
    clock.advance(0);
    expect(pulls.map(({ status }) => status)).toEqual([0, 0, TransferStatus.Canceled, TransferStatus.TimedOut, undefined, undefined]);
    pulls.push(pull(a, metadata, [7], [7]));
    const closed = a.mover.close();
    expect(pulls.map(({ status }) => status).slice(4)).toEqual([TransferStatus.Canceled, TransferStatus.Canceled, TransferStatus.Canceled]);
    await closed;
    expect([block(a, 3), block(a, 4), block(a, 5)]).toEqual([[103], [104], [105]]);
  });
});

test('an owner that holds all it may is Overloaded to who asks: nobody here would start the pull again', async () => {
  const full = unable(TransferStatus.Overloaded, true);
  const [a, b] = [await made('a', [full]), await made('b', [full])];
  expect(await pull(a, b.mover.metadata(), [1], [1]).ended).toBe(TransferStatus.Overloaded);
});

describe('lives of a peer', () => {
  test('metadata of the earlier one finds nobody and disturbs nothing', async () => {
    const transport = memory();
    const a = await made('a', [transport], { first: 100 });
    const before = await made('b', [transport], { incarnation: 'first' });
    const old = before.mover.metadata();
    expect(await pull(a, old, [1], [1]).ended).toBe(TransferStatus.Done);
    await before.mover.close();
    const after = await made('b', [transport], { incarnation: 'second', first: 50 });
    expect(await pull(a, after.mover.metadata(), [2], [2]).ended).toBe(TransferStatus.Done);
    expect(await pull(a, old, [3], [3]).ended).toBe(TransferStatus.RemoteDisconnected);
    expect(await pull(a, after.mover.metadata(), [4], [4]).ended).toBe(TransferStatus.Done);
    expect([1, 2, 3, 4].map((at) => block(a, at))).toEqual([[1], [52], [103], [54]]);
    expect(a.log.lines.map(({ code }) => code)).toEqual(['TRANSFER_PEER_STALE']);
  });

  test('metadata of the earlier one that comes first by accident does not lock the later one out', async () => {
    const transport = new TcpTransport({ clock: realClock, log: recording() });
    const before = await made('b', [transport], { incarnation: 'first' });
    const old = before.mover.metadata();
    const after = await made('b', [transport], { incarnation: 'second', first: 50 });
    const a = await made('a', [transport], { first: 100 });
    expect(await pull(a, after.mover.metadata(), [1], [1]).ended).toBe(TransferStatus.Done);
    await before.mover.close();
    expect(await pull(a, old, [3], [3]).ended).toBe(TransferStatus.RemoteDisconnected);
    expect(await pull(a, after.mover.metadata(), [2], [2]).ended).toBe(TransferStatus.Done);
    expect([1, 2, 3].map((at) => block(a, at))).toEqual([[51], [52], [103]]);
  });
});

describe('arenas that say what they are', () => {
  const layout = (over: Partial<KvLayout> = {}): KvLayout => ({
    model: 'm',
    dtype: 'u8',
    dtypeBytes: 1,
    blockSize: 2,
    layers: 1,
    planes: 1,
    kvHeads: 1,
    headDim: 128,
    tpSize: 1,
    tpRank: 0,
    order: ['block', 'layer', 'kv', 'token', 'head', 'dim'],
    blocks: BLOCKS,
    ...over,
  });

  test('the same: byte for byte; another order: converted; another model: NotSupported', async () => {
    const transport = memory();
    const a = await made('a', [transport], { first: 100, layout: layout() });
    const same = await made('same', [transport], { layout: layout() });
    expect(await pull(a, same.mover.metadata(), [6], [0]).ended).toBe(TransferStatus.Done);
    expect(block(a, 0)).toEqual([6]);
    const tokens = await made('tokens', [transport], { layout: layout({ order: ['token', 'layer', 'kv', 'block', 'head', 'dim'] }) });
    // Token-major: 128 bytes of each of 8 blocks, then the second tokens.
    tokens.bytes.forEach((_, i) => (tokens.bytes[i] = (i >> 7) % 8 === 3 ? 10 + (i >> 10) : 0));
    expect(await pull(a, tokens.mover.metadata(), [3], [1]).ended).toBe(TransferStatus.Done);
    expect([a.bytes[256], a.bytes[256 + 127], a.bytes[256 + 128], a.bytes[511], a.bytes[512]]).toEqual([10, 10, 11, 11, 102]);
    const other = await made('other', [transport], { layout: layout({ model: 'n' }) });
    expect(await pull(a, other.mover.metadata(), [6], [2]).ended).toBe(TransferStatus.NotSupported);
    expect(block(a, 2)).toEqual([102]);
    expect(a.log.lines.at(-1)?.code).toBe('TRANSFER_LAYOUT_MISMATCH');
  });
});
