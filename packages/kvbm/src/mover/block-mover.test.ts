import assert from 'node:assert/strict';
import fs, { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import type { KvMemory, KvOperation } from '@armature/contracts';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { realClock } from '@armature/contracts/testing/real-clock';
import { contentOf, equal, SuiteRandom, within } from '@armature/contracts/testing/kv-tier-session';
import { createAgent, FileTransport, MemoryTransport, openFile } from '@armature/nixel';
import type { Agent, OpenFile } from '@armature/nixel';
import { BlockMover } from './block-mover.ts';
import type { BlockMoverOptions } from './block-mover.ts';

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {}, child: () => silent, isEnabled: () => false };
const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

let agents = 0;
async function setUp(options: Partial<BlockMoverOptions> & { readonly maxRunningPerPeer?: number; readonly io?: Partial<typeof fs> } = {}): Promise<{ agent: Agent; mover: BlockMover }> {
  const { clock = realClock, maxRunningPerPeer, io, ...rest } = options;
  const transports = [new MemoryTransport({ clock }), new FileTransport({ clock, log: silent, ...(io === undefined ? {} : { io: { ...fs, ...io } }) })];
  const agent = await createAgent({ name: `mover-${++agents}`, clock, transports, ...(maxRunningPerPeer === undefined ? {} : { maxRunningPerPeer }) });
  const mover = new BlockMover({ agent, clock, ...rest });
  cleanups.push(async () => {
    mover.close();
    await agent.close();
  });
  return { agent, mover };
}

async function file(lengthBytes: number): Promise<OpenFile> {
  const folder = mkdtempSync(join(tmpdir(), 'armature-mover-'));
  const opened = await openFile({ path: join(folder, 'blocks'), lengthBytes, mode: 'create' });
  cleanups.push(async () => {
    await opened.close();
    rmSync(folder, { recursive: true });
  });
  return opened;
}

/** Blocks one after the other. */
function packed(blocks: number, blockBytes: number, pieces = 1): { blocks: number; blockStrideBytes: number; pieces: number; pieceBytes: number; pieceStrideBytes: number } {
  return { blocks, blockStrideBytes: blockBytes, pieces, pieceBytes: blockBytes / pieces, pieceStrideBytes: blockBytes / pieces };
}

function plain(mover: BlockMover, blocks: number, blockBytes: number): KvMemory {
  return mover.registerMemory({ bytes: new Uint8Array(new SharedArrayBuffer(blocks * blockBytes)) }, packed(blocks, blockBytes));
}

interface Ended {
  readonly operation: KvOperation;
  readonly status: Promise<TransferStatus>;
  readonly dones: () => number;
}

function copy(mover: BlockMover, from: KvMemory, fromBlocks: readonly number[], to: KvMemory, toBlocks: readonly number[], deadlineMs = 30_000): Ended {
  let dones = 0;
  let resolve: (status: TransferStatus) => void = () => {};
  const status = new Promise<TransferStatus>((settle) => (resolve = settle));
  const operation = mover.copy(from, Int32Array.from(fromBlocks), to, Int32Array.from(toBlocks), deadlineMs, (value) => {
    dones++;
    resolve(value);
  });
  return { operation, status: within(status, 'a copy'), dones: () => dones };
}

function bytesOf({ bytes, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes }: KvMemory, block: number): Uint8Array {
  const content = new Uint8Array(pieces * pieceBytes);
  for (let p = 0; p < pieces; p++) {
    const at = block * blockStrideBytes + p * pieceStrideBytes;
    content.set(bytes!.subarray(at, at + pieceBytes), p * pieceBytes);
  }
  return content;
}

describe('memory to memory', () => {
  test('any layout: the picked blocks arrive, nothing else changes', async () => {
    const { mover } = await setUp({ turnBytes: 700 });
    for (let seed = 1; seed <= 40; seed++) {
      const random = new SuiteRandom(seed);
      const [pieces, pieceBytes, blocks] = [1 + random.below(4), 1 + random.below(900), 1 + random.below(12)];
      const memory = (): KvMemory => {
        const pieceStrideBytes = pieceBytes + (random.below(2) === 0 ? 0 : random.below(50));
        // Half of them as an engine's arena: piece after piece, of all blocks.
        const isLayered = random.below(2) === 0;
        const layout = isLayered
          ? { blocks, blockStrideBytes: pieceBytes, pieces, pieceBytes, pieceStrideBytes: blocks * pieceBytes }
          : { blocks, blockStrideBytes: pieces * pieceStrideBytes + random.below(50), pieces, pieceBytes, pieceStrideBytes };
        const bytes = contentOf(seed + random.below(1000), blocks * (layout.blockStrideBytes + pieces * layout.pieceStrideBytes) + 8);
        return mover.registerMemory({ bytes }, layout);
      };
      const [from, to] = [memory(), memory()];
      const rows = Array.from({ length: blocks }, (_, i) => i).filter(() => random.below(4) > 0);
      const fromBlocks = rows.map(() => random.below(blocks));
      const expected = to.bytes!.slice();
      rows.forEach((block, row) => {
        const content = bytesOf(from, fromBlocks[row]);
        for (let p = 0; p < pieces; p++) expected.set(content.subarray(p * pieceBytes, (p + 1) * pieceBytes), block * to.blockStrideBytes + p * to.pieceStrideBytes);
      });
      const { status, dones } = copy(mover, from, fromBlocks, to, rows);
      assert.equal(await status, TransferStatus.Done, `seed ${seed}`);
      assert.ok(equal(to.bytes!, expected), `seed ${seed}: other bytes than a naive copy`);
      assert.equal(dones(), 1);
    }
    console.log(`block-mover, seeds 1 to 40: ${JSON.stringify(mover.counters())}`);
    expect(mover.counters().turns).toBeGreaterThan(100);
  });

  test('one turn of the event loop moves at most turnBytes, all copies together', async () => {
    const clock = new ManualClock();
    const { mover } = await setUp({ clock, turnBytes: 4096 });
    const [from, to] = [plain(mover, 10, 4096), plain(mover, 10, 4096)];
    from.bytes!.fill(7);
    const copies = [copy(mover, from, [0], to, [0]), copy(mover, from, [1, 2], to, [1, 2]), copy(mover, from, [3], to, [3])];
    const moved = (): number => to.bytes!.reduce((sum, byte) => sum + (byte === 7 ? 1 : 0), 0);
    // The first fits in this turn, the others wait for theirs.
    expect([moved(), copies.map(({ dones }) => dones())]).toEqual([4096, [1, 0, 0]]);
    await clock.elapse(0);
    expect([moved(), copies.map(({ dones }) => dones()), mover.counters().turns]).toEqual([4 * 4096, [1, 1, 1], 4]);
    // A new turn begins with a new budget.
    expect(copy(mover, from, [4], to, [4]).dones()).toBe(1);
  });

  test('the index columns are the caller\'s again at return', async () => {
    const clock = new ManualClock();
    const { mover } = await setUp({ clock, turnBytes: 4096 });
    const [from, to] = [plain(mover, 4, 4096), plain(mover, 4, 4096)];
    for (let block = 0; block < 4; block++) from.bytes!.fill(block + 1, block * 4096, (block + 1) * 4096);
    const [fromBlocks, toBlocks] = [Int32Array.of(0, 1, 2), Int32Array.of(2, 1, 0)];
    let status: TransferStatus | undefined;
    mover.copy(from, fromBlocks, to, toBlocks, 1000, (value) => (status = value));
    expect(status).toBe(undefined);
    fromBlocks.fill(3);
    toBlocks.fill(3);
    await clock.elapse(0);
    expect([status, ...[0, 1, 2, 3].map((block) => to.bytes![block * 4096])]).toEqual([TransferStatus.Done, 3, 2, 1, 0]);
  });

  test('cancel and deadline: no byte moves after done', async () => {
    const clock = new ManualClock();
    const { mover } = await setUp({ clock, turnBytes: 4096 });
    const [from, to] = [plain(mover, 8, 4096), plain(mover, 8, 4096)];
    from.bytes!.fill(7);
    const [canceled, late, good] = [copy(mover, from, [0, 1, 2], to, [0, 1, 2]), copy(mover, from, [3, 4], to, [3, 4], 0), copy(mover, from, [5], to, [5])];
    canceled.operation.cancel();
    canceled.operation.cancel();
    await clock.elapse(1);
    expect([await canceled.status, await late.status, await good.status]).toEqual([TransferStatus.Canceled, TransferStatus.TimedOut, TransferStatus.Done]);
    await clock.elapse(10);
    expect(Array.from({ length: 8 }, (_, block) => to.bytes![block * 4096])).toEqual([7, 0, 0, 0, 0, 7, 0, 0]);
    expect([canceled.dones(), late.dones(), good.dones()]).toEqual([1, 1, 1]);
    good.operation.cancel();
  });

  test('what cannot be copied is a status', async () => {
    const { agent, mover } = await setUp({ maxWaiting: 2, turnBytes: 4096 });
    const [a, b] = [plain(mover, 4, 4096), plain(mover, 4, 4096)];
    const statusOf = (from: KvMemory, fromBlocks: readonly number[], to: KvMemory, toBlocks: readonly number[]): Promise<TransferStatus> => copy(mover, from, fromBlocks, to, toBlocks).status;
    expect(await statusOf(a, [], b, [])).toBe(TransferStatus.Done);
    expect(await statusOf(a, [-1], b, [0])).toBe(TransferStatus.InvalidDescriptor);
    expect(await statusOf(a, [0], b, [4])).toBe(TransferStatus.InvalidDescriptor);
    expect(await statusOf(a, [0, 1], b, [0])).toBe(TransferStatus.InvalidDescriptor);
    expect(await statusOf(a, [0], mover.view(b, packed(4, 4096, 2)), [0])).toBe(TransferStatus.InvalidDescriptor);
    expect(await statusOf(a, [0], { ...b, segment: 99 }, [0])).toBe(TransferStatus.NotFound);
    expect(await statusOf(a, [0], { ...b, blocks: 5 }, [0])).toBe(TransferStatus.NotFound);
    const many = Array.from({ length: 4 }, () => copy(mover, a, [0, 1], b, [0, 1]));
    expect((await Promise.all(many.map(({ status }) => status))).sort()).toEqual([TransferStatus.Overloaded, TransferStatus.Overloaded, 0, 0].sort());
    expect(mover.counters().refused).toBe(2);
    mover.deregister(a);
    expect(await statusOf(a, [0], b, [0])).toBe(TransferStatus.NotFound);
    expect(() => mover.registerMemory({ bytes: new Uint8Array(10) }, packed(2, 8))).toThrow(expect.objectContaining({ code: 'KVBM_LAYOUT_INVALID' }) as Error);
    expect(() => mover.view(b, { ...packed(4, 4096, 2), pieceStrideBytes: 8 })).toThrow(expect.objectContaining({ code: 'KVBM_LAYOUT_INVALID' }) as Error);
    expect(agent.counters.posted).toBe(0);
  });

  test('memory in use is not deregistered; close ends everything', async () => {
    const { mover } = await setUp({ turnBytes: 4096 });
    const [a, b] = [plain(mover, 4, 4096), plain(mover, 4, 4096)];
    const running = copy(mover, a, [0, 1, 2], b, [0, 1, 2]);
    expect(() => mover.deregister(a)).toThrow(expect.objectContaining({ code: 'TRANSFER_SEGMENT_BUSY' }) as Error);
    mover.close();
    expect(await running.status).toBe(TransferStatus.Canceled);
    expect(await copy(mover, a, [0], b, [0]).status).toBe(TransferStatus.Canceled);
  });
});

describe('memory to file', () => {
  test('out and back, in pieces, over the agent; lists are made once', async () => {
    const { agent, mover } = await setUp();
    const opened = await file(16 * 8192);
    const disk = mover.registerFile(opened.location, opened.lengthBytes, packed(16, 8192));
    // Whole pages at page boundaries, as the host tier has them.
    const from = plain(mover, 8, 8192);
    for (let block = 0; block < 8; block++) from.bytes!.set(contentOf(block + 1, 8192), block * 8192);
    const blocks = [0, 1, 2, 3, 4, 5, 6, 7];
    const places = [3, 15, 0, 8, 9, 10, 1, 2];
    expect(await copy(mover, from, blocks, disk, places).status).toBe(TransferStatus.Done);
    const to = mover.registerMemory({ bytes: new Uint8Array(8 * 9000) }, { blocks: 8, blockStrideBytes: 9000, pieces: 4, pieceBytes: 2048, pieceStrideBytes: 2100 });
    expect(await copy(mover, mover.view(disk, packed(16, 8192, 4)), places, to, blocks).status).toBe(TransferStatus.Done);
    for (const block of blocks) expect(equal(bytesOf(to, block), contentOf(block + 1, 8192)), `block ${block}`).toBe(true);
    expect(agent.counters.byTransport.get('file')).toEqual({ transfers: 2, bytes: 2 * 8 * 8192 });
    expect(mover.counters()).toMatchObject({ memoryCopies: 0, transfers: 2 });
    // A segment that goes changes what was known of all.
    mover.deregister(from);
    expect(await copy(mover, disk, [9], mover.view(to, { ...to, pieces: 1, pieceBytes: 8192, pieceStrideBytes: 8192 }), [5]).status).toBe(TransferStatus.Done);
    mover.deregister(disk);
    expect(await copy(mover, disk, [9], to, [5]).status).toBe(TransferStatus.NotFound);
  });

  test('an agent that is busy is asked again', async () => {
    const { agent, mover } = await setUp({ maxRunningPerPeer: 1 });
    const opened = await file(32 * 4096);
    const disk = mover.registerFile(opened.location, opened.lengthBytes, packed(32, 4096));
    const memory = plain(mover, 32, 4096);
    for (let block = 0; block < 32; block++) memory.bytes!.set(contentOf(block + 1, 4096), block * 4096);
    const copies = Array.from({ length: 32 }, (_, block) => copy(mover, memory, [block], disk, [block]));
    for (const { status } of copies) expect(await status).toBe(TransferStatus.Done);
    expect(mover.counters().retries).toBeGreaterThan(0);
    expect(agent.counters.overloaded).toBe(mover.counters().retries);
    memory.bytes!.fill(0);
    expect(await copy(mover, disk, [31, 7], memory, [31, 7]).status).toBe(TransferStatus.Done);
    expect([equal(bytesOf(memory, 31), contentOf(32, 4096)), equal(bytesOf(memory, 7), contentOf(8, 4096))]).toEqual([true, true]);
  });

  test('behind a disk that hangs, copies wait no longer than their deadline, and can be cancelled', async () => {
    let release: (() => void)[] = [];
    const write = ((fd: number, buffer: Uint8Array, offset: number, length: number, position: number, done: (error: null, moved: number) => void) => {
      release.push(() => fs.write(fd, buffer, offset, length, position, done as never));
    }) as never;
    const { mover } = await setUp({ maxRunning: 1, maxWaiting: 3, io: { write } });
    const opened = await file(8 * 4096);
    const disk = mover.registerFile(opened.location, opened.lengthBytes, packed(8, 4096));
    const memory = plain(mover, 8, 4096);
    const hanging = copy(mover, memory, [0], disk, [0]);
    const [late, canceled, patient, refused] = [copy(mover, memory, [1], disk, [1], 20), copy(mover, memory, [2], disk, [2]), copy(mover, memory, [3], disk, [3]), copy(mover, memory, [4], disk, [4])];
    expect(await refused.status).toBe(TransferStatus.Overloaded);
    canceled.operation.cancel();
    expect(await canceled.status).toBe(TransferStatus.Canceled);
    expect(await late.status).toBe(TransferStatus.TimedOut);
    expect([hanging.dones(), patient.dones()]).toEqual([0, 0]);
    expect(() => mover.deregister(disk)).toThrow(expect.objectContaining({ code: 'TRANSFER_SEGMENT_BUSY' }) as Error);
    hanging.operation.cancel();
    const first = release;
    release = [];
    for (const go of first) go();
    // It was in the kernel's hands: whichever it says, it says it once, and only now.
    expect([TransferStatus.Canceled, TransferStatus.Done]).toContain(await hanging.status);
    await within((async () => { while (release.length === 0) await new Promise((resolve) => setImmediate(resolve)); })(), 'the next copy');
    for (const go of release) go();
    expect(await patient.status).toBe(TransferStatus.Done);
    expect([hanging, late, canceled, patient, refused].map(({ dones }) => dones())).toEqual([1, 1, 1, 1, 1]);
  });
});

