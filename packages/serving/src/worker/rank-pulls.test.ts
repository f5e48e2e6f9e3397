import { afterEach, describe, expect, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import type { KvArena, KvDimension, KvLayout, Logger, SegmentLocation, TransferTransport } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { CmaTransport, createSharedMemory, kvOrders, MemoryTransport, ShmTransport, TcpTransport } from '@armature/nixel';
import { ManualClock, testRandom } from '../test-support/fakes.ts';
import { createAgentMover } from './agent-mover.ts';
import { canExchangeKv, kvConversionOf } from './arena-segments.ts';
import type { KvMover } from './kv-mover.ts';

const silent: Logger = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined, child: () => silent, isEnabled: () => false };
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

type Shape = Pick<KvLayout, 'blockSize' | 'layers' | 'planes' | 'kvHeads' | 'headDim'>;
type Place = Record<KvDimension, number>;

/** An engine's arena by the naive model: every byte is looked up by its place, one at a time. */
class Arena {
  readonly bytes: Uint8Array;
  readonly arena: KvArena;
  readonly #layouts: readonly KvLayout[];
  readonly #rankBytes: number;

  constructor(shape: Shape, split: { tp: number; blocks: number; order: readonly KvDimension[] }, shared?: { buffer: ArrayBuffer; location: SegmentLocation & { type: 'shared' } }) {
    const { tp, blocks, order } = split;
    const base = { model: 'm', dtype: 'u8', dtypeBytes: 1 as const, ...shape, tpSize: tp, order, blocks };
    this.#layouts = Array.from({ length: tp }, (_, tpRank) => ({ ...base, tpRank }));
    this.#rankBytes = order.reduce((product, dimension) => product * this.#size(dimension), 1);
    const lengthBytes = tp * this.#rankBytes;
    const buffer = shared?.buffer ?? new ArrayBuffer(lengthBytes);
    this.bytes = new Uint8Array(buffer, 0, lengthBytes);
    // One run per block and rank, or per layer and plane of it.
    const perRank = order[0] === 'block' ? 1 : shape.layers * shape.planes;
    const pieceBytes = this.#rankBytes / blocks / perRank;
    this.arena = {
      segments: [{ buffer, byteOffset: 0, lengthBytes, ...(shared === undefined ? {} : { location: shared.location }) }],
      blockStrideBytes: pieceBytes,
      pieces: tp * perRank,
      pieceBytes,
      pieceStrideBytes: pieceBytes * blocks,
      layoutFingerprint: `tp${tp}`,
      ranks: this.#layouts.map((layout, rank) => ({ byteOffset: rank * this.#rankBytes, lengthBytes: this.#rankBytes, layout })),
    };
  }

  get heads(): number {
    return Math.max(1, this.#layouts[0]!.kvHeads / this.#layouts.length);
  }

  #size(dimension: KvDimension): number {
    const { layers, planes, blocks, blockSize, headDim } = this.#layouts[0]!;
    return { layer: layers, kv: planes, block: blocks, token: blockSize, head: this.heads, dim: headDim }[dimension];
  }

  /** Calls back with every byte's index and what it is: the head is the model's. */
  each(visit: (at: number, place: Place, rank: number) => void): void {
    const { order, kvHeads } = this.#layouts[0]!;
    const tp = this.#layouts.length;
    for (let at = 0; at < this.bytes.length; at++) {
      const rank = Math.floor(at / this.#rankBytes);
      let rest = at % this.#rankBytes;
      const place: Place = { layer: 0, kv: 0, block: 0, token: 0, head: 0, dim: 0 };
      for (let i = order.length - 1; i >= 0; i--) {
        const size = this.#size(order[i]!);
        place[order[i]!] = rest % size;
        rest = Math.floor(rest / size);
      }
      place.head += tp > kvHeads ? Math.floor((rank * kvHeads) / tp) : rank * this.heads;
      visit(at, place, rank);
    }
  }
}

const valueOf = ({ layer, kv, block, token, head, dim }: Place): number => (layer * 31 + kv * 101 + block * 17 + token * 7 + head * 57 + dim * 3 + ((head * dim) % 11) + 1) & 0x7f;

async function moverFor(name: string, arena: KvArena, transports: readonly TransferTransport[], clock = realClock): Promise<KvMover> {
  const mover = await createAgentMover({ name, incarnation: `${name}-1`, arena, transports, clock, log: silent });
  closers.push(() => mover.close());
  return mover;
}

const pull = (to: KvMover, from: KvMover, remote: number[], local: number[]): Promise<TransferStatus> =>
  new Promise((resolve, reject) => {
    let ends = 0;
    to.pull(from.metadata(), Int32Array.from(remote), Int32Array.from(local), 5000, (status) => (++ends === 1 ? resolve(status) : reject(new Error('done twice'))));
  });

/** Bytes that are not what the naive gather says. */
function wrongBytes(arena: Arena, sourceOf: ReadonlyMap<number, number>, headOf: (head: number) => number = (head) => head): number {
  let wrong = 0;
  arena.each((at, place) => {
    const block = sourceOf.get(place.block);
    const expected = block === undefined ? 0xff : valueOf({ ...place, block, head: headOf(place.head) });
    if (arena.bytes[at] !== expected) wrong++;
  });
  return wrong;
}

function filled(here: Arena, there: Arena): void {
  here.bytes.fill(0xff);
  there.each((at, place) => (there.bytes[at] = valueOf(place)));
}

function shuffled(random: ReturnType<typeof testRandom>, count: number, of: number): number[] {
  const all = Array.from({ length: of }, (_, i) => i);
  for (let i = of - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [all[i], all[j]] = [all[j]!, all[i]!];
  }
  return all.slice(0, count);
}

const splits = (kvHeads: number): number[] => [1, 2, 4, 8].filter((tp) => kvHeads % tp === 0 || tp % kvHeads === 0);

describe('pulls between arenas of different ranks', () => {
  test('every byte is what a naive gather puts there, and no other byte changes', async () => {
    let [mismatched, copies] = [0, 0];
    for (let seed = 1; seed <= 60; seed++) {
      const random = testRandom(seed);
      const pick = <T>(items: readonly T[]): T => items[random.below(items.length)]!;
      const shape: Shape = { blockSize: pick([4, 8]), layers: 1 + random.below(3), planes: pick([1, 2] as const), kvHeads: pick([1, 2, 4, 8]), headDim: 128 };
      const orders = [kvOrders.blockMajorHnd, kvOrders.blockMajorNhd, kvOrders.layerMajorHnd, kvOrders.layerMajorNhd];
      const order = pick(orders);
      const make = (): Arena => new Arena(shape, { tp: pick(splits(shape.kvHeads)), blocks: 2 + random.below(5), order: seed % 3 === 0 ? pick(orders) : order });
      const [here, there] = [make(), make()];
      filled(here, there);
      const blocks = [here, there].map(({ arena }) => arena.ranks![0]!.layout.blocks) as [number, number];
      const count = 1 + random.below(Math.min(...blocks));
      const [local, remote] = [shuffled(random, count, blocks[0]), shuffled(random, count, blocks[1])];
      const transports = [new MemoryTransport({ clock: realClock })];
      const status = await pull(await moverFor('here', here.arena, transports), await moverFor('there', there.arena, transports), remote, local);
      expect(status, `seed ${seed}`).toBe(TransferStatus.Done);
      const sourceOf = new Map(local.map((block, i) => [block, remote[i]!]));
      expect(wrongBytes(here, sourceOf), `seed ${seed}`).toBe(0);
      if (shape.kvHeads > 1) expect(wrongBytes(here, sourceOf, (head) => head ^ 1), `sabotage, seed ${seed}: two heads swapped`).toBeGreaterThan(0);
      const sizes = [here.arena.ranks!.length, there.arena.ranks!.length];
      if (sizes[0] !== sizes[1]) mismatched++;
      if (sizes.some((tp) => tp > shape.kvHeads)) copies++;
      for (const close of closers.splice(0).reverse()) await close();
    }
    expect(mismatched).toBeGreaterThan(20);
    expect(copies).toBeGreaterThan(10);
  });

  test('the same ranks and fewer blocks: byte for byte, region by region', async () => {
    const shape: Shape = { blockSize: 4, layers: 2, planes: 2, kvHeads: 4, headDim: 8 };
    const [here, there] = [8, 5].map((blocks) => new Arena(shape, { tp: 4, blocks, order: kvOrders.blockMajorHnd })) as [Arena, Arena];
    filled(here, there);
    const transports = [new MemoryTransport({ clock: realClock })];
    expect(await pull(await moverFor('here', here.arena, transports), await moverFor('there', there.arena, transports), [4, 0], [7, 2])).toBe(TransferStatus.Done);
    expect(wrongBytes(here, new Map([[7, 4], [2, 0]]))).toBe(0);
  });

  for (const name of ['tcp', 'cma', 'shm'] as const) {
    test(`over ${name}`, async ({ skip }) => {
      const make = (): TransferTransport => (name === 'tcp' ? new TcpTransport({ clock: realClock, log: silent }) : name === 'cma' ? new CmaTransport({ clock: realClock, log: silent, sameUserTrust: true }) : new ShmTransport({ clock: realClock, log: silent }));
      const reason = make().unavailable();
      if (reason !== undefined) skip(reason);
      const shape: Shape = { blockSize: 4, layers: 3, planes: 2, kvHeads: 4, headDim: 32 };
      for (const [to, from] of [[2, 4], [1, 2], [4, 1], [8, 2]] as const) {
        const shared = createSharedMemory({ name: 'arena', lengthBytes: 1 << 20 });
        closers.push(() => shared.close());
        const there = new Arena(shape, { tp: from, blocks: 6, order: kvOrders.blockMajorHnd }, { buffer: shared.buffer as unknown as ArrayBuffer, location: shared.location() });
        const here = new Arena(shape, { tp: to, blocks: 6, order: kvOrders.blockMajorHnd });
        filled(here, there);
        expect(await pull(await moverFor(`here${to}`, here.arena, [make()]), await moverFor(`there${from}`, there.arena, [make()]), [5, 1, 3], [0, 1, 4])).toBe(TransferStatus.Done);
        expect(wrongBytes(here, new Map([[0, 5], [1, 1], [4, 3]])), `${from} to ${to}`).toBe(0);
      }
    });
  }
});

describe('what cannot be converted moves nothing', () => {
  const shape: Shape = { blockSize: 4, layers: 1, planes: 2, kvHeads: 4, headDim: 32 };
  const transports = [new MemoryTransport({ clock: realClock })];

  test('another model, runs that are too short, a block that a rank lacks', async () => {
    const here = new Arena(shape, { tp: 2, blocks: 4, order: kvOrders.blockMajorHnd });
    const mover = await moverFor('here', here.arena, transports);
    const others: [Arena, TransferStatus][] = [
      [new Arena({ ...shape, headDim: 64 }, { tp: 4, blocks: 4, order: kvOrders.blockMajorHnd }), TransferStatus.NotSupported],
      [new Arena({ ...shape, kvHeads: 8 }, { tp: 4, blocks: 4, order: kvOrders.blockMajorHnd }), TransferStatus.NotSupported],
      [new Arena(shape, { tp: 1, blocks: 4, order: kvOrders.blockMajorNhd }), TransferStatus.NotSupported],
      [new Arena(shape, { tp: 4, blocks: 3, order: kvOrders.blockMajorHnd }), TransferStatus.InvalidDescriptor],
    ];
    for (const [i, [there, expected]] of others.entries()) {
      filled(here, there);
      expect(await pull(mover, await moverFor(`there${i}`, there.arena, transports), [0, 3], [1, 2]), `case ${i}`).toBe(expected);
      expect(wrongBytes(here, new Map()), `case ${i}`).toBe(0);
    }
  });

  test('workers tell beforehand: equal words where only the split differs', () => {
    const word = (over: Partial<Shape>, tp: number, order = kvOrders.blockMajorHnd) => {
      const { arena } = new Arena({ ...shape, ...over }, { tp, blocks: 2 + tp, order });
      return { layoutFingerprint: arena.layoutFingerprint, kvConversion: kvConversionOf(arena)! };
    };
    expect(canExchangeKv(word({}, 4), word({}, 2))).toBe(true);
    expect(canExchangeKv(word({}, 4), word({ headDim: 64 }, 2))).toBe(false);
    expect(canExchangeKv(word({}, 4), word({}, 2, kvOrders.blockMajorNhd))).toBe(false);
    expect(canExchangeKv({ layoutFingerprint: 'a' }, { layoutFingerprint: 'b' })).toBe(false);
    expect(canExchangeKv({ layoutFingerprint: 'a' }, { layoutFingerprint: 'a' })).toBe(true);
  });
});

test('a cancelled pull ends once, as one, when no rank can change any more', async () => {
  const clock = new ManualClock();
  const shape: Shape = { blockSize: 4, layers: 1, planes: 2, kvHeads: 4, headDim: 32 };
  const transports = [new MemoryTransport({ clock, completion: 'deferred', delayMs: () => 10 })];
  const [here, there] = [2, 4].map((tp) => new Arena(shape, { tp, blocks: 4, order: kvOrders.blockMajorHnd })) as [Arena, Arena];
  filled(here, there);
  const [to, from] = [await moverFor('here', here.arena, transports, clock), await moverFor('there', there.arena, transports, clock)];
  const statuses: TransferStatus[] = [];
  const running = to.pull(from.metadata(), Int32Array.of(1, 2), Int32Array.of(0, 3), 5000, (status) => statuses.push(status));
  expect(statuses).toEqual([]);
  running.cancel();
  const now = here.bytes.slice();
  const atEnd = statuses.length;
  clock.advance(20);
  expect(statuses).toEqual([TransferStatus.Canceled]);
  if (atEnd === 1) expect(here.bytes).toEqual(now); // terminal: nothing has changed since
});

test('a peer that goes away under way fails the pull once, for all ranks', async () => {
  const clock = new ManualClock();
  const shape: Shape = { blockSize: 4, layers: 1, planes: 2, kvHeads: 4, headDim: 32 };
  const transports = [new MemoryTransport({ clock, completion: 'deferred', delayMs: () => 10 })];
  const [here, there] = [2, 4].map((tp) => new Arena(shape, { tp, blocks: 4, order: kvOrders.blockMajorHnd })) as [Arena, Arena];
  filled(here, there);
  const [to, from] = [await moverFor('here', here.arena, transports, clock), await moverFor('there', there.arena, transports, clock)];
  const statuses: TransferStatus[] = [];
  to.pull(from.metadata(), Int32Array.of(1), Int32Array.of(0), 5000, (status) => statuses.push(status));
  const closed = from.close();
  clock.advance(20);
  await closed;
  clock.advance(20);
  expect(statuses).toHaveLength(1);
  expect(statuses[0]).not.toBe(TransferStatus.Done);
});
