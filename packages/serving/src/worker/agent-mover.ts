import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { Clock, KvArena, Logger, TransferTransport } from '@armature/contracts';
import { createAgent, decodeMetadata, layoutDifferences } from '@armature/nixel';
import type { Agent, PreparedList, TransferHandle } from '@armature/nixel';
import type { KvMover, Pull } from './kv-mover.ts';

/** Peers whose metadata is remembered; the one unused for longest is forgotten (and read again when it comes back). */
const MAX_PEERS = 4096;
/** Pulls that wait because the agent runs as many with one peer as it may; further ones end as Overloaded. */
const MAX_WAITING = 4096;
/** By convention the KV arena is the first segment that a worker's agent registers. */
const ARENA_SEGMENT = 1;

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

/** The KvMover over a nixel agent: the engine's arena is registered and listed once, a pull picks blocks from the lists of both sides. */
export async function createAgentMover(options: AgentMoverOptions): Promise<KvMover> {
  const { arena, name, incarnation, transports, clock, log, maxRunningPerPeer = 1024 } = options;
  const segment = arena.segments[0];
  if (segment === undefined) throw new ArmatureError('SERVING_ARENA_EMPTY', `engine of ${name} has an empty KV arena`);
  const agent = await createAgent({ name, incarnation, transports, clock, log, maxRunningPerPeer });
  const { layout } = arena;
  try {
    agent.register({ ...segment, access: 'peers-read', ...(layout === undefined ? {} : { layout }) });
    return new AgentMover(agent, arena, clock, log);
  } catch (error) {
    await agent.close();
    throw error;
  }
}

/** One life of a peer, as its metadata told it. */
interface Source {
  readonly name: string;
  readonly incarnation: string;
  /** Its arena's blocks; undefined: they lie differently there, and are converted on the way. */
  readonly blocks: PreparedList | undefined;
}

class Waiting {
  readonly handle: TransferHandle;
  readonly expiresAtMs: number;
  readonly done: (status: TransferStatus) => void;
  hasEnded = false;

  constructor(handle: TransferHandle, expiresAtMs: number, done: (status: TransferStatus) => void) {
    this.handle = handle;
    this.expiresAtMs = expiresAtMs;
    this.done = done;
  }
}

class AgentMover implements KvMover {
  readonly blockBytes: number;
  readonly #agent: Agent;
  readonly #arena: KvArena;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #blocks: PreparedList;
  /** By metadata bytes, which are a constant of a peer's life; in order of use. */
  readonly #sources = new Map<string, Source>();
  /** Nothing was started yet. They go on when one that runs has ended, which is within the deadline that all have. */
  #waiting: Waiting[] = [];
  #isClosed = false;

  constructor(agent: Agent, arena: KvArena, clock: Clock, log: Logger) {
    this.#agent = agent;
    this.#arena = arena;
    this.#clock = clock;
    this.#log = log;
    this.blockBytes = arena.pieces * arena.pieceBytes;
    this.#blocks = this.#list(undefined, arena.segments[0]!.lengthBytes);
  }

  metadata(): Uint8Array {
    return this.#agent.metadata();
  }

  pull(peerMetadata: Uint8Array, remoteBlocks: Int32Array, localBlocks: Int32Array, deadlineMs: number, done: (status: TransferStatus) => void): Pull {
    let pull: Waiting;
    try {
      pull = new Waiting(this.#handle(this.#source(peerMetadata), remoteBlocks, localBlocks), this.#clock.nowMs() + deadlineMs, done);
    } catch (error) {
      const failure = ArmatureError.from(error, 'TRANSFER_FAILED');
      this.#log.warn('KV pull refused', { code: failure.code, message: failure.message });
      done(statusOf(failure.code));
      return { cancel: () => undefined };
    }
    this.#post(pull);
    return { cancel: () => this.#cancel(pull) };
  }

  close(): Promise<void> {
    this.#isClosed = true;
    for (const pull of this.#waiting.splice(0)) this.#end(pull, TransferStatus.Canceled);
    return this.#agent.close();
  }

  #handle(source: Source, remoteBlocks: Int32Array, localBlocks: Int32Array): TransferHandle {
    const { name, blocks } = source;
    if (blocks !== undefined) return this.#agent.make({ op: 'read', local: this.#blocks, localIndices: localBlocks, remote: blocks, remoteIndices: remoteBlocks });
    const [local, remote] = [localBlocks, remoteBlocks].map((picked) => ({ segment: ARENA_SEGMENT, blocks: picked })) as [{ segment: number; blocks: Int32Array }, { segment: number; blocks: Int32Array }];
    return this.#agent.prepareBlocks({ op: 'read', peer: name, local, remote });
  }

  #post(pull: Waiting): void {
    const deadlineMs = pull.expiresAtMs - this.#clock.nowMs();
    if (deadlineMs <= 0) {
      this.#end(pull, TransferStatus.TimedOut);
      return;
    }
    let isRefused = true;
    const status = this.#agent.post(pull.handle, { deadlineMs }, (ended) => {
      if (ended === TransferStatus.Overloaded) return;
      isRefused = false;
      this.#end(pull, ended);
      this.#next();
    });
    if (status !== TransferStatus.Overloaded || !isRefused) return;
    if (this.#waiting.length < MAX_WAITING && !this.#isClosed) this.#waiting.push(pull);
    else this.#end(pull, TransferStatus.Overloaded);
  }

  /** A transfer has ended: as many of those that wait as may now. */
  #next(): void {
    const waiting = this.#waiting;
    if (waiting.length === 0) return;
    this.#waiting = [];
    for (const pull of waiting) if (!pull.hasEnded) this.#post(pull);
  }

  #cancel(pull: Waiting): void {
    const at = this.#waiting.indexOf(pull);
    if (at < 0) {
      this.#agent.cancel(pull.handle);
      return;
    }
    this.#waiting.splice(at, 1);
    this.#end(pull, TransferStatus.Canceled);
  }

  #end(pull: Waiting, status: TransferStatus): void {
    if (pull.hasEnded) return;
    pull.hasEnded = true;
    this.#agent.release(pull.handle);
    if (status === TransferStatus.NotSupported) this.#log.warn('no transport moves KV blocks of this peer', { peer: pull.handle.peer, transports: this.#agent.transports().join(', ') });
    pull.done(status);
  }

  #source(metadata: Uint8Array): Source {
    const key = Buffer.from(metadata.buffer, metadata.byteOffset, metadata.byteLength).toString('latin1');
    const known = this.#sources.get(key);
    const source = known ?? this.#learn(metadata);
    this.#sources.delete(key);
    this.#sources.set(key, source);
    // Blocks of an earlier life are not to be looked for in the one that followed it.
    if (known !== undefined && this.#agent.peerIncarnation(source.name) !== source.incarnation) {
      throw new ArmatureError('TRANSFER_PEER_STALE', `agent "${source.name}" has begun another life`, { hint: 'ask the worker that runs now' });
    }
    if (this.#sources.size > MAX_PEERS) this.#forgetOldest();
    return source;
  }

  #learn(metadata: Uint8Array): Source {
    const { incarnation } = decodeMetadata(metadata);
    const name = this.#agent.addPeer(metadata);
    const here = this.#arena.layout;
    const there = this.#agent.peerSegmentLayout(name, ARENA_SEGMENT);
    const converts = here !== undefined && there !== undefined && layoutDifferences(here, there).length > 0;
    return { name, incarnation, blocks: converts ? undefined : this.#list(name, this.#agent.peerSegmentBytes(name, ARENA_SEGMENT) ?? 0) };
  }

  #forgetOldest(): void {
    for (const [key, { name, incarnation }] of this.#sources) {
      this.#sources.delete(key);
      const isNamed = [...this.#sources.values()].some((other) => other.name === name);
      if (!isNamed && this.#agent.peerIncarnation(name) === incarnation) this.#agent.removePeer(name);
      return;
    }
  }

  /** All blocks that lie in `lengthBytes` of an arena like this one. */
  #list(peer: string | undefined, lengthBytes: number): PreparedList {
    const { blockStrideBytes, pieces, pieceBytes, pieceStrideBytes } = this.#arena;
    const rest = lengthBytes - (pieces - 1) * pieceStrideBytes - pieceBytes;
    const blocks = rest < 0 ? 0 : Math.floor(rest / blockStrideBytes) + 1;
    const layout = { blockStrideBytes, pieces, pieceBytes, pieceStrideBytes };
    return this.#agent.prepareList({ ...(peer === undefined ? {} : { peer }), segment: ARENA_SEGMENT, layout, blocks });
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
