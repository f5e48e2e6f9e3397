import assert from 'node:assert/strict';
import { TransferStatus } from '../transfer-transport.ts';
import type { DescriptorColumns, TransferPlan, TransferSegment, TransferTransport, TransportEndpoint, TransportHost } from '../transfer-transport.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface TransferTransportContractOptions {
  readonly runner: SuiteRunner;
  /** A new transport, independent of all others, with default config. Two agents of one instance meet. */
  create(): TransferTransport | Promise<TransferTransport>;
  /** First seed of the random rules; failures print theirs. */
  readonly seed?: number;
  readonly skip?: readonly SkippedRule[];
}

/** Runs the rules of `transfer-transport` v1. */
export function transferTransportContract(options: TransferTransportContractOptions): void {
  registerRules(options.runner, 'transfer-transport contract', transferTransportRules(options), options.skip);
}

/** What an agent is to a transport: segments, grants, and a record of what it was told. */
export class FakeTransferHost implements TransportHost {
  readonly agentName: string;
  readonly incarnation: string;
  readonly segments = new Map<number, TransferSegment>();
  /** Segments that peers may not touch. */
  readonly closedSegments = new Set<number>();
  readonly notifications: { peer: string; payload: Uint8Array }[] = [];
  readonly lost: string[] = [];
  onNotified: (() => void) | undefined = undefined;
  #nextId = 1;

  constructor(agentName: string) {
    this.agentName = agentName;
    this.incarnation = `${agentName}-1`;
  }

  /** Registers `lengthBytes` bytes at an odd offset of a larger buffer, so that writes outside show. */
  add(lengthBytes: number, shared = false): TransferSegment {
    const buffer = shared ? new SharedArrayBuffer(lengthBytes + 2 * GUARD_BYTES) : new ArrayBuffer(lengthBytes + 2 * GUARD_BYTES);
    new Uint8Array(buffer).fill(GUARD);
    const segment: TransferSegment = { id: this.#nextId++, kind: 'dram', bytes: new Uint8Array(buffer, GUARD_BYTES, lengthBytes), lengthBytes };
    this.segments.set(segment.id, segment);
    return segment;
  }

  segment(id: number): TransferSegment | undefined {
    return this.segments.get(id);
  }

  allows(_peer: string, id: number, offset: number, length: number): TransferStatus {
    const segment = this.segments.get(id);
    if (segment === undefined) return TransferStatus.NotFound;
    if (offset < 0 || length < 0 || offset + length > segment.lengthBytes) return TransferStatus.InvalidDescriptor;
    return this.closedSegments.has(id) ? TransferStatus.NotAllowed : TransferStatus.Done;
  }

  notified(peer: string, payload: Uint8Array): void {
    this.notifications.push({ peer, payload });
    this.onNotified?.();
  }

  disconnected(peer: string): void {
    this.lost.push(peer);
  }

  /** Throws when bytes around a segment have changed. */
  assertGuards(): void {
    for (const { bytes, id } of this.segments.values()) {
      const before = new Uint8Array(bytes.buffer, 0, GUARD_BYTES);
      const after = new Uint8Array(bytes.buffer, GUARD_BYTES + bytes.length);
      assert.ok(before.every((byte) => byte === GUARD) && after.every((byte) => byte === GUARD), `bytes outside segment ${id} of ${this.agentName} were written`);
    }
  }
}

const GUARD_BYTES = 67;
const GUARD = 0xa5;

interface Row {
  readonly segment: number;
  readonly offset: number;
  readonly length: number;
}

function columns(rows: readonly Row[]): DescriptorColumns {
  return {
    count: rows.length,
    segments: Int32Array.from(rows, (row) => row.segment),
    offsets: Float64Array.from(rows, (row) => row.offset),
    lengths: Int32Array.from(rows, (row) => row.length),
  };
}

function plan(op: 'read' | 'write', peer: string, local: readonly Row[], remote: readonly Row[]): TransferPlan {
  return { op, peer, local: columns(local), remote: columns(remote), bytes: local.reduce((sum, row) => sum + row.length, 0) };
}

/** Mulberry32: small, seeded. */
function random(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % bound;
  };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function until(what: string, holds: () => boolean, limitMs = 5000): Promise<void> {
  for (let waitedMs = 0; !holds(); waitedMs += 2) {
    assert.ok(waitedMs < limitMs, `not within ${limitMs} ms: ${what}`);
    await pause(2);
  }
}

/** Two agents on one transport that know each other. */
class Pair {
  readonly a = new FakeTransferHost('a');
  readonly b = new FakeTransferHost('b');
  readonly transport: TransferTransport;
  endpointA!: TransportEndpoint;
  endpointB!: TransportEndpoint;
  #posted = 0;
  readonly #dones: number[] = [];

  constructor(transport: TransferTransport) {
    this.transport = transport;
  }

  async open(): Promise<this> {
    await this.transport.start?.();
    this.endpointA = await this.transport.open(this.a);
    this.endpointB = await this.transport.open(this.b);
    this.endpointA.connect({ name: 'b', incarnation: this.b.incarnation, metadata: this.endpointB.metadata(), segments: new Map() });
    this.endpointB.connect({ name: 'a', incarnation: this.a.incarnation, metadata: this.endpointA.metadata(), segments: new Map() });
    return this;
  }

  /** From a to b. */
  run(transfer: TransferPlan, notification?: Uint8Array): Promise<TransferStatus> {
    return this.start(transfer, notification).ended;
  }

  start(transfer: TransferPlan, notification?: Uint8Array): { token: number; ended: Promise<TransferStatus> } {
    const index = this.#posted++;
    this.#dones[index] = 0;
    let token = 0;
    const ended = new Promise<TransferStatus>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('done was not called within 10 s')), 10_000);
      token = this.endpointA.post(transfer, notification, (status) => {
        clearTimeout(timer);
        this.#dones[index]!++;
        resolve(status);
      });
    });
    return { token, ended };
  }

  async close(): Promise<void> {
    await this.endpointA.close();
    await this.endpointB.close();
    await this.transport.close?.();
    await pause(1);
    assert.ok(
      this.#dones.every((count) => count === 1),
      `done was called ${this.#dones.join(', ')} times for the transfers posted`,
    );
    this.a.assertGuards();
    this.b.assertGuards();
  }
}

function isFilledWith(bytes: Uint8Array, value: number): boolean {
  return Buffer.compare(bytes, Buffer.alloc(bytes.length, value)) === 0;
}

function fillRandom(bytes: Uint8Array, below: (bound: number) => number): void {
  for (let i = 0; i < bytes.length; i++) bytes[i] = below(256);
}

function shuffle<T>(items: T[], below: (bound: number) => number): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [items[i], items[j]] = [items[j]!, items[i]!];
  }
  return items;
}

/** Random rows; the target side does not overlap itself, the source side may. */
function randomLayout(below: (bound: number) => number, target: TransferSegment, source: TransferSegment): { target: Row[]; source: Row[] } {
  const rows: Row[] = [];
  const scale = [1, 100, 5000, 70_000][below(4)]!;
  for (let at = 0; rows.length < 200; ) {
    at += below(3) * below(50);
    const length = below(5) === 0 ? 0 : Math.min(below(scale * 2), source.lengthBytes);
    if (at + length > target.lengthBytes) break;
    rows.push({ segment: target.id, offset: at, length });
    at += length;
  }
  shuffle(rows, below);
  return { target: rows, source: rows.map(({ length }) => ({ segment: source.id, offset: below(source.lengthBytes - length + 1), length })) };
}

/** What the target must look like afterwards. */
function expected(target: TransferSegment, rows: { target: Row[]; source: Row[] }, source: TransferSegment): Uint8Array {
  const bytes = target.bytes.slice();
  rows.target.forEach((row, i) => {
    const from = rows.source[i]!.offset;
    bytes.set(source.bytes.subarray(from, from + row.length), row.offset);
  });
  return bytes;
}

/** The rules, for runners and for mutant tests. */
export function transferTransportRules(options: Omit<TransferTransportContractOptions, 'runner'>): ContractRule[] {
  const pair = async (): Promise<Pair> => new Pair(await options.create()).open();
  const withPair =
    (body: (it: Pair) => Promise<void>): (() => Promise<void>) =>
    async () => {
      const opened = await pair();
      let failed = true;
      try {
        await body(opened);
        failed = false;
      } finally {
        if (failed) await opened.close().catch(() => undefined);
      }
      await opened.close();
    };
  const seed = options.seed ?? 20_261;

  const shape = withPair(async ({ transport, endpointA, endpointB }) => {
    assert.equal(typeof transport.name, 'string');
    assert.equal(transport.unavailable(), undefined);
    assert.ok(transport.supports.kinds.length > 0);
    assert.ok(endpointA.canReach(endpointB.metadata()));
    assert.ok(!endpointA.canReach({}));
    assert.deepEqual(JSON.parse(JSON.stringify(endpointA.metadata())), endpointA.metadata());
    assert.equal(endpointA.estimateMicros('nobody', 1, 1), Infinity);
    assert.ok(Number.isFinite(endpointA.estimateMicros('b', 1 << 20, 16)));
    await Promise.resolve();
  });

  const randomBytes = withPair(async (it) => {
    for (let round = 0; round < 24; round++) {
      const roundSeed = seed + round;
      const below = random(roundSeed);
      const here = it.a.add(100_000 + below(400_000), below(2) === 1);
      const there = it.b.add(100_000 + below(400_000), below(2) === 1);
      fillRandom(here.bytes, below);
      fillRandom(there.bytes, below);
      const isRead = below(2) === 0;
      const [target, source] = isRead ? [here, there] : [there, here];
      const rows = randomLayout(below, target, source);
      const want = expected(target, rows, source);
      const status = await it.run(isRead ? plan('read', 'b', rows.target, rows.source) : plan('write', 'b', rows.source, rows.target));
      assert.equal(status, TransferStatus.Done, `seed ${roundSeed}`);
      assert.ok(Buffer.compare(target.bytes, want) === 0, `bytes differ, seed ${roundSeed}`);
      it.a.assertGuards();
      it.b.assertGuards();
    }
  });

  const manyAtOnce = withPair(async (it) => {
    const below = random(seed);
    const here = it.a.add(64 * 4099);
    const there = it.b.add(64 * 4099, true);
    fillRandom(there.bytes, below);
    const all = Array.from({ length: 64 }, (_, i) => it.run(plan('read', 'b', [{ segment: here.id, offset: i * 4099, length: 4099 }], [{ segment: there.id, offset: (63 - i) * 4099, length: 4099 }])));
    assert.deepEqual(new Set(await Promise.all(all)), new Set([TransferStatus.Done]), `seed ${seed}`);
    for (let i = 0; i < 64; i++) assert.ok(Buffer.compare(here.bytes.subarray(i * 4099, (i + 1) * 4099), there.bytes.subarray((63 - i) * 4099, (64 - i) * 4099)) === 0);
  });

  const refusals = withPair(async (it) => {
    const here = it.a.add(1000);
    const there = it.b.add(1000);
    const secret = it.b.add(1000);
    it.b.closedSegments.add(secret.id);
    there.bytes.fill(1);
    secret.bytes.fill(2);
    const cases: [Row, TransferStatus][] = [
      [{ segment: there.id, offset: 901, length: 100 }, TransferStatus.InvalidDescriptor],
      [{ segment: there.id, offset: 2 ** 40, length: 100 }, TransferStatus.InvalidDescriptor],
      [{ segment: 99, offset: 0, length: 100 }, TransferStatus.NotFound],
      [{ segment: secret.id, offset: 0, length: 100 }, TransferStatus.NotAllowed],
    ];
    for (const [bad, status] of cases) {
      for (const op of ['read', 'write'] as const) {
        const good: Row = { segment: there.id, offset: 0, length: 100 };
        const local: Row[] = [
          { segment: here.id, offset: 0, length: 100 },
          { segment: here.id, offset: 100, length: 100 },
        ];
        const found = await it.run(plan(op, 'b', local, [good, bad]), new Uint8Array([1]));
        assert.equal(found, status, `${op} of ${JSON.stringify(bad)}`);
        assert.ok(here.bytes.every((byte) => byte === GUARD) && there.bytes.every((byte) => byte === 1) && secret.bytes.every((byte) => byte === 2), 'a refused transfer changed bytes');
      }
    }
    await pause(5);
    assert.equal(it.b.notifications.length, 0, 'a refused transfer was notified');
    const unknown = await it.run(plan('read', 'nobody', [], []));
    assert.ok(unknown < 0, 'a transfer with an unknown peer did not fail');
  });

  const notifyAfterData = withPair(async (it) => {
    const below = random(seed);
    for (let round = 0; round < 8; round++) {
      for (const op of ['read', 'write'] as const) {
        const length = 1 + below(3_000_000);
        const here = it.a.add(length);
        const there = it.b.add(length);
        const [target, source] = op === 'read' ? [here, there] : [there, here];
        fillRandom(source.bytes.subarray(0, 1000), below);
        source.bytes.fill(7, Math.max(0, length - 5));
        let sawData = false;
        it.b.onNotified = () => (sawData = Buffer.compare(target.bytes, source.bytes) === 0);
        const payload = Uint8Array.of(round, 1, 2);
        const row = (segment: number): Row[] => [{ segment, offset: 0, length }];
        assert.equal(await it.run(plan(op, 'b', row(here.id), row(there.id)), payload), TransferStatus.Done);
        await until('notification', () => it.b.notifications.length === 1);
        assert.ok(sawData, `notification before the data (${op}, ${length} bytes)`);
        assert.deepEqual(it.b.notifications.pop(), { peer: 'a', payload: Uint8Array.of(round, 1, 2) });
      }
    }
    assert.ok(it.endpointA.notify('b', Uint8Array.of(9)));
    await until('notification', () => it.b.notifications.length === 1);
    assert.equal(it.endpointA.notify('nobody', Uint8Array.of(9)), false);
  });

  const peerLoss = withPair(async (it) => {
    const here = it.a.add(8 << 20);
    const there = it.b.add(8 << 20);
    const whole = plan('read', 'b', [{ segment: here.id, offset: 0, length: 8 << 20 }], [{ segment: there.id, offset: 0, length: 8 << 20 }]);
    assert.equal(await it.run(whole), TransferStatus.Done);
    const running = Array.from({ length: 8 }, () => it.run(whole));
    await it.endpointB.close();
    for (const status of await Promise.all(running)) assert.ok(status === TransferStatus.Done || status === TransferStatus.RemoteDisconnected, `status ${status}`);
    assert.equal(await it.run(whole), TransferStatus.RemoteDisconnected);
    await until('disconnected', () => it.a.lost.length > 0);
    await pause(5);
    assert.deepEqual(it.a.lost, ['b'], 'a loss is told once');
  });

  const cancelRule = withPair(async (it) => {
    const length = 32 << 20;
    const here = it.a.add(length);
    const there = it.b.add(length, true);
    there.bytes.fill(3);
    for (let round = 0; round < 12; round++) {
      here.bytes.fill(1);
      const { token, ended } = it.start(plan('read', 'b', [{ segment: here.id, offset: 0, length }], [{ segment: there.id, offset: 0, length }]), Uint8Array.of(1));
      if (round % 3 > 0) await pause(round);
      it.endpointA.cancel(token);
      const status = await ended;
      assert.ok(status === TransferStatus.Canceled || status === TransferStatus.Done, `status ${status}`);
      if (status === TransferStatus.Canceled) {
        here.bytes.fill(9);
        await pause(20);
        assert.ok(
          isFilledWith(here.bytes, 9),
          `local memory changed after the terminal status, round ${round}`,
        );
        assert.equal(it.b.notifications.length, 0, 'a cancelled transfer was notified');
      }
      it.endpointA.cancel(token);
      await pause(1);
      it.b.notifications.length = 0;
    }
    it.endpointA.cancel(123_456);
    const small: Row = { segment: here.id, offset: 0, length: 10 };
    assert.equal(await it.run(plan('write', 'b', [small], [{ ...small, segment: there.id }])), TransferStatus.Done, 'the path works after cancels');
  });

  const cancelWrite = withPair(async (it) => {
    const length = 16 << 20;
    const here = it.a.add(length);
    const there = it.b.add(length);
    for (let round = 0; round < 6; round++) {
      const { token, ended } = it.start(plan('write', 'b', [{ segment: here.id, offset: 0, length }], [{ segment: there.id, offset: 0, length }]));
      if (round % 2 > 0) await pause(round);
      it.endpointA.cancel(token);
      const status = await ended;
      assert.ok(status === TransferStatus.Canceled || status === TransferStatus.Done, `status ${status}`);
      there.bytes.fill(9);
      await pause(15);
      assert.ok(
        isFilledWith(there.bytes, 9),
        `remote memory changed after the terminal status, round ${round}`,
      );
    }
  });

  const closing = async (): Promise<void> => {
    const it = await pair();
    const here = it.a.add(8 << 20);
    const there = it.b.add(8 << 20);
    const row = (segment: number): Row[] => [{ segment, offset: 0, length: 8 << 20 }];
    const running = it.run(plan('read', 'b', row(here.id), row(there.id)));
    const [, status] = await Promise.all([Promise.all([it.endpointA.close(), it.endpointA.close()]), running]);
    assert.ok(status <= 0, `status ${status} after close`);
    const after = await it.run(plan('read', 'b', row(here.id), row(there.id)));
    assert.ok(after < 0, 'a closed endpoint took a transfer');
    await it.close();
    await it.close();
  };

  const handles = async (): Promise<void> => {
    const transport = await options.create();
    const count = (): number => process.getActiveResourcesInfo().filter((name) => !/Immediate|TickObject|Promise/.test(name)).length;
    const cycle = async (times: number): Promise<void> => {
      for (let i = 0; i < times; i++) await (await transport.open(new FakeTransferHost(`h${i}`))).close();
    };
    await cycle(10);
    await pause(5);
    const before = count();
    await cycle(1000);
    await pause(20);
    assert.ok(count() <= before + 5, `${count() - before} handles more after 1,000 opens`);
    const it = await pair();
    const here = it.a.add(64);
    const row: Row[] = [{ segment: here.id, offset: 0, length: 64 }];
    it.b.add(64);
    assert.equal(await it.run(plan('read', 'b', row, row)), TransferStatus.Done);
    await it.close();
    await transport.close?.();
  };

  return [
    { name: 'shape: name, abilities, metadata, estimates', run: shape },
    { name: 'behaviour: byte equality over random layouts', run: randomBytes },
    { name: 'behaviour: many transfers at once', run: manyAtOnce },
    { name: 'behaviour: notification after the data', run: notifyAfterData },
    { name: 'failure: descriptors outside, unknown or not granted are refused', run: refusals },
    { name: 'failure: peer loss becomes a status', run: peerLoss },
    { name: 'failure: no local byte changes after a cancelled read has ended', run: cancelRule },
    { name: 'failure: no remote byte changes after a cancelled write has ended', run: cancelWrite },
    { name: 'lifecycle: close ends transfers and is idempotent', run: closing },
    { name: 'lifecycle: 1,000 opens and closes', run: handles },
  ];
}
