import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { Clock, KvArena, Logger, TransferTransport } from '@armature/contracts';
import { createAgent } from '@armature/nixel';
import type { Agent, PreparedList, TransferHandle } from '@armature/nixel';
import { registerArena } from './arena-segments.ts';
import type { KvMover, Pull } from './kv-mover.ts';
import { arenaBlocks, PullSources } from './pull-sources.ts';
import type { PullSource } from './pull-sources.ts';
import { RankConversion } from './rank-conversion.ts';

const MAX_PEERS = 4096;
/** Pulls from one peer that wait because the agent runs as many with it as it may; further ones end as Overloaded. */
const MAX_WAITING = 1024;

export interface AgentMoverOptions {
  readonly name: string;
  readonly incarnation: string;
  readonly arena: KvArena;
  /** All of them are used: per pull the one that can and is measured to be cheapest. */
  readonly transports: readonly TransferTransport[];
  readonly clock: Clock;
  readonly log: Logger;
  /** Transfers running with one peer. Default 1,024. */
  readonly maxRunningPerPeer?: number;
}

/** A worker's transfer agent, with the engine's arena as its first segments. */
export async function createArenaAgent(options: AgentMoverOptions): Promise<Agent> {
  const { arena, name, incarnation, transports, clock, log, maxRunningPerPeer = 1024 } = options;
  const agent = await createAgent({ name, incarnation, transports, clock, log, maxRunningPerPeer });
  try {
    registerArena(agent, arena, name);
    return agent;
  } catch (error) {
    await agent.close();
    throw error;
  }
}

/** The KvMover over such an agent, which it closes: the arena is listed once, a pull picks blocks from the lists of both sides. */
export function moverOf(agent: Agent, { arena, clock, log }: Pick<AgentMoverOptions, 'arena' | 'clock' | 'log'>): KvMover {
  return new AgentMover(agent, arena, clock, log);
}

/** An agent whose worker has no arena to pull into: peers read its other memory. Closes it. */
export function withoutArena(agent: Agent): KvMover {
  return {
    blockBytes: 0,
    metadata: () => agent.metadata(),
    pull: (...[, , , , done]) => {
      done(TransferStatus.NotSupported);
      return { cancel: () => undefined };
    },
    close: () => agent.close(),
  };
}

export async function createAgentMover(options: AgentMoverOptions): Promise<KvMover> {
  return moverOf(await createArenaAgent(options), options);
}

/** A pull until it has ended. */
class RunningPull {
  readonly source: PullSource;
  readonly handle: TransferHandle;
  readonly expiresAtMs: number;
  readonly done: (status: TransferStatus) => void;
  hasEnded = false;

  constructor(source: PullSource, handle: TransferHandle, expiresAtMs: number, done: (status: TransferStatus) => void) {
    this.source = source;
    this.handle = handle;
    this.expiresAtMs = expiresAtMs;
    this.done = done;
  }
}

class AgentMover implements KvMover {
  readonly blockBytes: number;
  readonly #agent: Agent;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #blocks: PreparedList;
  readonly #sources: PullSources;
  /** By peer: nothing of them was started. Each end of one that runs, which is within its deadline, starts one of them. */
  readonly #waiting = new Map<string, RunningPull[]>();
  #isClosed = false;

  constructor(agent: Agent, arena: KvArena, clock: Clock, log: Logger) {
    this.#agent = agent;
    this.#clock = clock;
    this.#log = log;
    this.blockBytes = arena.pieces * arena.pieceBytes;
    this.#blocks = arenaBlocks(agent, arena, undefined, arena.segments[0]!.lengthBytes);
    this.#sources = new PullSources(agent, arena, MAX_PEERS);
  }

  metadata(): Uint8Array {
    return this.#agent.metadata();
  }

  pull(peerMetadata: Uint8Array, remoteBlocks: Int32Array, localBlocks: Int32Array, deadlineMs: number, done: (status: TransferStatus) => void): Pull {
    let pull: RunningPull;
    try {
      const source = this.#sources.of(peerMetadata);
      pull = new RunningPull(source, this.#handle(source, remoteBlocks, localBlocks), this.#clock.nowMs() + deadlineMs, done);
    } catch (error) {
      const failure = ArmatureError.from(error, 'TRANSFER_FAILED');
      this.#log.warn('KV pull refused', { code: failure.code, message: failure.message });
      done(statusOf(failure.code));
      return { cancel: () => undefined };
    }
    this.#post(pull);
    return { cancel: () => this.#cancel(pull) };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const queue of this.#waiting.values()) for (const pull of queue.splice(0)) this.#end(pull, TransferStatus.Canceled);
    await this.#agent.close();
  }

  #handle({ name, blocks }: PullSource, remoteBlocks: Int32Array, localBlocks: Int32Array): TransferHandle {
    if (!(blocks instanceof RankConversion)) return this.#agent.make({ op: 'read', local: this.#blocks, localIndices: localBlocks, remote: blocks, remoteIndices: remoteBlocks });
    return this.#agent.prepare({ op: 'read', peer: name, ...blocks.descriptors(localBlocks, remoteBlocks), layout: 'converted' });
  }

  #post(pull: RunningPull): void {
    let isPosting = true;
    let isRefused = false;
    this.#agent.post(pull.handle, { deadlineMs: Math.max(0, pull.expiresAtMs - this.#clock.nowMs()) }, (status) => {
      // At once: the agent's own word, others run and one of them will end. Later: the owner's, about requests of whomever.
      isRefused = isPosting && status === TransferStatus.Overloaded;
      if (isRefused) return;
      this.#end(pull, status);
      this.#next(pull.source.name);
    });
    isPosting = false;
    if (isRefused) this.#wait(pull);
  }

  #wait(pull: RunningPull): void {
    const { name } = pull.source;
    let queue = this.#waiting.get(name);
    if (queue === undefined) this.#waiting.set(name, (queue = []));
    if (queue.length < MAX_WAITING && !this.#isClosed) queue.push(pull);
    else this.#end(pull, TransferStatus.Overloaded);
  }

  /** A transfer with the peer has ended: one that waits takes its place. */
  #next(peer: string): void {
    const queue = this.#waiting.get(peer);
    if (queue === undefined) return;
    const now = this.#clock.nowMs();
    let pull = queue.shift();
    while (pull !== undefined && now >= pull.expiresAtMs) {
      this.#end(pull, TransferStatus.TimedOut);
      pull = queue.shift();
    }
    if (queue.length === 0) this.#waiting.delete(peer);
    // Not from within the end of another: those that end at once would nest as deep as the queue is long.
    if (pull !== undefined) this.#clock.defer(() => this.#restart(pull));
  }

  #restart(pull: RunningPull): void {
    if (!pull.hasEnded) this.#post(pull);
    else this.#next(pull.source.name);
  }

  #cancel(pull: RunningPull): void {
    if (pull.hasEnded) return;
    const queue = this.#waiting.get(pull.source.name);
    const at = queue?.indexOf(pull) ?? -1;
    if (at >= 0) queue?.splice(at, 1);
    if (this.#agent.check(pull.handle) === TransferStatus.InProgress) this.#agent.cancel(pull.handle);
    else this.#end(pull, TransferStatus.Canceled);
  }

  #end(pull: RunningPull, status: TransferStatus): void {
    if (pull.hasEnded) return;
    pull.hasEnded = true;
    if (status === TransferStatus.Done) pull.source.hasWorked = true;
    if (status === TransferStatus.NotSupported) this.#log.warn('no transport moves KV blocks of this peer', { peer: pull.source.name, transports: this.#agent.transports().join(', ') });
    this.#agent.release(pull.handle);
    pull.done(status);
  }
}

/** What a refusal on the control path is to the caller of a pull. */
function statusOf(code: string): TransferStatus {
  switch (code) {
    case 'TRANSFER_PEER_UNREACHABLE':
    case 'TRANSFER_METADATA_VERSION':
    case 'TRANSFER_LAYOUT_MISMATCH':
    case 'TRANSFER_LAYOUT_SCATTERED':
      return TransferStatus.NotSupported;
    case 'TRANSFER_PEER_STALE':
      return TransferStatus.RemoteDisconnected;
    case 'TRANSFER_PEER_UNKNOWN':
      return TransferStatus.NotFound;
    default:
      return TransferStatus.InvalidDescriptor;
  }
}
