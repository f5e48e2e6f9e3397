import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { ArmatureError, TransferStatus } from '@armature/contracts';
import { blockDescriptors } from '@armature/nixel';
import { CopyLimit } from './copy-limit.ts';
import { openParty } from './party.ts';
import type { Party, TransportName } from './party.ts';
import type { TargetFacts, TargetFailure } from './target.ts';

const START_TIMEOUT_MS = 20_000;
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

/** Initiator and target as two processes, one transport. */
export class Pair {
  readonly #transport: TransportName;
  readonly #poolBytes: number;
  #party: Party | undefined;
  #child: ChildProcess | undefined;
  #target: TargetFacts | undefined;
  #limit: CopyLimit | undefined;

  constructor(transport: TransportName, poolBytes: number) {
    this.#transport = transport;
    this.#poolBytes = poolBytes;
    this.#party = undefined;
    this.#child = undefined;
    this.#target = undefined;
    this.#limit = undefined;
  }

  /** Throws `TRANSFER_NO_TRANSPORT`, `NIXELBENCH_TARGET_FAILED`. */
  async open(): Promise<void> {
    this.#party = await openParty('initiator', this.#transport, this.#poolBytes);
    const bin = fileURLToPath(new URL('../../../bin/armature.js', import.meta.url));
    this.#child = fork(bin, ['nixelbench', '--role', 'target', '--transport', this.#transport, '--pool', String(this.#poolBytes)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    const facts = await this.#hear<TargetFacts | TargetFailure>();
    if (facts.type === 'failed') throw new ArmatureError('NIXELBENCH_TARGET_FAILED', `the target process failed: ${facts.message}`, { hint: facts.hint ?? facts.code });
    this.#target = facts;
    this.#party.agent.addPeer(Buffer.from(facts.metadata, 'base64'));
    this.#child.send({ type: 'peer', metadata: Buffer.from(this.#party.agent.metadata()).toString('base64') });
    await this.#hear();
    this.#limit = CopyLimit.open(this.#party.segment.bytes, facts.fd >= 0 ? facts : undefined);
  }

  async close(): Promise<void> {
    await this.#party?.close();
    this.#child?.disconnect();
  }

  /** Blocks in random order on both sides; ours and memcpy take turns. */
  async measure(cell: Cell, seconds: number): Promise<Row> {
    const { direction, blockBytes, batch } = cell;
    const blocks = Math.floor(this.#poolBytes / blockBytes);
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
      const handle = this.#prepare(direction, blockBytes, local, remote);
      const cpu = process.cpuUsage();
      const started = process.hrtime.bigint();
      const status = await this.#post(handle);
      const took = Number(process.hrtime.bigint() - started) / 1e9;
      const used = process.cpuUsage(cpu);
      this.#agent.release(handle);
      if (status !== TransferStatus.Done) throw new ArmatureError('NIXELBENCH_TRANSFER_FAILED', `a ${direction} of ${batch} blocks over ${this.#transport} ended with status ${status}`);
      const copied = this.#limit?.run(direction, blockBytes, here.subarray(away, away + batch), there.subarray(away, away + batch));
      if (round < 0) continue; // the first ones connect and warm up
      rounds.push(took);
      cpuUs += used.user + used.system;
      if (copied !== undefined) copies.push(copied);
    }
    const bytes = batch * blockBytes;
    return {
      transport: this.#transport,
      ...cell,
      gbPerSecond: bytes / quantile(rounds, 0.5) / 1e9,
      p50Us: quantile(rounds, 0.5) * 1e6,
      p99Us: quantile(rounds, 0.99) * 1e6,
      cpuUs: cpuUs / rounds.length,
      rounds: rounds.length,
      memcpyGbPerSecond: copies.length === 0 ? undefined : bytes / quantile(copies, 0.5) / 1e9,
      memcpyOnSameMemory: this.#limit?.isSameMemory ?? false,
    };
  }

  get #agent(): Party['agent'] {
    return this.#open().agent;
  }

  #open(): Party {
    if (this.#party === undefined) throw new ArmatureError('NIXELBENCH_NOT_OPEN', 'the pair is not open');
    return this.#party;
  }

  #prepare(op: 'read' | 'write', blockBytes: number, local: Int32Array, remote: Int32Array): ReturnType<Party['agent']['prepare']> {
    const { agent, segment } = this.#open();
    const layout = { blockStrideBytes: blockBytes, pieces: 1, pieceBytes: blockBytes, pieceStrideBytes: blockBytes };
    const target = this.#target;
    return agent.prepare({ op, peer: target?.agent ?? '', local: blockDescriptors(segment.id, layout, local), remote: blockDescriptors(target?.segment ?? 0, layout, remote) });
  }

  #post(handle: ReturnType<Party['agent']['prepare']>): Promise<TransferStatus> {
    return new Promise((resolve) => this.#agent.post(handle, { deadlineMs: TRANSFER_TIMEOUT_MS }, resolve));
  }

  async #hear<T>(): Promise<T> {
    const child = this.#child;
    if (child === undefined) throw new ArmatureError('NIXELBENCH_TARGET_FAILED', 'there is no target process');
    const signal = AbortSignal.timeout(START_TIMEOUT_MS);
    const [message] = (await Promise.race([once(child, 'message', { signal }), once(child, 'exit', { signal }).then(() => [{ type: 'failed', code: 'EXIT', message: 'it ended' }])]).catch(() => [
      { type: 'failed', code: 'TIMEOUT', message: `it said nothing for ${START_TIMEOUT_MS / 1000} s` },
    ])) as [T];
    return message;
  }
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
