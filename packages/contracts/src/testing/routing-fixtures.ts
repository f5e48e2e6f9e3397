import type { KvEvent, KvTier } from '../kv-events.ts';
import type { Candidates, RoutingRequest } from '../router-policy.ts';
import type { WorkerRecord } from '../worker.ts';

/** Hashes of a made-up chain: block `i` of chain `chain`. Two words per block. */
export function chainHashes(chain: number, blocks: number, from = 0): Int32Array {
  const hashes = new Int32Array(blocks * 2);
  for (let i = 0; i < blocks; i++) {
    hashes[i * 2] = Math.imul(chain * 65_536 + from + i + 1, 0x9e3779b1);
    hashes[i * 2 + 1] = Math.imul(chain + 1, 0x85ebca6b) ^ (from + i);
  }
  return hashes;
}

/** A request for the first `blocks` blocks of a chain. */
export function routingRequest(parts: Partial<RoutingRequest> & { chain?: number } = {}): RoutingRequest {
  const { chain = 1, ...rest } = parts;
  const blocks = rest.blocks ?? 8;
  const blockSize = rest.blockSize ?? 16;
  return {
    id: 'request',
    hop: 'aggregated',
    promptTokens: blocks * blockSize,
    sequenceHashes: chainHashes(chain, blocks),
    blocks,
    blockSize,
    creditsOverlap: true,
    overlapCredit: Number.NaN,
    temperature: Number.NaN,
    prefillLoadScale: Number.NaN,
    sharedCacheMultiplier: Number.NaN,
    assumeKvReuse: undefined,
    trackPrefillTokens: undefined,
    expectedOutputTokens: 0,
    sessionSlot: -1,
    sessionBonusBlocks: 0,
    requiredTaints: [],
    preferredTaints: [],
    ...rest,
  };
}

/** `count` idle candidates in slots `0 .. count`. */
export function idleCandidates(count: number, capacity = Math.max(1, count)): Candidates {
  return {
    count,
    slots: Int32Array.from({ length: capacity }, (_, i) => i),
    activeRequests: new Int32Array(capacity),
    activePrefillTokens: new Float64Array(capacity),
    activeBlocks: new Float64Array(capacity),
    totalBlocks: new Float64Array(capacity).fill(4096),
    costPerHour: new Float64Array(capacity).fill(1),
    degraded: new Uint8Array(capacity),
    workers: Array.from({ length: capacity }, (_, i) => workerRecord(i)),
    overlapBlocks: new Int32Array(capacity),
    hostBlocks: new Int32Array(capacity),
    diskBlocks: new Int32Array(capacity),
    objectBlocks: new Int32Array(capacity),
    decodeBlocks: new Float64Array(capacity),
    excessShare: new Float64Array(capacity),
  };
}

/** A worker record for tests. */
export function workerRecord(slot: number, parts: Partial<WorkerRecord> = {}): WorkerRecord {
  return {
    instanceId: `pool/${slot}@1`,
    model: 'test',
    pool: 'pool',
    index: slot,
    dpRank: 0,
    role: 'both',
    address: `memory:${slot}`,
    engine: 'mock',
    hardware: '',
    costPerHour: 1,
    taints: [],
    blockSize: 16,
    totalBlocks: 4096,
    maxModelTokens: 65_536,
    maxBatchedTokens: 8192,
    firstToken: 'prefill',
    modelFingerprint: 'm',
    kvEvents: true,
    layoutFingerprint: '',
    agentMetadata: new Uint8Array(0),
    protocol: 1,
    ...parts,
  };
}

export function storedEvent(eventId: number, sequenceHashes: Int32Array, tier: KvTier = 'device'): KvEvent {
  return { type: 'stored', eventId, parent: new Int32Array(0), sequenceHashes, tier };
}

export function removedEvent(eventId: number, sequenceHashes: Int32Array, tier: KvTier = 'device'): KvEvent {
  return { type: 'removed', eventId, sequenceHashes, tier };
}
