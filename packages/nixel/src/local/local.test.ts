import net from 'node:net';
import { describe, expect, it } from 'vitest';
import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { TransferPlan } from '@armature/contracts';
import { FakeTransferHost } from '@armature/contracts/testing/transfer-transport';
import { allocateDescriptors, descriptors } from '../descriptors.ts';
import { createSharedMemory } from '../shm/shared-memory.ts';
import { ShmTransport } from '../shm/shm-transport.ts';
import { header } from '../tcp/frames.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { decodeVerdict, encodeVerdict, LocalFrame } from './control-frames.ts';
import type { LocalEndpoint } from './local-endpoint.ts';
import { cutRows } from './pieces.ts';
import { Turns } from './turns.ts';

/** Mulberry32. */
function random(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % bound;
  };
}

function planOf(lengths: readonly number[]): TransferPlan {
  const local = allocateDescriptors(lengths.length);
  const remote = allocateDescriptors(lengths.length);
  let at = 0;
  lengths.forEach((length, i) => {
    local.lengths[i] = remote.lengths[i] = length;
    local.offsets[i] = at;
    remote.offsets[i] = 2 * at;
    local.segments[i] = 1;
    remote.segments[i] = 2;
    at += length;
  });
  return { op: 'read', peer: 'p', local, remote, bytes: at };
}

describe('pieces', () => {
  it('name every byte of the rows once, none shorter than the limit where the row is not', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const below = random(seed);
      const lengths = Array.from({ length: 1 + below(8) }, () => (below(4) === 0 ? 0 : below(6_000_000)));
      const plan = planOf(lengths);
      const { local, remote } = cutRows(plan, 1 << 20);
      let row = 0;
      for (let i = 0; i < lengths.length; i++) {
        let at = 0;
        while (at < lengths[i]!) {
          expect([local.offsets[row], remote.offsets[row]], `seed ${seed}`).toEqual([plan.local.offsets[i]! + at, plan.remote.offsets[i]! + at]);
          expect(local.lengths[row]! > 0 && local.lengths[row] === remote.lengths[row]).toBe(true);
          expect(local.lengths[row]! < 2 << 20).toBe(true);
          at += local.lengths[row]!;
          row++;
        }
        expect(at, `seed ${seed}`).toBe(lengths[i]);
      }
      expect(row).toBe(local.count);
    }
  });
});

describe('verdicts', () => {
  it('come back as they went, and anything else is a coded error', () => {
    const verdict = { epoch: -3, segments: [{ id: 1, lengthBytes: 5, isWhole: true, place: { address: 77 } }, { id: 2, lengthBytes: 0, isWhole: false, place: undefined }] };
    expect(decodeVerdict(encodeVerdict(verdict))).toEqual(verdict);
    const bad = ['', '{', 'null', '[]', '{"epoch":1}', '{"epoch":1.5,"segments":[]}', '{"epoch":1,"segments":[{}]}', '{"epoch":1,"segments":[null]}', '{"epoch":1,"segments":[{"id":1,"lengthBytes":-1,"isWhole":true}]}', '{"epoch":1,"segments":[{"id":1,"lengthBytes":1,"isWhole":true,"place":{"address":-1}}]}', '{"epoch":1,"segments":[{"id":1,"lengthBytes":1,"isWhole":true,"place":{"address":"1"}}]}'];
    for (const text of bad) expect(() => decodeVerdict(Buffer.from(text)), text).toThrow(expect.objectContaining({ code: 'TRANSFER_FRAME_INVALID' }) as Error);
    const text = encodeVerdict(verdict);
    for (let seed = 1; seed <= 2000; seed++) {
      const below = random(seed);
      const bytes = Buffer.from(text.subarray(0, below(text.length + 1)));
      for (let i = below(4); i > 0 && bytes.length > 0; i--) bytes[below(bytes.length)] = below(256);
      try {
        decodeVerdict(bytes);
      } catch (error) {
        expect(ArmatureError.is(error) && error.code, `seed ${seed}`).toBe('TRANSFER_FRAME_INVALID');
      }
    }
  });
});

describe('turns', () => {
  it('give the event loop back when the budget is used, and go round', () => {
    let nowMs = 0;
    const deferred: (() => void)[] = [];
    const turns = new Turns({ ...realClock, nowMs: () => nowMs, defer: (callback) => void deferred.push(callback) }, 2);
    const order: string[] = [];
    const job = (name: string, steps: number): { step(): boolean } => ({
      step: () => {
        order.push(name);
        nowMs += 0.9;
        return --steps === 0;
      },
    });
    turns.add(job('a', 4));
    turns.add(job('b', 1));
    expect(order).toEqual([]);
    for (const want of ['aba', 'abaaa']) {
      expect(deferred).toHaveLength(1);
      deferred.shift()!();
      expect(order.join('')).toBe(want);
    }
    expect(deferred).toHaveLength(0);
    expect(turns.count).toBe(2);
  });
});

const shm = (options = {}): ShmTransport => new ShmTransport({ clock: realClock, log: recordingLogger(), token: 'secret', ...options });
const reason = shm().unavailable();
if (reason !== undefined) it.skip(`shm is not available here: ${reason}`, () => undefined);
else {
  describe('a shm endpoint', () => {
    it('lets other work run while it copies much, and does little at once', async () => {
      const transport = shm();
      const [a, b] = [new FakeTransferHost('a'), new FakeTransferHost('b')];
      const [endpointA, endpointB] = [await transport.open(a), await transport.open(b)];
      const lengthBytes = 64 << 20;
      const memory = createSharedMemory({ name: 'turns', lengthBytes });
      const here = a.add(lengthBytes - 134);
      const there = b.addMemory({ kind: 'dram', bytes: new Uint8Array(memory.buffer, 0, lengthBytes), location: memory.location() }, lengthBytes - 134);
      endpointA.connect({ name: 'b', incarnation: b.incarnation, metadata: endpointB.metadata(), segments: new Map() });
      const row = (segment: number, length: number) => descriptors([{ segment, offset: 0, length }]);
      const run = async (length: number): Promise<number> => {
        let ticks = 0;
        let isRunning = true;
        const tick = (): void => {
          if (!isRunning) return;
          ticks++;
          setImmediate(tick);
        };
        const plan: TransferPlan = { op: 'read', peer: 'b', local: row(here.id, length), remote: row(there.id, length), bytes: length };
        await new Promise((resolve) => endpointA.post(plan, undefined, resolve));
        const ended = new Promise((resolve) => endpointA.post(plan, undefined, resolve));
        tick();
        expect(await ended).toBe(TransferStatus.Done);
        isRunning = false;
        return ticks;
      };
      // 8 MiB would have to be copied in half a millisecond (16 GB/s and more) for fewer turns than this.
      expect(await run(lengthBytes - 134)).toBeGreaterThan(4);
      expect(await run(4096)).toBe(1);
      await endpointA.close();
      await endpointB.close();
      a.releaseMemory();
      memory.close();
    });

    it('stops in the middle when the owner takes its word back; bounds hold on both sides, asked or known', async () => {
      const transport = shm();
      const [a, b] = [new FakeTransferHost('a'), new FakeTransferHost('b')];
      const [endpointA, endpointB] = [await transport.open(a), await transport.open(b)];
      const memory = createSharedMemory({ name: 'middle', lengthBytes: 64 << 20 });
      const lengthBytes = (64 << 20) - 134;
      const here = a.add(lengthBytes);
      const there = b.addMemory({ kind: 'dram', bytes: new Uint8Array(memory.buffer, 0, 64 << 20), location: memory.location() }, lengthBytes);
      const read = (from: number, to: number, length: number): TransferPlan => ({
        op: 'read',
        peer: 'b',
        local: descriptors([{ segment: here.id, offset: to, length }]),
        remote: descriptors([{ segment: there.id, offset: from, length }]),
        bytes: length,
      });
      const post = (plan: TransferPlan): Promise<TransferStatus> => new Promise((resolve) => endpointA.post(plan, undefined, resolve));
      endpointA.connect({ name: 'b', incarnation: b.incarnation, metadata: endpointB.metadata(), segments: new Map() });
      for (const round of ['asked', 'known']) {
        expect(await post(read(1, 0, lengthBytes)), round).toBe(TransferStatus.InvalidDescriptor);
        expect(await post(read(0, 1, lengthBytes)), round).toBe(TransferStatus.InvalidDescriptor);
        expect(await post(read(-1, 0, 1)), round).toBe(TransferStatus.InvalidDescriptor);
        expect(await post(read(0, 0, 1)), round).toBe(TransferStatus.Done);
      }
      const whole = read(0, 0, lengthBytes);
      expect(await post(whole)).toBe(TransferStatus.Done);
      here.bytes.fill(1);
      there.bytes.fill(2);
      const running = post(whole);
      await new Promise(setImmediate);
      await new Promise(setImmediate);
      b.closedSegments.add(there.id);
      endpointB.accessChanged?.('a');
      expect(await running).toBe(TransferStatus.NotAllowed);
      expect([here.bytes[0], here.bytes[lengthBytes - 1]]).toEqual([2, 1]);
      await endpointA.close();
      await endpointB.close();
      a.assertGuards();
      a.releaseMemory();
      memory.close();
    });

    it('survives rubbish on its control socket, and says what it refused', async () => {
      const transport = shm({ connectTimeoutMs: 200 });
      const host = new FakeTransferHost('b');
      const endpoint = (await transport.open(host)) as LocalEndpoint;
      const path = `\0${String(endpoint.metadata()['socket'])}`;
      for (let seed = 1; seed <= 60; seed++) {
        const below = random(seed);
        const bytes = Buffer.from(Array.from({ length: below(300) }, () => below(256)));
        const type = [LocalFrame.Ask, LocalFrame.Verdict, 2, 5, 10][below(5)]!;
        const socket = net.connect({ path });
        socket.on('error', () => undefined);
        socket.write(below(2) === 0 ? bytes : Buffer.concat([header(type, below(10), below(3), bytes.length), bytes]));
        await new Promise((resolve) => {
          socket.once('close', resolve);
          socket.resume();
          setTimeout(() => socket.destroy(), 20);
        });
      }
      expect(endpoint.refused.get('TRANSFER_FRAME_INVALID')).toBeGreaterThan(10);
      const other = new FakeTransferHost('a');
      const stranger = (await shm({ token: 'guessed' }).open(other)) as LocalEndpoint;
      stranger.connect({ name: 'b', incarnation: host.incarnation, metadata: endpoint.metadata(), segments: new Map() });
      const plan: TransferPlan = { op: 'read', peer: 'b', local: descriptors([]), remote: descriptors([]), bytes: 0 };
      expect(await new Promise((resolve) => stranger.post(plan, undefined, resolve))).toBe(TransferStatus.RemoteDisconnected);
      expect(endpoint.refused.get('TRANSFER_AUTH_FAILED')).toBe(1);
      await stranger.close();
      await endpoint.close();
    });
  });
}
