import type { KvFetchRequest, KvFetchResult, KvLoan, KvPeer, KvPeerCalls, KvTierEvent, BlockManager, BlockManagerConfig } from './face.ts';
import type { Counter, Gauge, Histogram, KvPolicy, KvTierBackend, KvTierHost, KvTierStore, Logger, Metrics, MetricSpec } from '@armature/contracts';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { createAgent, MemoryTransport } from '@armature/nixel';
import type { Agent, MemoryTransportOptions } from '@armature/nixel';
import { deviceOutOfReach } from '../device/out-of-reach.ts';
import { HostTier } from '../host/host-tier.ts';
import { kvPolicyDefaults } from '../policy/config.ts';
import type { KvPolicyConfig } from '../policy/config.ts';
import { lineage } from '../policy/plugin.ts';
import { createBlockManager } from './create-block-manager.ts';
import { BLOCK_SIZE, FakeEngine, PIECE_BYTES, PIECES } from './fake-engine.test.support.ts';

export const BLOCK_BYTES = PIECES * PIECE_BYTES;
const STRIDE_BYTES = 4096;

export const silent: Logger = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined, child: () => silent, isEnabled: () => false };

/** Counters by name and labels. */
export class CountingMetrics implements Metrics {
  readonly counts = new Map<string, number>();
  #collectors: (() => void)[] = [];

  total(name: string, ...labels: string[]): number {
    for (const collect of this.#collectors) collect();
    let sum = 0;
    for (const [key, value] of this.counts) if (key.startsWith(`armature_kvbm_${name}|`) && labels.every((label) => key.split('|').includes(label))) sum += value;
    return sum;
  }

  counter(spec: MetricSpec): { with(...labels: string[]): Counter } {
    return { with: (...labels) => ({ inc: (by = 1) => this.#add(spec.name, labels, by) }) };
  }

  gauge(spec: MetricSpec): { with(...labels: string[]): Gauge } {
    return { with: (...labels) => ({ set: (value) => void this.counts.set([spec.name, ...labels].join('|'), value), add: (by) => this.#add(spec.name, labels, by) }) };
  }

  histogram(spec: MetricSpec): { with(...labels: string[]): Histogram } {
    return { with: (...labels) => ({ observe: () => this.#add(spec.name, labels, 1) }) };
  }

  onCollect(callback: () => void): () => void {
    this.#collectors.push(callback);
    return () => (this.#collectors = this.#collectors.filter((other) => other !== callback));
  }

  #add(name: string, labels: string[], by: number): void {
    const key = [name, ...labels].join('|');
    this.counts.set(key, (this.counts.get(key) ?? 0) + by);
  }
}

export interface RigOptions {
  readonly clock?: ManualClock;
  readonly name?: string;
  readonly deviceBlocks?: number;
  readonly hostBlocks?: number;
  readonly lower?: readonly KvTierBackend[];
  /** Instead of a host tier and `lower`. */
  readonly tiers?: readonly KvTierBackend[];
  readonly offload?: Partial<KvPolicyConfig['offload']>;
  readonly prefetch?: KvPolicy['prefetch'];
  readonly config?: Partial<BlockManagerConfig>;
  readonly isWasm?: boolean;
  /** The engine copies its blocks by itself: the fake one is not used. */
  readonly isOutOfReach?: boolean;
  readonly peers?: KvPeerCalls;
  readonly transport?: MemoryTransport;
  /** What the engine computes in a millisecond; 0: nobody has observed it. */
  readonly tokensPerMs?: number;
}

/** A manager between a fake engine and real or slow tiers, in virtual time. */
export class Rig {
  readonly clock: ManualClock;
  readonly engine: FakeEngine;
  readonly manager: BlockManager;
  readonly agent: Agent;
  readonly metrics: CountingMetrics;
  readonly events: KvTierEvent[] = [];
  readonly name: string;
  /** Of the host tier's memory, to spoil. */
  readonly hostBytes: Uint8Array;

  private constructor(parts: Pick<Rig, 'clock' | 'engine' | 'manager' | 'agent' | 'metrics' | 'name' | 'hostBytes'>) {
    this.hostBytes = parts.hostBytes;
    this.clock = parts.clock;
    this.engine = parts.engine;
    this.manager = parts.manager;
    this.agent = parts.agent;
    this.metrics = parts.metrics;
    this.name = parts.name;
  }

  static async open(options: RigOptions = {}): Promise<Rig> {
    const { clock = new ManualClock(), name = 'worker', deviceBlocks = 16, hostBlocks = 64, lower = [], isWasm = true, tokensPerMs = 1 } = options;
    const engine = new FakeEngine({ clock, blocks: deviceBlocks, isWasm });
    const transport = options.transport ?? new MemoryTransport({ clock });
    const agent = await createAgent({ name, clock, transports: [transport] });
    const { buffer, byteOffset, lengthBytes } = engine.arena().segments[0];
    const arenaSegment = agent.register({ buffer, byteOffset, lengthBytes }).id;
    const metrics = new CountingMetrics();
    const policy = (await lineage.create({ offload: { ...kvPolicyDefaults.offload, ...options.offload }, prefetch: options.prefetch ?? 'route' }, undefined as never)) as KvPolicy;
    const config = { maxSlowdown: 0.05, fetchDeadlineMs: 5_000, maxQueuedBlocks: 256, batchBlocks: 4, quotas: {}, verify: true, ...options.config };
    const host = new HostTier({ capacity: hostBlocks * STRIDE_BYTES });
    let hostBytes = new Uint8Array(0);
    const openHost = async (tierHost: KvTierHost): Promise<KvTierStore> => {
      const store = await host.open(tierHost);
      hostBytes = store.memory.bytes as Uint8Array<ArrayBuffer>;
      return store;
    };
    const manager = await createBlockManager({
      worker: name,
      modelFingerprint: 'model',
      blockSize: BLOCK_SIZE,
      baseDir: '/nowhere',
      kv: options.isOutOfReach === true ? deviceOutOfReach({ layoutFingerprint: 'fake-layout', pieces: PIECES, pieceBytes: PIECE_BYTES }) : engine,
      agent,
      arenaSegment,
      tiers: options.tiers ?? [{ tier: 'host', capacityBytes: () => host.capacityBytes(), open: openHost }, ...lower],
      policy,
      peers: options.peers,
      clock,
      log: silent,
      metrics,
      labels: ['model', 'pool'],
      config,
    });
    const rig = new Rig({ clock, engine, manager, agent, metrics, name, hostBytes });
    manager.onTierEvent((event) => rig.events.push(event));
    engine.onEvent = (event) => manager.engineEvent(event);
    if (tokensPerMs > 0) for (const tokens of [8, 64, 16, 128]) manager.observePrefill(tokens, tokens / tokensPerMs);
    return rig;
  }

  request(hashes: Int32Array, more: Partial<KvFetchRequest> = {}): KvFetchRequest {
    return { id: 'r', sequenceHashes: hashes, promptTokens: (hashes.length / 2) * BLOCK_SIZE + 1, cacheSalt: '', queuedTokens: 0, deadlineMs: 60_000, peers: [], ...more };
  }

  /** Fetches and lets time pass until the answer; `elapsedMs` is how long the request waited. */
  async fetch(hashes: Int32Array, more: Partial<KvFetchRequest> = {}): Promise<KvFetchResult & { readonly elapsedMs: number; readonly wrong: number[] }> {
    const startMs = this.clock.nowMs();
    let result: KvFetchResult | undefined;
    let endMs = startMs;
    this.manager.fetch(this.request(hashes, more), (answer) => {
      result = answer;
      endMs = this.clock.nowMs();
    });
    await this.until(() => result !== undefined);
    if (result === undefined) throw new Error('the fetch did not end');
    const wrong = result.reservation === undefined ? [] : this.engine.adopt(result.reservation, hashes, Math.floor(result.readyTokens / BLOCK_SIZE));
    return { ...result, elapsedMs: endMs - startMs, wrong };
  }

  /** Lets virtual time pass, a minute at most. */
  async until(isSo: () => boolean): Promise<void> {
    for (let ms = 0; !isSo() && ms < 60_000; ms++) await this.clock.elapse(1);
  }

  tier(tier: string): ReturnType<BlockManager['stats']>['tiers'][number] {
    return this.manager.stats().tiers.find((stats) => stats.tier === tier)!;
  }

  /** Everything that was lent, pinned or reserved: all zero when nothing is under way. */
  held(): Record<string, number> {
    const { loans, pinnedDeviceBlocks, tiers } = this.manager.stats();
    return { ...this.engine.counts(), ...this.manager.host.counts(), used: this.engine.pool.usedBlocks, loans, pinnedDeviceBlocks, ...Object.fromEntries(tiers.map(({ tier, pinnedBlocks }) => [tier, pinnedBlocks])) };
  }

  leaks(): string[] {
    return Object.entries(this.held()).filter(([, count]) => count !== 0).map(([what, count]) => `${what} ${count}`);
  }

  asPeer(blocks: number, layoutFingerprint = 'fake-layout'): KvPeer {
    return { instanceId: this.name, address: this.name, agentMetadata: this.agent.metadata(), layoutFingerprint, blocks };
  }

  async close(): Promise<void> {
    let isClosed = false;
    const closing = this.manager.close().then(() => (isClosed = true));
    await this.until(() => isClosed);
    await closing;
    await this.agent.close();
  }
}

/** The calls between managers of one test: asked for late, lost, or answered wrongly, as the test wants. */
export class PeerLinks implements KvPeerCalls {
  readonly rigs = new Map<string, Rig>();
  delayMs = 1;
  ttlMs: number | undefined = undefined;
  isDead = false;
  renewals = 0;
  settles = 0;

  readonly clock: ManualClock;

  constructor(clock: ManualClock) {
    this.clock = clock;
  }

  borrow(address: string, hashes: Int32Array, from: number, to: number, ttlMs: number, deadlineMs: number, done: (loan: KvLoan | undefined) => void): void {
    if (this.isDead) return void this.clock.setTimer(deadlineMs, () => done(undefined));
    this.clock.setTimer(this.delayMs, () => this.rigs.get(address)!.manager.lend(hashes, from, to, this.ttlMs ?? ttlMs, deadlineMs, done));
  }

  renew(address: string, lease: number, ttlMs: number): void {
    this.renewals++;
    this.rigs.get(address)!.manager.renewLoan(lease, ttlMs);
  }

  settle(address: string, lease: number, done: (isValid: boolean) => void): void {
    this.settles++;
    if (this.isDead) return void this.clock.setTimer(100, () => done(false));
    this.clock.setTimer(this.delayMs, () => done(this.rigs.get(address)!.manager.settleLoan(lease) === 'valid'));
  }
}

export function slowLink(clock: ManualClock, options: Partial<MemoryTransportOptions>): MemoryTransport {
  return new MemoryTransport({ clock, completion: 'deferred', ...options });
}
