import { BlockPool, LeaseTable, ReservationTable } from '@armature/blocks';
import { createBlockManager, hostTier, kvPolicyDefaults, lineage } from '@armature/kvbm';
import { createAgent } from '@armature/nixel';
import { realClock } from '@armature/contracts/testing/real-clock';

export const BLOCK_SIZE = 16;
const nothing = () => undefined;
export const silent = { debug: nothing, info: nothing, warn: nothing, error: nothing, child: () => silent, isEnabled: () => false };
const one = { inc: nothing, set: nothing, add: nothing, observe: nothing };
const family = () => ({ with: () => one });
const noMetrics = { counter: family, gauge: family, histogram: family, onCollect: () => nothing };

/** An engine's KV face that computes nothing: the tables of the real engines over an arena of any layout. */
export class BenchEngine {
  #eventId = 0;
  #evicted = [];
  onEvent = nothing;

  constructor({ blocks, pieces, pieceBytes }) {
    this.pool = new BlockPool(blocks, (lo, hi) => this.#evicted.push(lo, hi));
    this.leases = new LeaseTable(this.pool, realClock);
    this.reservations = new ReservationTable(this.pool, { clock: realClock });
    this.pieces = pieces;
    this.pieceBytes = pieceBytes;
    this.lengthBytes = blocks * pieces * pieceBytes;
    const pages = this.lengthBytes / 65_536;
    this.wasm = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.bytes = new Uint8Array(this.wasm.buffer);
    for (let at = 0; at < this.lengthBytes; at += 61) this.bytes[at] = at;
  }

  /** One piece: block after block. More: layer after layer, each of all blocks. */
  arena() {
    const { pieces, pieceBytes, lengthBytes, wasm, bytes } = this;
    const segment = { buffer: bytes.buffer, byteOffset: 0, lengthBytes, wasm };
    return { segments: [segment], blockStrideBytes: pieceBytes, pieces, pieceBytes, pieceStrideBytes: lengthBytes / pieces, layoutFingerprint: 'bench' };
  }

  /** As if a prompt had been computed and its request had ended. */
  compute(hashes) {
    const { id } = this.reserve(hashes, hashes.length / 2, 600_000);
    this.commit(id, hashes.length / 2);
    this.release(id);
  }

  forget() {
    this.pool.clearInactive();
    this.#flush();
  }

  match(hashes) {
    return this.pool.match(hashes, hashes.length >> 1);
  }

  lease(hashes, from, to, ttlMs, isUse) {
    const blocks = [];
    for (let row = from; row < Math.min(to, hashes.length >> 1); row++) {
      const block = this.pool.find(hashes[2 * row], hashes[2 * row + 1]);
      if (block === -1) break;
      blocks.push(block);
    }
    return blocks.length === 0 ? undefined : { id: this.leases.lend(Int32Array.from(blocks), ttlMs, isUse), blocks: Int32Array.from(blocks) };
  }

  evictable(limit) {
    return this.pool.oldestInactive(limit);
  }

  reserve(hashes, blocks, ttlMs, cacheSalt = '') {
    const reservation = this.reservations.reserve(hashes, blocks, ttlMs, cacheSalt);
    this.#flush();
    return reservation === undefined ? undefined : { id: reservation.id, matchedBlocks: reservation.matchedBlocks, blocks: reservation.blocks.slice() };
  }

  commit(id, blocks) {
    const reservation = this.reservations.get(id);
    if (reservation === undefined) return;
    const { hashes, committed } = reservation;
    for (let row = committed; row < blocks; row++) this.pool.register(reservation.blocks[row], hashes[2 * row], hashes[2 * row + 1], hashes[2 * row - 2] ?? 0, hashes[2 * row - 1] ?? 0);
    reservation.committed = Math.max(committed, blocks);
    if (blocks <= committed) return;
    const parent = committed === 0 ? new Int32Array(0) : hashes.slice(2 * committed - 2, 2 * committed);
    this.onEvent({ type: 'stored', eventId: ++this.#eventId, parent, sequenceHashes: hashes.slice(2 * committed, 2 * blocks), tier: 'device', cacheSalt: '' });
  }

  release(id) {
    this.reservations.release(id);
  }

  quarantine(id) {
    this.reservations.quarantine(id);
  }

  renewLease(lease, ttlMs) {
    return this.leases.renew(lease, ttlMs);
  }

  releaseLease(lease) {
    return this.leases.release(lease);
  }

  #flush() {
    const sequenceHashes = Int32Array.from(this.#evicted.splice(0));
    if (sequenceHashes.length > 0) this.onEvent({ type: 'removed', eventId: ++this.#eventId, sequenceHashes, tier: 'device' });
  }
}

let workers = 0;

/** Engine, agent, host tier and manager, wired as a worker wires them. Recomputing is said to be slow, so that everything that is held is fetched. */
export async function openWorker({ blocks, pieces, pieceBytes, hostBytes, offload = {} }) {
  const engine = new BenchEngine({ blocks, pieces, pieceBytes });
  const agent = await createAgent({ name: `bench-kvbm-${++workers}`, clock: realClock, log: silent });
  const arenaSegment = agent.register({ buffer: engine.bytes.buffer, byteOffset: 0, lengthBytes: engine.lengthBytes }).id;
  const host = await hostTier.create({ capacity: hostBytes });
  let hostMemory;
  const open = async (tierHost) => {
    const store = await host.open(tierHost);
    hostMemory = store.memory;
    return store;
  };
  const manager = await createBlockManager({
    worker: 'bench/worker/0',
    modelFingerprint: 'bench',
    blockSize: BLOCK_SIZE,
    baseDir: process.cwd(),
    kv: engine,
    agent,
    arenaSegment,
    tiers: [{ tier: 'host', capacityBytes: () => host.capacityBytes(), open }],
    policy: await lineage.create({ offload: { ...kvPolicyDefaults.offload, ...offload }, prefetch: 'never' }),
    peers: undefined,
    clock: realClock,
    log: silent,
    metrics: noMetrics,
    labels: ['bench', 'worker'],
    config: { maxSlowdown: 0.05, fetchDeadlineMs: 60_000, maxQueuedBlocks: blocks, batchBlocks: 32, quotas: {}, verify: true },
  });
  engine.onEvent = (event) => manager.engineEvent(event);
  for (const tokens of [8, 64, 16, 128]) manager.observePrefill(tokens, 100 * tokens);
  const fetch = (sequenceHashes) =>
    new Promise((resolve) => void manager.fetch({ id: 'bench', sequenceHashes, promptTokens: (sequenceHashes.length / 2) * BLOCK_SIZE + 1, cacheSalt: '', queuedTokens: 0, deadlineMs: 60_000, peers: [] }, resolve));
  const close = async () => {
    await manager.close();
    await agent.close();
  };
  return { engine, manager, hostMemory, fetch, close };
}

/** Sequence hashes of a prompt nobody had before. */
export function promptHashes(random, blocks) {
  return Int32Array.from({ length: 2 * blocks }, () => random.u32());
}
