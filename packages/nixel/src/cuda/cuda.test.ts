import { afterEach, describe, expect, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import { createAgent } from '../agent.ts';
import type { Agent } from '../agent.ts';
import { descriptors } from '../descriptors.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import type { RecordingLogger } from '../test-clock.test.support.ts';
import { CudaTransport } from './cuda-transport.ts';
import type { CudaTransportConfig } from './cuda-transport.ts';
import type { CudaEndpoint } from './cuda-endpoint.ts';
import { allocateDeviceMemory, openDeviceMemory, pinMemory, wrapDeviceMemory } from './device-memory.ts';
import type { DeviceMemory } from './device-memory.ts';
import { FakeDriver, FakeGpus } from './fake-driver.test.support.ts';
import { loadCudaDriver } from './koffi-driver.ts';
import { CudaRuntime } from './runtime.ts';

const NOTHING = { contexts: 0, streams: 0, events: 0, pins: 0, imports: 0, allocations: 0 };

/** One process: an agent with a driver of its own. */
class Party {
  readonly driver: FakeDriver;
  readonly runtime: CudaRuntime;
  readonly log: RecordingLogger = recordingLogger();
  agent!: Agent;
  endpoint!: CudaEndpoint;

  constructor(gpus: FakeGpus, hasBatch = true) {
    this.driver = new FakeDriver(gpus, { batch: hasBatch });
    this.runtime = new CudaRuntime(this.driver);
  }

  async open(name: string, config: CudaTransportConfig = {}): Promise<this> {
    const transport = new CudaTransport({ clock: realClock, log: this.log, runtime: this.runtime, ...config });
    const open = transport.open.bind(transport);
    transport.open = async (host) => (this.endpoint = (await open(host)) as CudaEndpoint);
    this.agent = await createAgent({ name, transports: [transport], clock: realClock, log: this.log });
    return this;
  }

  device(lengthBytes: number, fill?: number): { id: number; memory: DeviceMemory } {
    const memory = allocateDeviceMemory({ ordinal: 0, lengthBytes }, this.runtime);
    if (fill !== undefined) memory.write(0, new Uint8Array(lengthBytes).fill(fill));
    return { id: this.agent.register({ location: memory.location(), lengthBytes }).id, memory };
  }

  host(lengthBytes: number): { id: number; bytes: Uint8Array } {
    const buffer = new ArrayBuffer(lengthBytes);
    return { id: this.agent.register({ buffer }).id, bytes: new Uint8Array(buffer) };
  }
}

const parties: { party: Party; memories: DeviceMemory[] }[] = [];

async function party(name = 'a', { gpus = new FakeGpus(), hasBatch = true, ...config }: CudaTransportConfig & { gpus?: FakeGpus; hasBatch?: boolean } = {}): Promise<Party> {
  const made = await new Party(gpus, hasBatch).open(name, config);
  parties.push({ party: made, memories: [] });
  return made;
}

afterEach(async () => {
  for (const { party } of parties.splice(0)) await party.agent.close().catch(() => undefined);
});

/** `count` pieces of `length`, here in order, there reversed. */
function pieces(here: number, there: number, count: number, length: number): { local: ReturnType<typeof descriptors>; remote: ReturnType<typeof descriptors> } {
  return {
    local: descriptors(Array.from({ length: count }, (_, i) => ({ segment: here, offset: i * length, length }))),
    remote: descriptors(Array.from({ length: count }, (_, i) => ({ segment: there, offset: (count - 1 - i) * length, length }))),
  };
}

function content(memory: DeviceMemory): Uint8Array {
  const bytes = new Uint8Array(memory.lengthBytes);
  memory.read(0, bytes);
  return bytes;
}

const turns = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
};

describe('an agent and its own GPU', () => {
  test('moves between pinned host memory and the GPU, and within the GPU', async () => {
    const a = await party();
    const [gpu, other] = [a.device(64 * 100), a.device(64 * 100)];
    const host = a.host(64 * 100);
    for (let i = 0; i < host.bytes.length; i++) host.bytes[i] = i * 7;
    const up = a.agent.prepare({ op: 'write', peer: 'a', ...pieces(host.id, gpu.id, 64, 100) });
    const across = a.agent.prepare({ op: 'read', peer: 'a', ...pieces(other.id, gpu.id, 64, 100) });
    const down = a.agent.prepare({ op: 'read', peer: 'a', ...pieces(host.id, other.id, 64, 100) });
    const before = host.bytes.slice();
    expect(await a.agent.run(up, { notification: Uint8Array.of(1) })).toBe(TransferStatus.Done);
    expect(a.agent.takeNotifications().map(({ payload }) => [...payload])).toEqual([[1]]);
    expect(await a.agent.run(across)).toBe(TransferStatus.Done);
    host.bytes.fill(0);
    expect(await a.agent.run(down)).toBe(TransferStatus.Done);
    // Reversed three times: reversed once.
    const want = Buffer.concat(Array.from({ length: 64 }, (_, i) => before.subarray((63 - i) * 100, (64 - i) * 100)));
    expect(Buffer.compare(host.bytes, want)).toBe(0);
    const { counters } = a.endpoint;
    expect(counters.stagedBytes).toBe(0);
    expect(counters.batches).toBe(3);
    expect(a.driver.counts.streams).toBe(3); // one per direction
    a.agent.deregister(host.id);
    expect(a.driver.counts.pins).toBe(0);
    await a.agent.close();
    for (const { memory } of [gpu, other]) memory.close();
    expect(a.runtime.held()).toEqual(NOTHING);
    expect(a.driver.unpinnedWhileBusy).toBe(0);
  });

  test.each([true, false])('thousands of pieces go in bounded chunks (batch calls: %s)', async (hasBatch) => {
    const a = await party('a', { hasBatch });
    const count = 10_000;
    const [gpu, host] = [a.device(count * 16, 3), a.host(count * 16)];
    expect(await a.agent.run(a.agent.prepare({ op: 'read', peer: 'a', ...pieces(host.id, gpu.id, count, 16) }))).toBe(TransferStatus.Done);
    expect(host.bytes.every((byte) => byte === 3)).toBe(true);
    const { counters } = a.endpoint;
    expect(counters.copies).toBe(count);
    if (hasBatch) expect([counters.singles, counters.batches <= Math.ceil(count / 64)]).toEqual([0, true]);
    else {
      expect(counters.singles).toBe(count);
      expect(a.driver.counts.maxQueued).toBeLessThan(1000); // the driver blocks above about 1,024
      expect(counters.turns).toBeGreaterThan(10);
    }
  });

  test('falls back to single copies when the driver refuses batches', async () => {
    const a = await party();
    const [gpu, host] = [a.device(1000, 4), a.host(1000)];
    a.driver.fail('cuMemcpyBatchAsync', 801, 801);
    expect(await a.agent.run(a.agent.prepare({ op: 'read', peer: 'a', ...pieces(host.id, gpu.id, 10, 100) }))).toBe(TransferStatus.Done);
    expect(host.bytes.every((byte) => byte === 4)).toBe(true);
    expect([a.endpoint.counters.batches, a.endpoint.counters.singles]).toEqual([0, 10]);
  });

  test('memory that cannot be pinned is staged in pieces, and said', async () => {
    const a = await party();
    const gpu = a.device(1 << 20, 5);
    a.driver.fail('cuMemHostRegister', 2);
    const host = a.host(1 << 20);
    expect(a.log.lines.some(({ message }) => message.includes('not pinned'))).toBe(true);
    expect(await a.agent.run(a.agent.prepare({ op: 'read', peer: 'a', ...pieces(host.id, gpu.id, 1, 1 << 20) }))).toBe(TransferStatus.Done);
    expect(host.bytes.every((byte) => byte === 5)).toBe(true);
    expect([a.endpoint.counters.pinRefusals, a.endpoint.counters.stagedBytes]).toEqual([1, 1 << 20]);
    expect(a.driver.counts.maxBlockingBytes).toBe(256 << 10);
  });
});

describe('the end of a transfer', () => {
  test('is not before its event, whatever was asked for', async () => {
    const a = await party();
    const [gpu, host] = [a.device(1000, 6), a.host(1000)];
    a.driver.isManual = true;
    const read = a.agent.prepare({ op: 'read', peer: 'a', ...pieces(host.id, gpu.id, 10, 100) });
    a.agent.post(read);
    a.agent.cancel(read);
    await turns(20);
    expect(a.agent.check(read)).toBe(TransferStatus.InProgress);
    expect(() => a.agent.deregister(host.id)).toThrow(/is used by a running transfer/);
    const [stream] = a.driver.streams();
    a.driver.runSome(stream!, 9);
    await turns(20);
    expect(a.agent.check(read)).toBe(TransferStatus.InProgress);
    a.driver.runAll();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(a.agent.check(read)).toBe(TransferStatus.Done); // too late to cancel: all of it was on the stream
    expect(a.endpoint.counters.waits).toBeGreaterThan(0);
  });

  test('Canceled comes when what had begun is over, and nothing more begins', async () => {
    const a = await party('a', { hasBatch: false });
    const count = 5000;
    const [gpu, host] = [a.device(count * 16, 6), a.host(count * 16)];
    a.driver.isManual = true;
    const read = a.agent.prepare({ op: 'read', peer: 'a', ...pieces(host.id, gpu.id, count, 16) });
    a.agent.post(read);
    await turns(10);
    a.agent.cancel(read);
    await turns(10);
    expect(a.agent.check(read)).toBe(TransferStatus.InProgress);
    a.driver.runAll();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(a.agent.check(read)).toBe(TransferStatus.Canceled);
    const { copies } = a.endpoint.counters;
    expect(copies).toBeGreaterThan(0);
    expect(copies).toBeLessThan(1000);
    expect(host.bytes.filter((byte) => byte === 6).length).toBe(copies * 16);
    host.bytes.fill(1);
    a.driver.runAll();
    await turns(20);
    expect([a.endpoint.counters.copies, host.bytes.every((byte) => byte === 1)]).toEqual([copies, true]);
    a.driver.isManual = false;
    expect(await a.agent.run(read)).toBe(TransferStatus.Done);
  });

  test('comes in the order of the streams, not of the posts', async () => {
    const a = await party();
    const [gpu, host] = [a.device(1000, 6), a.host(2000)];
    a.driver.isManual = true;
    const order: string[] = [];
    const down = a.agent.prepare({ op: 'read', peer: 'a', ...pieces(host.id, gpu.id, 10, 50) });
    const up = a.agent.prepare({ op: 'write', peer: 'a', local: descriptors([{ segment: host.id, offset: 1000, length: 100 }]), remote: descriptors([{ segment: gpu.id, offset: 900, length: 100 }]) });
    a.agent.post(down, {}, (status) => order.push(`down ${status}`));
    a.agent.post(up, {}, (status) => order.push(`up ${status}`));
    a.driver.runSome(a.driver.streams()[1]!, 100);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(order).toEqual(['up 0']);
    a.driver.runAll();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(order).toEqual(['up 0', 'down 0']);
  });

  test.each([
    ['cuMemcpyBatchAsync', true],
    ['cuMemcpyAsync', false],
  ])('a failure in the middle (%s) waits for what had begun; later ones work', async (call, hasBatch) => {
    const a = await party('a', { hasBatch });
    const [gpu, host] = [a.device(4000, 6), a.host(4000)];
    a.driver.isManual = true;
    a.driver.fail(call, ...(hasBatch ? [1] : [0, 0, 0, 0, 0, 1]));
    const read = a.agent.prepare({ op: 'read', peer: 'a', ...pieces(host.id, gpu.id, 20, 200) });
    a.agent.post(read);
    await turns(20);
    expect(a.agent.check(read)).toBe(TransferStatus.InProgress);
    expect(host.bytes.every((byte) => byte === 0)).toBe(true);
    a.driver.runAll();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(a.agent.check(read)).toBe(TransferStatus.TransportError);
    expect(a.endpoint.counters.errors.get('InvalidValue')).toBe(1);
    a.driver.isManual = false;
    expect(await a.agent.run(read)).toBe(TransferStatus.Done);
    expect(host.bytes.every((byte) => byte === 6)).toBe(true);
  });

  test('an event that cannot be recorded is replaced by a look at the stream', async () => {
    const a = await party();
    const [gpu, host] = [a.device(100, 6), a.host(100)];
    a.driver.isManual = true;
    a.driver.fail('cuEventRecord', 1);
    const read = a.agent.prepare({ op: 'read', peer: 'a', ...pieces(host.id, gpu.id, 1, 100) });
    a.agent.post(read);
    await turns(20);
    expect(a.agent.check(read)).toBe(TransferStatus.InProgress);
    a.driver.runAll();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(a.agent.check(read)).toBe(TransferStatus.Done);
  });

  test('a lost context ends everything on it, and later posts at once', async () => {
    const a = await party();
    const [gpu, host] = [a.device(1000), a.host(1000)];
    a.driver.isManual = true;
    const read = a.agent.prepare({ op: 'read', peer: 'a', ...pieces(host.id, gpu.id, 10, 100) });
    const running = a.agent.run(read);
    await turns(3);
    a.driver.lostResult = 700;
    expect(await running).toBe(TransferStatus.TransportError);
    expect(await a.agent.run(read)).toBe(TransferStatus.TransportError);
    expect(a.log.lines.some(({ level, message }) => level === 'error' && message.includes('context is lost'))).toBe(true);
    await a.agent.close();
    const { streams, events, pins } = a.runtime.held();
    expect({ streams, events }).toEqual({ streams: 0, events: 0 });
    expect(pins).toBeLessThanOrEqual(1);
  });

  test('copies that hang keep their memory and get no status: closing ends after its limit', async () => {
    const a = await party('a', { closeTimeoutMs: 30 });
    const [gpu, host] = [a.device(1000), a.host(1000)];
    a.driver.isManual = true;
    const read = a.agent.prepare({ op: 'read', peer: 'a', ...pieces(host.id, gpu.id, 10, 100) });
    a.agent.post(read);
    await a.agent.close();
    expect(a.agent.check(read)).toBe(TransferStatus.InProgress);
    expect(a.driver.counts.pins).toBe(1);
    expect(a.log.lines.some(({ message }) => message.includes('did not end'))).toBe(true);
  });
});

describe('GPU memory of another process', () => {
  test('is opened by handle once, used by several plans, closed when released', async () => {
    const gpus = new FakeGpus();
    const [a, b] = [await party('a', { gpus }), await party('b', { gpus })];
    const filler = allocateDeviceMemory({ ordinal: 0, lengthBytes: 5000 }, b.runtime);
    // A segment in the middle of an allocation: the handle names the whole one.
    const memory = wrapDeviceMemory({ ordinal: 0, address: filler.address + 1000n, lengthBytes: 4000 }, b.runtime);
    memory.write(0, Uint8Array.from({ length: 4000 }, (_, i) => i % 251));
    const there = b.agent.register({ location: memory.location(), lengthBytes: 4000, access: 'peers' });
    expect(JSON.stringify([...b.agent.metadata()])).not.toContain('gpu handle');
    a.agent.addPeer(b.agent.metadata());
    b.agent.addPeer(a.agent.metadata());
    const [gpu, host] = [a.device(4000), a.host(4000)];
    const toHost = a.agent.prepare({ op: 'read', peer: 'b', ...pieces(host.id, there.id, 40, 100) });
    const toGpu = a.agent.prepare({ op: 'read', peer: 'b', ...pieces(gpu.id, there.id, 40, 100) });
    expect([await a.agent.run(toHost), await a.agent.run(toGpu)]).toEqual([TransferStatus.Done, TransferStatus.Done]);
    expect(Buffer.compare(content(gpu.memory), host.bytes)).toBe(0);
    expect([...host.bytes.subarray(0, 3)]).toEqual([3900 % 251, 3901 % 251, 3902 % 251]);
    expect([a.driver.counts.imports, a.endpoint.counters.stagedBytes]).toEqual([1, 0]);
    const back = a.agent.prepare({ op: 'write', peer: 'b', ...pieces(gpu.id, there.id, 40, 100) });
    expect(await a.agent.run(back)).toBe(TransferStatus.Done);
    expect(content(memory)[1]).toBe(1);
    b.agent.deregister(there.id);
    expect(await a.agent.run(toHost)).toBe(TransferStatus.NotFound);
    await turns(20);
    expect(a.driver.counts.imports).toBe(0);
    await a.agent.close();
    await b.agent.close();
    for (const each of [gpu.memory, memory, filler]) each.close();
    expect([a.runtime.held(), b.runtime.held()]).toEqual([NOTHING, NOTHING]);
    expect(a.driver.unpinnedWhileBusy).toBe(0);
  });

  test('stays open while a copy runs, though its owner has gone', async () => {
    const gpus = new FakeGpus();
    const [a, b] = [await party('a', { gpus }), await party('b', { gpus })];
    const there = b.device(1000, 9);
    a.agent.addPeer(b.agent.metadata());
    const host = a.host(1000);
    const read = a.agent.prepare({ op: 'read', peer: 'b', ...pieces(host.id, there.id, 10, 100) });
    expect(await a.agent.run(read)).toBe(TransferStatus.Done);
    a.driver.isManual = true;
    const running = a.agent.run(read);
    await b.agent.close();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(a.agent.check(read)).toBe(TransferStatus.InProgress);
    expect(a.driver.counts.imports).toBe(1);
    a.driver.runAll();
    expect(await running).toBe(TransferStatus.RemoteDisconnected);
    expect([a.driver.counts.imports, a.driver.unpinnedWhileBusy]).toEqual([0, 0]);
  });

  test('that has no handle is not supported; a handle that does not open is an error', async () => {
    const gpus = new FakeGpus();
    const [a, b] = [await party('a', { gpus }), await party('b', { gpus })];
    b.driver.canShare = false;
    const closed = b.device(1000);
    b.driver.canShare = true;
    const open = b.device(1000, 2);
    a.agent.addPeer(b.agent.metadata());
    const host = a.host(1000);
    const read = (segment: number) => a.agent.run(a.agent.prepare({ op: 'read', peer: 'b', ...pieces(host.id, segment, 1, 1000) }));
    expect(await read(closed.id)).toBe(TransferStatus.NotSupported);
    a.driver.fail('cuIpcOpenMemHandle', 1);
    expect(await read(open.id)).toBe(TransferStatus.TransportError);
    expect(await read(open.id)).toBe(TransferStatus.Done);
  });

  test('is not opened for peers without a grant', async () => {
    const gpus = new FakeGpus();
    const [a, b] = [await party('a', { gpus }), await party('b', { gpus })];
    const memory = allocateDeviceMemory({ ordinal: 0, lengthBytes: 1000 }, b.runtime);
    const there = b.agent.register({ location: memory.location(), lengthBytes: 1000, access: 'granted' });
    a.agent.addPeer(b.agent.metadata());
    const host = a.host(1000);
    const read = a.agent.prepare({ op: 'read', peer: 'b', ...pieces(host.id, there.id, 1, 1000) });
    expect(await a.agent.run(read)).toBe(TransferStatus.NotAllowed);
    expect(a.driver.counts.imports).toBe(0);
    const revoke = b.agent.grant({ peer: 'a', segment: there.id, offset: 0, length: 1000, op: 'read' });
    expect(await a.agent.run(read)).toBe(TransferStatus.Done);
    // Taken back while a copy runs: what was copied since is not what was allowed.
    a.driver.isManual = true;
    const running = a.agent.run(read);
    await turns(10);
    expect(a.agent.check(read)).toBe(TransferStatus.InProgress);
    revoke();
    a.driver.runAll();
    expect(await running).toBe(TransferStatus.NotAllowed);
    expect(await a.agent.run(read)).toBe(TransferStatus.NotAllowed);
  });
});

describe('device memory', () => {
  test('handles open elsewhere, not here; counts come back to zero', () => {
    const gpus = new FakeGpus();
    const [one, two] = [new CudaRuntime(new FakeDriver(gpus)), new CudaRuntime(new FakeDriver(gpus))];
    const memory = allocateDeviceMemory({ ordinal: 1, lengthBytes: 500 }, one);
    memory.write(100, Uint8Array.of(1, 2, 3));
    const handle = JSON.parse(JSON.stringify(memory.exportHandle())) as ReturnType<DeviceMemory['exportHandle']>;
    expect(() => openDeviceMemory(handle, one)).toThrow(expect.objectContaining({ code: 'TRANSFER_CUDA_FAILED', hint: expect.stringContaining('by its address') as string }) as Error);
    const [first, second] = [openDeviceMemory(handle, two), openDeviceMemory(handle, two)];
    expect([first.ordinal, first.address === memory.address, first.address === second.address]).toEqual([1, false, true]);
    const bytes = new Uint8Array(3);
    second.read(100, bytes);
    expect([...bytes]).toEqual([1, 2, 3]);
    expect(second.exportHandle()).toEqual(handle); // given on
    first.close();
    first.close();
    expect(two.held().imports).toBe(1);
    second.close();
    memory.close();
    expect([one.held(), two.held()]).toEqual([NOTHING, NOTHING]);
  });

  test('what is wrong is said with a code', () => {
    const runtime = new CudaRuntime(new FakeDriver());
    const code = (run: () => unknown): string => {
      try {
        run();
        return 'none';
      } catch (error) {
        return (error as { code: string }).code;
      }
    };
    expect(code(() => allocateDeviceMemory({ ordinal: 7, lengthBytes: 1 }, runtime))).toBe('TRANSFER_CUDA_DEVICE_UNKNOWN');
    expect(code(() => wrapDeviceMemory({ ordinal: 0, address: 4096n, lengthBytes: 1 }, runtime))).toBe('TRANSFER_CUDA_ADDRESS_INVALID');
    expect(code(() => wrapDeviceMemory({ ordinal: 0, address: 1n << 60n, lengthBytes: 1 }, runtime))).toBe('TRANSFER_CUDA_ADDRESS_INVALID');
    expect(code(() => openDeviceMemory({ handle: '00', offsetBytes: 0, lengthBytes: 1, uuid: '', ordinal: 0 }, runtime))).toBe('TRANSFER_CUDA_HANDLE_INVALID');
    (runtime.driver as FakeDriver).fail('cuMemAlloc', 2);
    expect(code(() => allocateDeviceMemory({ ordinal: 0, lengthBytes: 1 }, runtime))).toBe('TRANSFER_CUDA_NO_MEMORY');
    const memory = allocateDeviceMemory({ ordinal: 0, lengthBytes: 10 }, runtime);
    expect(code(() => memory.write(5, new Uint8Array(6)))).toBe('TRANSFER_CUDA_RANGE_INVALID');
    memory.close();
    expect(runtime.held()).toEqual(NOTHING);
  });

  test('pinned pages are shared by ranges inside, refused to ranges that stick out', () => {
    const runtime = new CudaRuntime(new FakeDriver());
    const buffer = new ArrayBuffer(65_536);
    const whole = pinMemory(new Uint8Array(buffer, 4096, 40_960), 0, runtime)!;
    const inside = pinMemory(new Uint8Array(buffer, 5000, 100), 0, runtime)!;
    expect(pinMemory(new Uint8Array(buffer), 0, runtime)).toBeUndefined();
    whole.release();
    whole.release();
    expect(runtime.held()).toMatchObject({ pins: 1, contexts: 1 });
    inside.release();
    expect(runtime.held()).toEqual(NOTHING);
  });
});

test('a missing driver is said, with the package to install', () => {
  const found = loadCudaDriver('libcuda-that-is-not-there.so.1');
  expect(found).toMatch(/libcuda-that-is-not-there/);
  expect(found).toMatch(/install the NVIDIA driver .*libcuda1/);
});

test('on this machine: available, or a reason and no crash', async () => {
  const log = recordingLogger();
  const transport = new CudaTransport({ clock: realClock, log });
  const reason = transport.unavailable();
  if (reason === undefined) return;
  process.stdout.write(`cuda transport: ${reason.slice(0, 160)}\n`);
  await expect(createAgent({ name: 'a', transports: [transport], clock: realClock, log })).rejects.toMatchObject({ code: 'TRANSFER_NO_TRANSPORT' });
  await expect(transport.open({} as never)).rejects.toMatchObject({ code: 'TRANSFER_CUDA_UNAVAILABLE' });
});
