import fs from 'node:fs';
import type { Clock, ErrorData, KvBlockBatch, KvMemory, KvRemovalReason, KvTierHost, Logger } from '@armature/contracts';
import { createAgent, FileTransport, MemoryTransport } from '@armature/nixel';
import { realClock } from '@armature/contracts/testing/real-clock';
import { BlockMover } from '../mover/block-mover.ts';
import { LruOrder } from '../policy/lru-order.ts';
import type { DiskTierConfig } from './disk-config.ts';
import type { DiskIo } from './disk-io.ts';
import type { DiskStore } from './disk-store.ts';
import { DiskTier } from './disk-tier.ts';

export interface RigOptions {
  readonly config: DiskTierConfig;
  readonly blockBytes: number;
  readonly model?: string;
  readonly layout?: string;
  readonly worker?: string;
  /** Blocks of memory on the other side. */
  readonly memoryBlocks?: number;
  readonly io?: DiskIo;
  /** System calls of the file transport. */
  readonly fileIo?: object;
  readonly clock?: Clock;
}

/** A disk tier with a real agent, mover and memory, and what it told its host. */
export interface Rig {
  readonly store: DiskStore;
  readonly memory: KvMemory;
  readonly bytes: Uint8Array;
  readonly logs: { readonly level: string; readonly message: string; readonly code: unknown }[];
  readonly problems: (ErrorData | undefined)[];
  readonly removed: { readonly lo: number; readonly hi: number; readonly reason: KvRemovalReason }[];
  readonly measured: { kind: string; blocks: number; bytes: number; milliseconds: number }[];
  block(index: number): Uint8Array;
  batch(rows: readonly { readonly hash: readonly [number, number]; readonly parent?: readonly [number, number]; readonly checksum?: readonly [number, number]; readonly block: number }[]): KvBlockBatch;
  run(kind: 'store' | 'load', batch: KvBlockBatch, deadlineMs?: number): Promise<number[]>;
  close(): Promise<void>;
}

let rigs = 0;

/** WebAssembly memory lies on pages everywhere: good for direct I/O. */
function alignedBytes(lengthBytes: number): Uint8Array {
  const { Memory } = (globalThis as unknown as { WebAssembly: { Memory: new (options: object) => { buffer: ArrayBuffer } } }).WebAssembly;
  const pages = Math.ceil(lengthBytes / 65_536);
  return new Uint8Array(new Memory({ initial: pages, maximum: pages }).buffer, 0, lengthBytes);
}

export async function openRig(options: RigOptions): Promise<Rig> {
  const { config, blockBytes, memoryBlocks = 64, io = fs, clock = realClock, fileIo } = options;
  const logs: Rig['logs'] = [];
  const at = (level: string) => (message: string, fields?: Readonly<Record<string, unknown>>) => void logs.push({ level, message, code: fields?.['code'] });
  const log: Logger = { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error'), child: () => log, isEnabled: () => true };
  const agent = await createAgent({ name: `disk-rig-${++rigs}`, clock: realClock, log, transports: [new MemoryTransport({ clock: realClock }), new FileTransport({ clock: realClock, log, ...(fileIo === undefined ? {} : { io: fileIo as never }) })] });
  const mover = new BlockMover({ agent, clock: realClock });
  const bytes = alignedBytes(memoryBlocks * blockBytes);
  const memory = mover.registerMemory({ bytes }, { blocks: memoryBlocks, blockStrideBytes: blockBytes, pieces: 1, pieceBytes: blockBytes, pieceStrideBytes: blockBytes });
  const problems: Rig['problems'] = [];
  const removed: Rig['removed'] = [];
  const measured: Rig['measured'] = [];
  const host: KvTierHost = {
    worker: options.worker ?? 'demo/decode/0',
    modelFingerprint: options.model ?? 'model-1',
    layoutFingerprint: options.layout ?? 'layout-1',
    blockBytes,
    baseDir: '/',
    clock,
    log,
    mover,
    order: (places) => new LruOrder(places),
    quota: (_tenant, places) => places,
    removed: (hashes, count, reason) => {
      for (let i = 0; i < count; i++) removed.push({ lo: hashes[2 * i]!, hi: hashes[2 * i + 1]!, reason });
    },
    measured: (kind, blocks, moved, milliseconds) => measured.push({ kind, blocks, bytes: moved, milliseconds }),
    degraded: (problem) => problems.push(problem),
  };
  const release = async (): Promise<void> => {
    mover.close();
    await agent.close();
  };
  const store = await new DiskTier(config, io).open(host).catch(async (error: unknown) => {
    await release();
    throw error;
  });
  return {
    store,
    memory,
    bytes,
    logs,
    problems,
    removed,
    measured,
    block: (index) => bytes.subarray(index * blockBytes, (index + 1) * blockBytes),
    batch: (rows) => ({
      count: rows.length,
      hashes: Int32Array.from(rows.flatMap(({ hash }) => hash)),
      parents: Int32Array.from(rows.flatMap(({ parent }) => parent ?? [0, 0])),
      checksums: Int32Array.from(rows.flatMap(({ checksum }) => checksum ?? [0, 0])),
      tenant: 0,
      memory,
      blocks: Int32Array.from(rows, ({ block }) => block),
      statuses: new Uint8Array(rows.length).fill(255),
    }),
    run: (kind, batch, deadlineMs = 30_000) =>
      new Promise((resolve) => {
        const done = (): void => resolve([...batch.statuses]);
        if (kind === 'store') store.store(batch, done);
        else store.load(batch, deadlineMs, done);
      }),
    close: async () => {
      await store.close();
      await release();
    },
  };
}
