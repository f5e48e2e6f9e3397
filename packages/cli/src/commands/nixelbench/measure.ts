import { ArmatureError, TransferStatus } from '@armature/contracts';
import { blockDescriptors } from '@armature/nixel';
import type { TransferHandle } from '@armature/nixel';
import type { CopyLimit } from './copy-limit.ts';
import type { Party } from './party.ts';

const TRANSFER_TIMEOUT_MS = 30_000;
const MIN_ROUNDS = 10;

export interface Cell {
  readonly direction: 'read' | 'write';
  readonly blockBytes: number;
  readonly batch: number;
}

export interface Row extends Cell {
  readonly transport: string;
  /** Median over rounds, 1e9 bytes per second. */
  readonly gbPerSecond: number;
  /** Of one batch, from post to done. */
  readonly p50Us: number;
  readonly p99Us: number;
  /** CPU of this process per batch, of the whole transfer. */
  readonly cpuUs: number;
  readonly rounds: number;
  /** Undefined where memcpy cannot be called. */
  readonly memcpyGbPerSecond: number | undefined;
  /** memcpy ran on the memory of the target process itself. */
  readonly memcpyOnSameMemory: boolean;
}

/** Two sides of a transfer, ready. */
export interface Stage {
  readonly transport: string;
  readonly initiator: Party;
  /** The other side: its agent's name and its segment, as long as the initiator's. */
  readonly peer: string;
  readonly segment: number;
  readonly limit: CopyLimit | undefined;
  close(): Promise<void>;
}

/** Blocks in random order on both sides; ours and memcpy take turns. */
export async function measure(stage: Stage, cell: Cell, seconds: number): Promise<Row> {
  const { direction, blockBytes, batch } = cell;
  const { agent, segment } = stage.initiator;
  const blocks = Math.floor(segment.lengthBytes / blockBytes);
  const [here, there] = [shuffled(blocks, 1), shuffled(blocks, 2)];
  const rounds: number[] = [];
  const copies: number[] = [];
  let cpuUs = 0;
  const untilMs = performance.now() + seconds * 1000;
  for (let round = -2; round < MIN_ROUNDS || performance.now() < untilMs; round++) {
    const at = (Math.max(0, round) * batch) % Math.max(1, blocks - batch + 1);
    // memcpy gets other blocks, half the pool away: those we have just copied are in the cache.
    const away = (at + (blocks >> 1)) % Math.max(1, blocks - batch + 1);
    const local = here.subarray(at, at + batch);
    const remote = there.subarray(at, at + batch);
    const handle = prepare(stage, cell, local, remote);
    const cpu = process.cpuUsage();
    const started = process.hrtime.bigint();
    const status = await post(stage, handle);
    const took = Number(process.hrtime.bigint() - started) / 1e9;
    const used = process.cpuUsage(cpu);
    agent.release(handle);
    if (status !== TransferStatus.Done) throw new ArmatureError('NIXELBENCH_TRANSFER_FAILED', `a ${direction} of ${batch} blocks over ${stage.transport} ended with status ${status}`);
    const copied = stage.limit?.run(direction, blockBytes, here.subarray(away, away + batch), there.subarray(away, away + batch));
    if (round < 0) continue; // the first ones connect and warm up
    rounds.push(took);
    cpuUs += used.user + used.system;
    if (copied !== undefined) copies.push(copied);
  }
  const bytes = batch * blockBytes;
  return {
    transport: stage.transport,
    ...cell,
    gbPerSecond: bytes / quantile(rounds, 0.5) / 1e9,
    p50Us: quantile(rounds, 0.5) * 1e6,
    p99Us: quantile(rounds, 0.99) * 1e6,
    cpuUs: cpuUs / rounds.length,
    rounds: rounds.length,
    memcpyGbPerSecond: copies.length === 0 ? undefined : bytes / quantile(copies, 0.5) / 1e9,
    memcpyOnSameMemory: stage.limit?.isSameMemory ?? false,
  };
}

function prepare(stage: Stage, { direction, blockBytes }: Cell, local: Int32Array, remote: Int32Array): TransferHandle {
  const { agent, segment } = stage.initiator;
  const layout = { blockStrideBytes: blockBytes, pieces: 1, pieceBytes: blockBytes, pieceStrideBytes: blockBytes };
  return agent.prepare({ op: direction, peer: stage.peer, local: blockDescriptors(segment.id, layout, local), remote: blockDescriptors(stage.segment, layout, remote) });
}

function post(stage: Stage, handle: TransferHandle): Promise<TransferStatus> {
  return new Promise((resolve) => stage.initiator.agent.post(handle, { deadlineMs: TRANSFER_TIMEOUT_MS }, resolve));
}

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;
}

/** The same order in every run. */
function shuffled(count: number, seed: number): Int32Array {
  const order = Int32Array.from({ length: count }, (_, i) => i);
  let state = seed >>> 0;
  for (let i = count - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = state % (i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}
