import { afterEach, describe, expect, test } from 'vitest';
import { ArmatureError, TransferStatus } from '@armature/contracts';
import { createAgent, MemoryTransport } from '../index.ts';
import type { Agent } from '../index.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { convertBlocks, convertInTurns, LayoutConversion, MIN_PIECE_BYTES, stagingLayout } from './conversion.ts';
import { headsOf, KV_DIMENSIONS, kvOrders, layoutBytes } from './kv-layout.ts';
import type { KvDimension, KvLayout } from './kv-layout.ts';
import { sourceRanks, targetRanks } from './ranks.ts';

type Below = (bound: number) => number;

function random(seed: number): Below {
  let state = seed >>> 0;
  return (bound) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * bound);
  };
}

const pick = <T>(items: readonly T[], below: Below): T => items[below(items.length)]!;
const shuffled = <T>(items: readonly T[], below: Below): T[] => items.map((item) => ({ item, at: below(1 << 30) })).sort((a, b) => a.at - b.at).map(({ item }) => item);

/** The naive model: an element of the whole model's tensor, as bytes, from its logical place alone. */
function elementAt(place: Record<KvDimension, number>, dtypeBytes: number): number[] {
  const { layer, kv, block, token, head, dim } = place;
  const value = ((((layer * 3 + kv) * 101 + block) * 37 + token) * 29 + head) * 41 + dim;
  return Array.from({ length: dtypeBytes }, (_, i) => (Math.imul(value + 1, 2654435761) >>> ((i % 4) * 8)) & 0xff);
}

/** A rank's memory by the definition of its order: one loop over all elements, index computed digit by digit. `logical[b]`: what block b holds, -1 nothing. */
function reshape(layout: KvLayout, logical: readonly number[], empty: number): Uint8Array {
  const { first, count } = headsOf(layout.kvHeads, layout.tpSize, layout.tpRank);
  const sizes: Record<KvDimension, number> = { layer: layout.layers, kv: layout.planes, block: layout.blocks, token: layout.blockSize, head: count, dim: layout.headDim };
  const bytes = new Uint8Array(layoutBytes(layout)).fill(empty);
  const place = { layer: 0, kv: 0, block: 0, token: 0, head: 0, dim: 0 };
  for (let element = 0; element < bytes.length / layout.dtypeBytes; element++) {
    let rest = element;
    for (let i = 5; i >= 0; i--) {
      const dimension = layout.order[i]!;
      place[dimension] = rest % sizes[dimension];
      rest = Math.floor(rest / sizes[dimension]);
    }
    const block = logical[place.block]!;
    if (block >= 0) bytes.set(elementAt({ ...place, block, head: place.head + first }, layout.dtypeBytes), element * layout.dtypeBytes);
  }
  return bytes;
}

function randomShape(below: Below): Omit<KvLayout, 'tpSize' | 'tpRank' | 'order' | 'blocks'> {
  return {
    model: 'm',
    dtype: 'x',
    dtypeBytes: pick([1, 2, 4, 8] as const, below),
    blockSize: pick([1, 2, 3, 16], below),
    layers: 1 + below(3),
    planes: pick([1, 2] as const, below),
    kvHeads: pick([1, 2, 4, 6, 8], below),
    headDim: pick([1, 4, 5, 8, 64], below),
  };
}

/** Degrees that divide the heads or are multiples of them (copies). */
const degrees = (kvHeads: number): number[] => [1, 2, 3, 4, 8, 12, 16].filter((tp) => (tp > kvHeads ? tp % kvHeads === 0 : kvHeads % tp === 0));

const agents: Agent[] = [];
afterEach(async () => {
  await Promise.all(agents.splice(0).map((agent) => agent.close()));
});

async function agentOf(name: string, transport: MemoryTransport): Promise<Agent> {
  const agent = await createAgent({ name, transports: [transport], clock: realClock, log: recordingLogger() });
  agents.push(agent);
  return agent;
}

/** One rank with its memory registered. */
async function rankOf(name: string, transport: MemoryTransport, layout: KvLayout, content: Uint8Array) {
  const agent = await agentOf(name, transport);
  const bytes = new Uint8Array(new ArrayBuffer(content.length));
  bytes.set(content);
  return { agent, bytes, segment: agent.register({ buffer: bytes.buffer, layout }), layout };
}

interface Group {
  readonly shape: Omit<KvLayout, 'tpSize' | 'tpRank' | 'order' | 'blocks'>;
  readonly tpSize: number;
  readonly order: readonly KvDimension[];
  readonly blocks: number;
}
const layoutOf = ({ shape, tpSize, order, blocks }: Group, tpRank: number): KvLayout => ({ ...shape, tpSize, tpRank, order, blocks });

/** Pulls blocks into every rank of `to` from the right ranks of `from`, and compares each with the naive reshape. */
async function pulls(from: Group, to: Group, below: Below, minPieceBytes: number, label: string): Promise<number> {
  const transport = new MemoryTransport({ clock: realClock });
  const count = 1 + below(Math.min(from.blocks, to.blocks));
  const source = Int32Array.from(shuffled(Array.from({ length: from.blocks }, (_, i) => i), below).slice(0, count));
  const target = Int32Array.from(shuffled(Array.from({ length: to.blocks }, (_, i) => i), below).slice(0, count));
  const held = Array.from({ length: from.blocks }, (_, i) => i);
  const owners = await Promise.all(Array.from({ length: from.tpSize }, (_, rank) => rankOf(`p${rank}`, transport, layoutOf(from, rank), reshape(layoutOf(from, rank), held, 0))));
  let posts = 0;
  for (let rank = 0; rank < to.tpSize; rank++) {
    const layout = layoutOf(to, rank);
    const logical = Array.from({ length: to.blocks }, () => -1);
    target.forEach((block, i) => (logical[block] = source[i]!));
    const taker = await rankOf(`d${rank}`, transport, layout, reshape(layout, logical.map(() => -1), 0xee));
    for (const share of sourceRanks(from.shape.kvHeads, layout, from.tpSize)) {
      const owner = owners[share.rank]!;
      taker.agent.addPeer(owner.agent.metadata());
      const conversion = new LayoutConversion(layout, owner.layout);
      expect(conversion.heads).toBe(share.heads);
      if (conversion.pieceBytes >= minPieceBytes) {
        const { here, there } = conversion.descriptors({ segment: taker.segment.id, blocks: target }, { segment: owner.segment.id, blocks: source });
        const handle = taker.agent.prepare({ op: 'read', peer: owner.agent.name, local: here, remote: there, layout: 'converted' });
        expect(await taker.agent.run(handle), label).toBe(TransferStatus.Done);
      } else conversion.convert({ bytes: taker.bytes, blocks: target }, { bytes: owner.bytes, blocks: source });
      posts++;
    }
    expect(Buffer.compare(taker.bytes, reshape(layout, logical, 0xee)), `rank ${rank}, ${label}`).toBe(0);
  }
  await Promise.all(agents.splice(0).map((agent) => agent.close()));
  return posts;
}

describe('layout conversion against a naive reshape', () => {
  for (const [what, minPieceBytes] of [['by descriptors', 0], ['in memory', Infinity]] as const) {
    test(`random shapes, degrees and orders, ${what}`, async () => {
      for (let round = 0; round < 40; round++) {
        const seed = 7_000 + round;
        const below = random(seed);
        const shape = randomShape(below);
        const tps = degrees(shape.kvHeads);
        const group = (): Group => ({ shape, tpSize: pick(tps, below), order: below(2) === 0 ? pick(Object.values(kvOrders), below) : shuffled(KV_DIMENSIONS, below), blocks: 1 + below(5) });
        const [from, to] = [group(), group()];
        const label = `seed ${seed}: ${JSON.stringify(shape)} tp ${from.tpSize} [${from.order.join()}] -> tp ${to.tpSize} [${to.order.join()}]`;
        await pulls(from, to, below, minPieceBytes, label);
      }
    });
  }

  test('TP 4 -> TP 2 -> TP 8 with 8 heads: each rank pulls only its heads, from the right ranks', async () => {
    const shape = { model: 'm', dtype: 'bf16', dtypeBytes: 2, blockSize: 16, layers: 2, planes: 2, kvHeads: 8, headDim: 64 } as const;
    const order = kvOrders.layerMajorNhd;
    const below = random(1);
    // 2 ranks pull from 2 each; 8 ranks pull from 1 each.
    expect(await pulls({ shape, tpSize: 4, order, blocks: 6 }, { shape, tpSize: 2, order, blocks: 6 }, below, MIN_PIECE_BYTES, '4 -> 2')).toBe(4);
    expect(await pulls({ shape, tpSize: 2, order, blocks: 6 }, { shape, tpSize: 8, order: kvOrders.blockMajorHnd, blocks: 9 }, below, MIN_PIECE_BYTES, '2 -> 8')).toBe(8);
    expect(sourceRanks(8, { tpSize: 2, tpRank: 1 }, 4)).toEqual([
      { rank: 2, firstHead: 4, heads: 2 },
      { rank: 3, firstHead: 6, heads: 2 },
    ]);
  });

  test('a wrong share is noticed: the comparison can fail', async () => {
    const shape = { model: 'm', dtype: 'bf16', dtypeBytes: 2, blockSize: 4, layers: 1, planes: 2, kvHeads: 4, headDim: 8 } as const;
    const [a, b] = [layoutOf({ shape, tpSize: 2, order: kvOrders.layerMajorNhd, blocks: 1 }, 0), layoutOf({ shape, tpSize: 2, order: kvOrders.layerMajorHnd, blocks: 1 }, 0)];
    const blocks = Int32Array.of(0);
    const [target, source] = [new Uint8Array(layoutBytes(b)), reshape(a, [0], 0)];
    convertBlocks({ bytes: target, blocks, layout: b }, { bytes: source, blocks, layout: a });
    expect(Buffer.compare(target, reshape(b, [0], 0))).toBe(0);
    expect(Buffer.compare(target, reshape(a, [0], 0))).not.toBe(0);
  });
});

describe('ranks', () => {
  test('sources hold each wanted head exactly once; targets are the inverse', () => {
    for (const kvHeads of [1, 2, 4, 6, 8]) {
      for (const fromTp of degrees(kvHeads)) {
        for (const toTp of degrees(kvHeads)) {
          const pushed: string[] = [];
          const pulled: string[] = [];
          for (let tpRank = 0; tpRank < toTp; tpRank++) {
            const wanted = headsOf(kvHeads, toTp, tpRank);
            const shares = sourceRanks(kvHeads, { tpSize: toTp, tpRank }, fromTp);
            const heads = shares.flatMap((share) => Array.from({ length: share.heads }, (_, i) => share.firstHead + i));
            expect(heads).toEqual(Array.from({ length: wanted.count }, (_, i) => wanted.first + i));
            for (const share of shares) {
              const has = headsOf(kvHeads, fromTp, share.rank);
              expect(share.firstHead >= has.first && share.firstHead + share.heads <= has.first + has.count).toBe(true);
              pulled.push(`${share.rank}>${tpRank}:${share.firstHead}+${share.heads}`);
            }
          }
          for (let tpRank = 0; tpRank < fromTp; tpRank++) for (const share of targetRanks(kvHeads, { tpSize: fromTp, tpRank }, toTp)) pushed.push(`${tpRank}>${share.rank}:${share.firstHead}+${share.heads}`);
          expect(pushed.sort()).toEqual(pulled.sort());
        }
      }
    }
  });

  test('GQA with more ranks than heads: takers are spread over the copies', () => {
    expect([0, 1, 2, 3, 4, 5, 6, 7].map((tpRank) => sourceRanks(2, { tpSize: 8, tpRank }, 4)[0]!.rank)).toEqual([0, 1, 0, 1, 2, 3, 2, 3]);
  });
});

describe('what agents do with layouts', () => {
  const base: KvLayout = { model: 'llama', dtype: 'bf16', dtypeBytes: 2, blockSize: 16, layers: 2, planes: 2, kvHeads: 4, headDim: 64, tpSize: 1, tpRank: 0, order: kvOrders.layerMajorNhd, blocks: 4 };

  async function two(here: KvLayout, there: KvLayout) {
    const transport = new MemoryTransport({ clock: realClock });
    const held = Array.from({ length: there.blocks }, (_, i) => i);
    const owner = await rankOf('prefill', transport, there, reshape(there, held, 0));
    const taker = await rankOf('decode', transport, here, new Uint8Array(layoutBytes(here)));
    taker.agent.addPeer(owner.agent.metadata());
    const blocks = Int32Array.of(1, 2);
    const prepareBlocks = () => taker.agent.prepareBlocks({ op: 'read', peer: 'prefill', local: { segment: taker.segment.id, blocks }, remote: { segment: owner.segment.id, blocks } });
    return { owner, taker, blocks, prepareBlocks };
  }
  const thrown = (run: () => unknown): ArmatureError => {
    try {
      run();
    } catch (error) {
      if (ArmatureError.is(error)) return error;
    }
    throw new Error('nothing was thrown');
  };

  test('facts travel with the segment; a mismatch names both sides and the fields, before a byte moves', async () => {
    const { owner, taker, prepareBlocks } = await two(base, { ...base, model: 'qwen', dtype: 'fp16' });
    expect(taker.agent.peerSegmentLayout('prefill', owner.segment.id)).toEqual({ ...base, model: 'qwen', dtype: 'fp16' });
    const error = thrown(prepareBlocks);
    expect(error.code).toBe('TRANSFER_LAYOUT_MISMATCH');
    expect(error.message).toContain('segment 1 of agent "decode" and segment 1 of agent "prefill"');
    expect(error.message).toContain('model llama here, qwen there; dtype bf16 here, fp16 there');
    expect(error.details['fields']).toEqual(['model', 'dtype']);
    const columns = { count: 1, segments: Int32Array.of(1), offsets: Float64Array.of(0), lengths: Int32Array.of(64) };
    expect(thrown(() => taker.agent.prepare({ op: 'read', peer: 'prefill', local: columns, remote: columns })).code).toBe('TRANSFER_LAYOUT_MISMATCH');
    expect([taker.agent.counters.posted, taker.bytes.every((byte) => byte === 0)]).toEqual([0, true]);
  });

  test('another order: raw lists are refused with a hint, block lists convert', async () => {
    const there = { ...base, order: kvOrders.blockMajorHnd };
    const { owner, taker, prepareBlocks } = await two({ ...base, order: kvOrders.blockMajorNhd }, there);
    const columns = { count: 1, segments: Int32Array.of(1), offsets: Float64Array.of(0), lengths: Int32Array.of(64) };
    const error = thrown(() => taker.agent.prepare({ op: 'read', peer: 'prefill', local: columns, remote: columns }));
    expect([error.code, error.details['fields']]).toEqual(['TRANSFER_LAYOUT_MISMATCH', ['order']]);
    const handle = prepareBlocks();
    // 2 blocks, 2 layers, 2 planes, 16 tokens, 4 heads: one head of one token is the longest common run.
    expect(handle).toMatchObject({ descriptors: 2 * 2 * 2 * 16 * 4, bytes: 2 * layoutBytes({ ...base, blocks: 1 }) });
    expect(taker.agent.post(handle)).toBe(TransferStatus.Done);
    expect(Buffer.compare(taker.bytes, reshape(taker.layout, [-1, 1, 2, -1], 0))).toBe(0);
    expect(owner.agent.counters.posted).toBe(0);
  });

  test('runs too short for descriptors: refused with the way out, which works', async () => {
    const here: KvLayout = { ...base, headDim: 8 };
    const there: KvLayout = { ...here, order: kvOrders.layerMajorHnd };
    const { owner, taker, blocks, prepareBlocks } = await two(here, there);
    expect(thrown(prepareBlocks).code).toBe('TRANSFER_LAYOUT_SCATTERED');
    const staging = stagingLayout(here, there, 2);
    const buffer = new ArrayBuffer(layoutBytes(staging));
    const segment = taker.agent.register({ buffer, layout: staging });
    const staged = Int32Array.of(0, 1);
    const handle = taker.agent.prepareBlocks({ op: 'read', peer: 'prefill', local: { segment: segment.id, blocks: staged }, remote: { segment: owner.segment.id, blocks } });
    expect(taker.agent.post(handle)).toBe(TransferStatus.Done);
    await convertInTurns(new LayoutConversion(here, staging), { bytes: taker.bytes, blocks }, { bytes: segment.bytes, blocks: staged }, realClock);
    expect(Buffer.compare(taker.bytes, reshape(here, [-1, 1, 2, -1], 0))).toBe(0);
  });

  test('a segment without facts, a layout that does not fit, a restart with another layout', async () => {
    const { owner, taker, prepareBlocks } = await two(base, base);
    const plain = taker.agent.register({ buffer: new ArrayBuffer(64) });
    const blocks = Int32Array.of(0);
    expect(thrown(() => taker.agent.prepareBlocks({ op: 'read', peer: 'prefill', local: { segment: plain.id, blocks }, remote: { segment: owner.segment.id, blocks } })).code).toBe('TRANSFER_LAYOUT_UNKNOWN');
    expect(thrown(() => taker.agent.register({ buffer: new ArrayBuffer(64), layout: base })).code).toBe('TRANSFER_LAYOUT_INVALID');
    expect(thrown(() => taker.agent.register({ buffer: new ArrayBuffer(1 << 20), layout: { ...base, tpSize: 3 } })).message).toContain('splits 4 KV heads over 3 ranks');
    const handle = prepareBlocks();
    const transport = new MemoryTransport({ clock: realClock });
    const restarted = await rankOf('prefill', transport, { ...base, model: 'other' }, owner.bytes);
    // Another instance cannot reach it, so give the metadata the way of the first.
    const meta = JSON.parse(new TextDecoder().decode(restarted.agent.metadata().subarray(4))) as { transports: unknown };
    meta.transports = (JSON.parse(new TextDecoder().decode(owner.agent.metadata().subarray(4))) as { transports: unknown }).transports;
    taker.agent.addPeer(new Uint8Array([...owner.agent.metadata().subarray(0, 4), ...new TextEncoder().encode(JSON.stringify(meta))]));
    expect(taker.agent.post(handle)).toBe(TransferStatus.InvalidDescriptor);
  });
});
