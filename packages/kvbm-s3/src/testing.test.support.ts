import type { ErrorData, KvBlockBatch, KvMemory, KvOperation, KvRemovalReason, KvTierHost, KvTierStore, Logger, Random } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { afterEach } from 'vitest';
import type { S3TierConfig } from './config.ts';
import { s3Tier } from './plugin.ts';
import { ACCESS, SECRET } from './s3-double.test.support.ts';
import { S3Tier } from './s3-tier.ts';
import type { S3Store } from './s3-store.ts';

/** mulberry32: the same numbers for the same seed. */
export function seeded(seed: number): Random {
  let state = seed >>> 0;
  const u32 = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
  return { u32, next: () => u32() / 2 ** 32, below: (bound) => u32() % bound, fork: (label) => seeded(seed * 31 + label.length) };
}

const silent: Logger = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {}, child: () => silent, isEnabled: () => false };

export function configOf(endpoint: string, more: Partial<S3TierConfig> = {}): S3TierConfig {
  const properties = (s3Tier.configSchema as { properties: Record<string, { default?: unknown }> }).properties;
  const defaults = Object.fromEntries(Object.entries(properties).map(([name, { default: value }]) => [name, value]));
  return { ...defaults, bucket: 'kv', endpoint, accessKeyId: ACCESS, secretAccessKey: SECRET, ...more } as S3TierConfig;
}

export interface TestHost extends KvTierHost {
  readonly gone: [string, KvRemovalReason][];
  readonly problems: (ErrorData | undefined)[];
  readonly moved: Record<'store' | 'load', number>;
}

export function hostOf(blockBytes: number, more: Partial<KvTierHost> = {}): TestHost {
  const gone: [string, KvRemovalReason][] = [];
  const problems: (ErrorData | undefined)[] = [];
  const moved = { store: 0, load: 0 };
  return {
    worker: 'demo/decode/0',
    modelFingerprint: 'model-a',
    layoutFingerprint: 'layout: f16 × 16',
    blockBytes,
    baseDir: '/',
    clock: realClock,
    log: silent,
    mover: undefined as never,
    order: () => undefined as never,
    quota: (_tenant, places) => places,
    removed: (hashes, count, reason) => {
      for (let i = 0; i < count; i++) gone.push([`${hashes[i * 2]},${hashes[i * 2 + 1]}`, reason]);
    },
    measured: (kind, blocks) => (moved[kind] += blocks),
    degraded: (problem) => void problems.push(problem),
    ...more,
    gone,
    problems,
    moved,
  };
}

const opened: KvTierStore[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((store) => store.close()));
});

export async function openStore(config: S3TierConfig, host: KvTierHost, env: Record<string, string> = {}): Promise<S3Store> {
  const store = await new S3Tier(config, seeded(7), { env, home: '/nowhere', read: () => undefined }).open(host);
  opened.push(store);
  return store;
}

/** Sequence hashes of a chain: every block of another `seed` differs, those of an equal one are the same. `fork`: from that block on another chain. */
export function chain(seed: number, blocks: number, fork = Infinity, salt = 0): Int32Array {
  const words = new Int32Array(blocks * 2);
  const other = salt * 1000 + (fork === Infinity ? 0 : fork);
  for (let i = 0; i < blocks; i++) {
    words[i * 2] = Math.imul(seed * 7919 + i + 1, 0x9e3779b1) ^ (i >= fork ? other : 0);
    words[i * 2 + 1] = Math.imul(seed + i * 104_729 + 3, 0x85ebca6b) ^ (i >= fork ? other * 31 : 0);
  }
  return words;
}

export function memoryOf(blocks: number, blockBytes: number, shared = true): KvMemory {
  const bytes = new Uint8Array(shared ? new SharedArrayBuffer(blocks * blockBytes) : new ArrayBuffer(blocks * blockBytes));
  return { segment: 0, blocks, blockStrideBytes: blockBytes, pieces: 1, pieceBytes: blockBytes, pieceStrideBytes: blockBytes, bytes };
}

/** The content that block `hash` has in these tests. */
export function fill(bytes: Uint8Array, lo: number, hi: number): void {
  for (let i = 0; i < bytes.length; i++) bytes[i] = Math.imul(lo + i, 2_654_435_761) >>> 24 ^ (hi & 255);
}

/** Rows `from` to `to` of a chain, with content (store) or without (load). */
export function batchOf(hashes: Int32Array, from: number, to: number, blockBytes: number, filled: boolean): KvBlockBatch {
  const count = to - from;
  const memory = memoryOf(Math.max(1, count), blockBytes);
  const parents = new Int32Array(count * 2);
  const checksums = new Int32Array(count * 2);
  for (let i = 0; i < count; i++) {
    const at = (from + i) * 2;
    if (at > 0) parents.set(hashes.subarray(at - 2, at), i * 2);
    if (!filled) continue;
    fill(memory.bytes!.subarray(i * blockBytes, (i + 1) * blockBytes), hashes[at]!, hashes[at + 1]!);
    checksums.set([hashes[at]! ^ 0x5a5a, hashes[at + 1]! ^ 0x1234], i * 2);
  }
  return { count, hashes: hashes.slice(from * 2, to * 2), parents, checksums, tenant: 0, memory, blocks: Int32Array.from({ length: count }, (_, i) => i), statuses: new Uint8Array(count).fill(255) };
}

/** Rows that came back Done with exactly the bytes and checksum that were stored. */
export function rightRows(batch: KvBlockBatch, blockBytes: number): number {
  let right = 0;
  const expected = new Uint8Array(blockBytes);
  for (let i = 0; i < batch.count; i++) {
    fill(expected, batch.hashes[i * 2]!, batch.hashes[i * 2 + 1]!);
    const bytes = batch.memory.bytes!.subarray(i * blockBytes, (i + 1) * blockBytes);
    if (batch.statuses[i] === 0 && batch.checksums[i * 2] === (batch.hashes[i * 2]! ^ 0x5a5a) && Buffer.compare(Buffer.from(bytes), Buffer.from(expected)) === 0) right++;
  }
  return right;
}

/** Milliseconds from now. */
export const DEADLINE_MS = 20_000;
export function stored(store: KvTierStore, batch: KvBlockBatch): Promise<number[]> {
  return new Promise((resolve) => void store.store(batch, () => resolve([...batch.statuses])));
}

export function loaded(store: KvTierStore, batch: KvBlockBatch, deadlineMs = DEADLINE_MS, started: (operation: KvOperation) => void = () => {}): Promise<number[]> {
  return new Promise((resolve) => started(store.load(batch, deadlineMs, () => resolve([...batch.statuses]))));
}

export function probed(store: KvTierStore, hashes: Int32Array, from = 0, deadlineMs = DEADLINE_MS): Promise<number> {
  return new Promise((resolve) => void store.probe!(hashes, from, deadlineMs, resolve));
}

export async function until(what: string, holds: () => boolean): Promise<void> {
  const endMs = performance.now() + DEADLINE_MS;
  while (!holds()) {
    if (performance.now() > endMs) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
