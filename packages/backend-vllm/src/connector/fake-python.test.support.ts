import { createConnection } from 'node:net';
import type { Socket } from 'node:net';
import type { Clock, KvPolicy, Logger, Metrics } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { createBlockManager, deviceOutOfReach, hostTier, kvPolicyDefaults, lineage } from '@armature/kvbm';
import type { BlockManager, KvPeerCalls } from '@armature/kvbm';
import { createAgent } from '@armature/nixel';
import type { Agent } from '@armature/nixel';
import { encodeFrame, FrameReader } from './frames.ts';
import type { Frame } from './frames.ts';
import { openConnector } from './vllm-connector.ts';
import type { VllmConnector } from './vllm-connector.ts';

export const BLOCK_SIZE = 4;
export const BLOCK_BYTES = 2 * 96;
export const FORMAT = { model: 'tiny', dtype: 'float32', blockSize: BLOCK_SIZE, layers: 2, pieces: 2, pieceBytes: 96, layout: 'cpu' };
const DEADLINE_MS = 10_000;

const lines: string[] = [];
const line = (message: string): void => void lines.push(message);
export const quiet: Logger = { debug: line, info: line, warn: line, error: line, child: () => quiet, isEnabled: () => false };
const instrument = { inc: () => undefined, set: () => undefined, add: () => undefined, observe: () => undefined };
const noMetrics: Metrics = { counter: () => ({ with: () => instrument }), gauge: () => ({ with: () => instrument }), histogram: () => ({ with: () => instrument }), onCollect: () => () => undefined };

/** Values by name and labels. */
export class CountingMetrics implements Metrics {
  readonly values: Record<string, number> = {};
  #collect: () => void = () => undefined;

  counter: Metrics['counter'] = ({ name }) => ({ with: (...labels) => ({ inc: (by = 1) => this.#add([name, ...labels].join(' '), by) }) });
  gauge: Metrics['gauge'] = ({ name }) => ({ with: (...labels) => ({ set: (value) => void (this.values[[name, ...labels].join(' ')] = value), add: (by) => this.#add([name, ...labels].join(' '), by) }) });
  histogram: Metrics['histogram'] = () => ({ with: () => ({ observe: () => undefined }) });

  onCollect(callback: () => void): () => void {
    this.#collect = callback;
    return () => undefined;
  }

  collect(): void {
    this.#collect();
  }

  #add(key: string, by: number): void {
    this.values[key] = (this.values[key] ?? 0) + by;
  }
}

export async function until(what: string, isSo: () => boolean, clock: Clock = realClock): Promise<void> {
  for (let ms = 0; ms < DEADLINE_MS; ms += 2) {
    if (isSo()) return;
    await clock.sleep(2);
  }
  throw new Error(`never within ${DEADLINE_MS} ms: ${what}`);
}

/** What vLLM's Python side does on one socket. */
export class FakePython {
  readonly socket: Socket;
  readonly pushed: Frame[] = [];
  isClosed = false;
  readonly #reader = new FrameReader();
  readonly #waiting = new Map<number, (frame: Frame) => void>();
  #nextId = 1;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => this.#reader.push(chunk, (frame) => this.#frame(frame)));
    socket.on('error', () => undefined);
    socket.once('close', () => (this.isClosed = true));
  }

  static async connect(path: string): Promise<FakePython> {
    const socket = createConnection(path);
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    return new FakePython(socket);
  }

  static async hello(connector: VllmConnector, role: 'scheduler' | 'worker', more: Record<string, unknown> = {}): Promise<FakePython> {
    const python = await FakePython.connect(connector.socketPath);
    python.send({ op: 'hello', version: 1, role, format: role === 'worker' ? FORMAT : { blockSize: BLOCK_SIZE }, ...more });
    await python.until('welcome');
    return python;
  }

  send(head: Record<string, unknown>, tail?: Int32Array): void {
    this.socket.write(encodeFrame(head, tail));
  }

  ask(head: Record<string, unknown>, tail?: Int32Array): Promise<Frame> {
    const id = this.#nextId++;
    this.send({ ...head, id }, tail);
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, resolve);
      realClock.setTimer(DEADLINE_MS, () => reject(new Error(`no answer to ${String(head['op'])}`)));
    });
  }

  /** The first frame of this kind that nobody asked for. */
  async until(op: string): Promise<Frame> {
    await until(`a frame "${op}"`, () => this.pushed.some(({ head }) => head['op'] === op));
    return this.pushed.find(({ head }) => head['op'] === op)!;
  }

  async closed(): Promise<void> {
    await until('the end of the socket', () => this.isClosed);
  }

  close(): Promise<void> {
    this.socket.destroy();
    return this.closed();
  }

  #frame(frame: Frame): void {
    const id = frame.head['id'];
    const waiting = typeof id === 'number' ? this.#waiting.get(id) : undefined;
    if (waiting === undefined) this.pushed.push(frame);
    else waiting(frame);
  }
}

/** A connector over real host memory and a real block manager, and both sockets of an engine. */
export class ConnectedWorker {
  readonly name: string;
  readonly connector: VllmConnector;
  readonly manager: BlockManager;
  readonly agent: Agent;
  scheduler: FakePython;
  worker: FakePython;

  private constructor(parts: Pick<ConnectedWorker, 'name' | 'connector' | 'manager' | 'agent' | 'scheduler' | 'worker'>) {
    this.name = parts.name;
    this.connector = parts.connector;
    this.manager = parts.manager;
    this.agent = parts.agent;
    this.scheduler = parts.scheduler;
    this.worker = parts.worker;
  }

  static async open({ name = 'worker', hostBlocks = 64, peers }: { name?: string; hostBlocks?: number; peers?: KvPeerCalls } = {}): Promise<ConnectedWorker> {
    const connector = await openConnector({ blockSize: BLOCK_SIZE, clock: realClock, log: quiet });
    const worker = await FakePython.hello(connector, 'worker');
    const scheduler = await FakePython.hello(connector, 'scheduler');
    const agent = await createAgent({ name, clock: realClock, log: quiet });
    const context = undefined as never;
    const manager = await createBlockManager({
      worker: name,
      modelFingerprint: 'tiny',
      blockSize: BLOCK_SIZE,
      baseDir: '/nowhere',
      kv: deviceOutOfReach(connector.format()),
      agent,
      arenaSegment: -1,
      tiers: [await hostTier.create({ capacity: hostBlocks * 4096 }, context)],
      policy: (await lineage.create({ offload: kvPolicyDefaults.offload, prefetch: 'route' }, context)) as KvPolicy,
      peers,
      clock: realClock,
      log: quiet,
      metrics: noMetrics,
      labels: ['model', 'pool'],
      config: { maxSlowdown: 0.05, fetchDeadlineMs: 5_000, maxQueuedBlocks: 256, batchBlocks: 4, quotas: {}, verify: true },
    });
    connector.attach(manager.host, { instanceId: name, address: name, agentMetadata: agent.metadata(), layoutFingerprint: connector.format().layoutFingerprint });
    return new ConnectedWorker({ name, connector, manager, agent, scheduler, worker });
  }

  /** A new prompt, as the scheduler asks for it. */
  async match(prompt: number, tokens: Int32Array, more: Record<string, unknown> = {}): Promise<{ blocks: number; hashes: Int32Array }> {
    const { head, tail } = await this.scheduler.ask({ op: 'match', prompt, from: 0, salt: '', lora: '', ...more }, tokens);
    return { blocks: head['blocks'] as number, hashes: tail };
  }

  async pull(prompt: number, to: number, more: Record<string, unknown> = {}): Promise<{ lease: number; blocks: number[] }> {
    const { head, tail } = await this.scheduler.ask({ op: 'pull', prompt, from: 0, to, salt: '', deadlineMs: 5_000, ...more });
    return { lease: head['lease'] as number, blocks: [...tail] };
  }

  async reserve(hashes: Int32Array): Promise<{ reservation: number; rows: number[]; blocks: number[] }> {
    const { head, tail } = await this.worker.ask({ op: 'reserve', salt: '' }, withParents(hashes));
    return { reservation: head['reservation'] as number, rows: [...tail.subarray(0, tail.length / 2)], blocks: [...tail.subarray(tail.length / 2)] };
  }

  async commit(reservation: number, rows: number): Promise<number> {
    return (await this.worker.ask({ op: 'commit', epoch: this.connector.epoch, reservation, rows })).head['kept'] as number;
  }

  async release(lease: number): Promise<boolean> {
    return (await this.worker.ask({ op: 'release', epoch: this.connector.epoch, lease })).head['valid'] as boolean;
  }

  /** Computes a prompt and saves all of it. */
  async store(prompt: number, tokens: Int32Array): Promise<Int32Array> {
    const { hashes } = await this.match(prompt, tokens);
    const { reservation, rows, blocks } = await this.reserve(hashes);
    rows.forEach((row, i) => this.bytes(blocks[i]).set(contentOf(hashes, row)));
    if (reservation !== 0) await this.commit(reservation, rows.length);
    return hashes;
  }

  /** Content of a host block: what Python's mapping shows. */
  bytes(block: number): Uint8Array {
    const { bytes, blockStrideBytes } = this.manager.host.memory;
    return bytes!.subarray(block * blockStrideBytes, block * blockStrideBytes + BLOCK_BYTES);
  }

  held(): number {
    return Object.values(this.manager.host.counts()).reduce((sum, count) => sum + count, 0) + this.manager.stats().loans;
  }

  async close(): Promise<void> {
    await this.connector.close();
    await this.manager.close();
    await this.agent.close();
  }
}

/** Managers by name, asked without a network. */
export class DirectPeers implements KvPeerCalls {
  readonly managers = new Map<string, BlockManager>();
  loans = 0;

  borrow: KvPeerCalls['borrow'] = (address, hashes, from, to, ttlMs, deadlineMs, done) => {
    const manager = this.managers.get(address);
    if (manager === undefined) return done(undefined);
    this.loans++;
    manager.lend(hashes, from, to, ttlMs, deadlineMs, done);
  };

  renew(address: string, lease: number, ttlMs: number): void {
    this.managers.get(address)?.renewLoan(lease, ttlMs);
  }

  settle: KvPeerCalls['settle'] = (address, lease, done) => done(this.managers.get(address)?.settleLoan(lease) === 'valid');
}

export function tokensOf(seed: number, count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => (Math.imul(seed, 2_654_435) + Math.imul(i + 1, 40_503)) & 0xffff);
}

/** What a block of that hash holds, in these tests. */
export function contentOf(hashes: Int32Array, row: number): Uint8Array {
  return Uint8Array.from({ length: BLOCK_BYTES }, (_, i) => (hashes[2 * row] >>> ((i % 4) * 8)) ^ (hashes[2 * row + 1] + i));
}

export function withParents(hashes: Int32Array): Int32Array {
  const rows = new Int32Array(2 * hashes.length);
  for (let row = 0; 2 * row < hashes.length; row++) {
    rows.set(hashes.subarray(2 * row, 2 * row + 2), 4 * row);
    if (row > 0) rows.set(hashes.subarray(2 * row - 2, 2 * row), 4 * row + 2);
  }
  return rows;
}
