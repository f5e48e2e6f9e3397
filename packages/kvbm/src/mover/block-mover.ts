import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { Clock, KvBlockMover, KvMemory, KvMemoryLayout, KvOperation, SegmentLocation, Timer } from '@armature/contracts';
import type { Agent, PreparedList, TransferHandle } from '@armature/nixel';
import { assertLayout, isLayout } from './layout.ts';
import { isByteMemory, TurnCopies, TurnCopy } from './turn-copies.ts';

export interface BlockMoverOptions {
  /** Moves what the CPU cannot: files, device memory. Its owner closes it, after the mover. */
  readonly agent: Agent;
  readonly clock: Clock;
  /** Bytes that memory copies may move in one turn of the event loop, all together. Default 1 MiB. */
  readonly turnBytes?: number;
  /** Transfers given to the agent at once; more wait. Default 64. */
  readonly maxRunning?: number;
  /** Copies that wait, of each kind; more end as Overloaded at once. Default 1,024. */
  readonly maxWaiting?: number;
}

/** Counts since creation. */
export interface BlockMoverCounters {
  readonly memoryCopies: number;
  /** Turns of the event loop in which memory copies moved bytes. */
  readonly turns: number;
  readonly transfers: number;
  /** Copies refused because too many wait. */
  readonly refused: number;
  /** Times that the agent had no room and a transfer went back to the queue. */
  readonly retries: number;
}

/** How long to wait for the agent when nothing of ours will end. */
const RETRY_MS = 2;

/** The two lists of one memory, as local and as remote side. */
interface Lists {
  readonly local: PreparedList;
  readonly remote: PreparedList;
}

/**
 * Copies blocks between registered memories of one worker. Between two memories that the CPU can touch it copies itself (`TurnCopies`): the agent's memory
 * transport does the same `set` after making, checking and estimating a transfer of each piece, which costs as much again for pieces of a
 * few KiB (README, Cost). Everything else is one transfer of the agent with itself: file, CUDA or NIXL transport, whichever can.
 */
export class BlockMover implements KvBlockMover {
  readonly #agent: Agent;
  readonly #clock: Clock;
  readonly #maxRunning: number;
  readonly #maxWaiting: number;
  readonly #copies: TurnCopies;
  readonly #forgetListener: () => void;
  /** Memories whose layout was checked; and their lists, until a segment of the agent comes or goes. */
  #known: WeakSet<KvMemory>;
  #lists: WeakMap<KvMemory, Lists>;
  readonly #running: Set<AgentCopy>;
  readonly #waiting: AgentCopy[];
  #isRetrying: boolean;
  /** Set while copies wait: for the first of them whose time is over. */
  #expiry: Timer | undefined;
  #isClosed: boolean;
  #memoryCopies: number;
  #transfers: number;
  #refused: number;
  #retries: number;

  constructor(options: BlockMoverOptions) {
    const { agent, clock, turnBytes = 1 << 20, maxRunning = 64, maxWaiting = 1024 } = options;
    this.#agent = agent;
    this.#clock = clock;
    this.#maxRunning = maxRunning;
    this.#maxWaiting = maxWaiting;
    this.#copies = new TurnCopies(clock, turnBytes);
    this.#known = new WeakSet();
    this.#lists = new WeakMap();
    this.#running = new Set();
    this.#waiting = [];
    this.#isRetrying = false;
    this.#expiry = undefined;
    this.#isClosed = false;
    this.#memoryCopies = 0;
    this.#transfers = 0;
    this.#refused = 0;
    this.#retries = 0;
    this.#forgetListener = agent.onSegmentsChanged(() => {
      this.#known = new WeakSet();
      this.#lists = new WeakMap();
    });
  }

  counters(): BlockMoverCounters {
    return { memoryCopies: this.#memoryCopies, turns: this.#copies.turns, transfers: this.#transfers, refused: this.#refused, retries: this.#retries };
  }

  registerMemory({ bytes, location }: { readonly bytes: Uint8Array; readonly location?: Extract<SegmentLocation, { type: 'shared' }> }, layout: KvMemoryLayout): KvMemory {
    assertLayout(layout, bytes.length);
    const { id } = this.#agent.register({
      buffer: bytes.buffer,
      byteOffset: bytes.byteOffset,
      lengthBytes: bytes.length,
      access: 'peers-read',
      ...(location === undefined ? {} : { location }),
    });
    return memoryOf(id, bytes, layout);
  }

  registerFile(file: { readonly path: string; readonly fd: number; readonly direct: boolean }, lengthBytes: number, layout: KvMemoryLayout): KvMemory {
    assertLayout(layout, lengthBytes);
    const { id } = this.#agent.register({ location: { type: 'file', path: file.path, fd: file.fd, direct: file.direct }, lengthBytes, access: 'granted' });
    return memoryOf(id, undefined, layout);
  }

  view(memory: KvMemory, layout: KvMemoryLayout): KvMemory {
    assertLayout(layout, this.#lengthOf(memory));
    return memoryOf(memory.segment, memory.bytes, layout, memory.wasm);
  }

  deregister({ segment }: KvMemory): void {
    if (this.#copies.uses(segment) || this.#waiting.some(({ from, to }) => from.segment === segment || to.segment === segment)) {
      throw new ArmatureError('TRANSFER_SEGMENT_BUSY', `segment ${segment} is used by a copy that has not ended`, { hint: 'cancel it and wait for its status' });
    }
    this.#agent.deregister(segment);
  }

  copy(from: KvMemory, fromBlocks: Int32Array, to: KvMemory, toBlocks: Int32Array, deadlineMs: number, done: (status: TransferStatus) => void): KvOperation {
    const refused = this.#refusal(from, fromBlocks, to, toBlocks);
    if (refused !== TransferStatus.Done || fromBlocks.length === 0) {
      done(refused);
      return ENDED;
    }
    const copy = { fromBlocks: fromBlocks.slice(), toBlocks: toBlocks.slice(), expiresAtMs: this.#clock.nowMs() + deadlineMs, done };
    if (isByteMemory(from) && isByteMemory(to)) {
      const memoryCopy = new TurnCopy({ ...copy, from, to });
      this.#memoryCopies++;
      this.#copies.add(memoryCopy);
      return memoryCopy;
    }
    const agentCopy = new AgentCopy({ ...copy, from, to, onCancel: (canceled) => this.#cancel(canceled) });
    this.#waiting.push(agentCopy);
    this.#pump();
    this.#watch();
    return agentCopy;
  }

  /** Cancels every copy; each still calls `done`. Registered memory stays the owners'. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#forgetListener();
    this.#copies.cancelAll();
    for (const copy of [...this.#waiting, ...this.#running]) copy.cancel();
  }

  #refusal(from: KvMemory, fromBlocks: Int32Array, to: KvMemory, toBlocks: Int32Array): TransferStatus {
    if (this.#isClosed) return TransferStatus.Canceled;
    if (!this.#isKnown(from) || !this.#isKnown(to)) return TransferStatus.NotFound;
    if (from.pieces !== to.pieces || from.pieceBytes !== to.pieceBytes || fromBlocks.length !== toBlocks.length) return TransferStatus.InvalidDescriptor;
    if (!areBlocks(fromBlocks, from.blocks) || !areBlocks(toBlocks, to.blocks)) return TransferStatus.InvalidDescriptor;
    if ((isByteMemory(from) && isByteMemory(to) ? this.#copies.waiting : this.#waiting.length) < this.#maxWaiting) return TransferStatus.Done;
    this.#refused++;
    return TransferStatus.Overloaded;
  }

  /** Registered with the agent, and laid out inside its segment. Looked at once per memory. */
  #isKnown(memory: KvMemory): boolean {
    if (this.#known.has(memory)) return true;
    const registered = this.#agent.peerSegmentBytes(this.#agent.name, memory.segment);
    if (registered === undefined || !isLayout(memory, Math.min(registered, memory.bytes?.length ?? registered))) return false;
    this.#known.add(memory);
    return true;
  }

  #lengthOf({ segment, bytes }: KvMemory): number {
    return bytes?.length ?? this.#agent.peerSegmentBytes(this.#agent.name, segment) ?? 0;
  }

  #pump(): void {
    while (this.#waiting.length > 0 && this.#running.size < this.#maxRunning && !this.#isRetrying) this.#start(this.#waiting.shift()!);
  }

  #start(copy: AgentCopy): void {
    const leftMs = copy.expiresAtMs - this.#clock.nowMs();
    if (leftMs <= 0) {
      copy.done(TransferStatus.TimedOut);
      return;
    }
    try {
      copy.handle = this.#make(copy);
    } catch {
      // Checked before: what is left is a segment that went meanwhile.
      copy.done(TransferStatus.NotFound);
      return;
    }
    this.#running.add(copy);
    this.#transfers++;
    this.#agent.post(copy.handle, { deadlineMs: leftMs }, (status) => this.#ended(copy, status));
  }

  /** `write` where the CPU cannot touch the target: so that the agent's counters say what the medium did. */
  #make({ from, fromBlocks, to, toBlocks }: AgentCopy): TransferHandle {
    if (isByteMemory(to)) return this.#agent.make({ op: 'read', local: this.#listsOf(to).local, localIndices: toBlocks, remote: this.#listsOf(from).remote, remoteIndices: fromBlocks });
    return this.#agent.make({ op: 'write', local: this.#listsOf(from).local, localIndices: fromBlocks, remote: this.#listsOf(to).remote, remoteIndices: toBlocks });
  }

  #listsOf(memory: KvMemory): Lists {
    let lists = this.#lists.get(memory);
    if (lists === undefined) {
      const { segment, blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes } = memory;
      const source = { segment, blocks, layout: { blockStrideBytes, pieces, pieceBytes, pieceStrideBytes } };
      lists = { local: this.#agent.prepareList(source), remote: this.#agent.prepareList({ ...source, peer: this.#agent.name }) };
      this.#lists.set(memory, lists);
    }
    return lists;
  }

  #ended(copy: AgentCopy, status: TransferStatus): void {
    this.#running.delete(copy);
    if (copy.handle !== undefined) this.#agent.release(copy.handle);
    copy.handle = undefined;
    if (status === TransferStatus.Overloaded && !copy.isCanceled) {
      this.#retry(copy);
      return;
    }
    copy.done(status === TransferStatus.Overloaded ? TransferStatus.Canceled : status);
    this.#pump();
  }

  /** Others keep the agent busy: this copy stays the next one; all wait a moment, within their deadlines. */
  #retry(copy: AgentCopy): void {
    this.#retries++;
    this.#waiting.unshift(copy);
    if (this.#isRetrying) return;
    this.#isRetrying = true;
    this.#clock.setTimer(RETRY_MS, () => {
      this.#isRetrying = false;
      this.#pump();
    });
  }

  /** What runs has its deadline from the agent; a disk that hangs may keep it from ending, but not those that wait behind it. */
  #watch(): void {
    if (this.#expiry !== undefined || this.#waiting.length === 0) return;
    let firstMs = Infinity;
    for (const { expiresAtMs } of this.#waiting) firstMs = Math.min(firstMs, expiresAtMs);
    this.#expiry = this.#clock.setTimer(Math.max(RETRY_MS, firstMs - this.#clock.nowMs()), () => {
      this.#expiry = undefined;
      const nowMs = this.#clock.nowMs();
      const expired = this.#waiting.filter(({ expiresAtMs }) => expiresAtMs <= nowMs);
      for (const copy of expired) this.#leave(copy, TransferStatus.TimedOut);
      this.#watch();
    });
  }

  #leave(copy: AgentCopy, status: TransferStatus): void {
    const at = this.#waiting.indexOf(copy);
    if (at < 0) return;
    this.#waiting.splice(at, 1);
    copy.done(status);
  }

  #cancel(copy: AgentCopy): void {
    if (copy.handle !== undefined) this.#agent.cancel(copy.handle);
    else this.#leave(copy, TransferStatus.Canceled);
  }
}

/** A copy by the agent: waiting (no handle) or posted. */
class AgentCopy implements KvOperation {
  readonly from: KvMemory;
  readonly fromBlocks: Int32Array;
  readonly to: KvMemory;
  readonly toBlocks: Int32Array;
  readonly expiresAtMs: number;
  readonly done: (status: TransferStatus) => void;
  readonly #onCancel: (copy: AgentCopy) => void;
  handle: TransferHandle | undefined;
  isCanceled: boolean;

  constructor(copy: Pick<AgentCopy, 'from' | 'fromBlocks' | 'to' | 'toBlocks' | 'expiresAtMs' | 'done'> & { readonly onCancel: (copy: AgentCopy) => void }) {
    this.from = copy.from;
    this.fromBlocks = copy.fromBlocks;
    this.to = copy.to;
    this.toBlocks = copy.toBlocks;
    this.expiresAtMs = copy.expiresAtMs;
    this.done = copy.done;
    this.#onCancel = copy.onCancel;
    this.handle = undefined;
    this.isCanceled = false;
  }

  cancel(): void {
    if (this.isCanceled) return;
    this.isCanceled = true;
    this.#onCancel(this);
  }
}

const ENDED: KvOperation = { cancel: () => undefined };

function areBlocks(blocks: Int32Array, count: number): boolean {
  for (let i = 0; i < blocks.length; i++) if (!(blocks[i]! >= 0 && blocks[i]! < count)) return false;
  return true;
}

function memoryOf(segment: number, bytes: Uint8Array | undefined, layout: KvMemoryLayout, wasm?: object): KvMemory {
  const { blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes } = layout;
  return { segment, bytes, blocks, blockStrideBytes, pieces, pieceBytes, pieceStrideBytes, ...(wasm === undefined ? {} : { wasm }) };
}
