import { KvBlockStatus, TransferStatus } from '@armature/contracts';
import type { Clock, KvBlockBatch, KvOperation, Logger, Timer } from '@armature/contracts';
import { blockDescriptors } from '@armature/nixel';
import type { Agent, TransferHandle } from '@armature/nixel';
import type { KvLoan, KvPeer, KvPeerCalls } from './face.ts';
import type { BlockSource } from './host-loads.ts';
import type { SourceCost } from './source-cost.ts';

/** A loan is asked for so long; renewed at a third of it while the read runs. */
const LOAN_TTL_MS = 10_000;

export interface PeerAccess {
  readonly agent: Agent;
  readonly calls: KvPeerCalls;
  readonly clock: Clock;
  readonly log: Logger;
  readonly blockBytes: number;
}

/** The host blocks of one peer: borrowed, read by the agent, used only when the loan was valid to the end. */
export class PeerSource implements BlockSource {
  readonly name = 'peer';
  readonly cost: SourceCost;
  readonly #peer: KvPeer;
  readonly #access: PeerAccess;

  constructor(peer: KvPeer, cost: SourceCost, access: PeerAccess) {
    this.#peer = peer;
    this.cost = cost;
    this.#access = access;
  }

  load(batch: KvBlockBatch, deadlineMs: number, done: () => void): KvOperation {
    const read = new PeerRead(this.#peer, this.#access, batch, deadlineMs, done);
    read.start();
    return read;
  }

  /** Its owner finds out when it reads them itself: what was wrong may as well be the way. */
  corrupt(): void {
    this.#access.log.warn('a peer lent KV blocks that are not what was stored', { code: 'KVBM_PEER_CORRUPT', peer: this.#peer.instanceId });
  }
}

/** Borrow, read, settle. Ends once; its host blocks are not touched any more then, and its loan is given back or runs out by itself. */
class PeerRead implements KvOperation {
  readonly #peer: KvPeer;
  readonly #access: PeerAccess;
  readonly #batch: KvBlockBatch;
  readonly #expiresAtMs: number;
  readonly #done: () => void;
  #handle: TransferHandle | undefined = undefined;
  #renewal: Timer | undefined = undefined;
  #limit: Timer | undefined = undefined;
  #isCanceled = false;
  #isOver = false;

  constructor(peer: KvPeer, access: PeerAccess, batch: KvBlockBatch, deadlineMs: number, done: () => void) {
    this.#peer = peer;
    this.#access = access;
    this.#batch = batch;
    this.#expiresAtMs = access.clock.nowMs() + deadlineMs;
    this.#done = done;
  }

  start(): void {
    const { calls, clock } = this.#access;
    const { hashes, parents, count } = this.#batch;
    // With the block before them: what the lender brings up for this keeps its place in its prompt.
    const before = parents[0] === 0 && parents[1] === 0 ? 0 : 1;
    const asked = new Int32Array(2 * (before + count));
    asked.set(parents.subarray(0, 2 * before));
    asked.set(hashes.subarray(0, 2 * count), 2 * before);
    this.#limit = clock.setTimer(this.#leftMs(), () => this.cancel());
    calls.borrow(this.#peer.address, asked, before, before + count, LOAN_TTL_MS, this.#leftMs(), (loan) => {
      if (loan === undefined) this.#end(this.#isCanceled ? KvBlockStatus.Canceled : KvBlockStatus.Missing, 0);
      else if (this.#isOver || this.#isCanceled) this.#giveBack(loan, KvBlockStatus.Canceled);
      else this.#read(loan);
    });
  }

  /** While bytes may come, only the agent ends it; else at once: a loan that still arrives goes back. */
  cancel(): void {
    if (this.#isOver || this.#isCanceled) return;
    this.#isCanceled = true;
    if (this.#handle === undefined) this.#end(KvBlockStatus.Canceled, 0);
    else this.#access.agent.cancel(this.#handle);
  }

  #read(loan: KvLoan): void {
    const { agent, calls, clock, log } = this.#access;
    const handle = this.#prepare(loan);
    if (handle === undefined) return this.#giveBack(loan, KvBlockStatus.Failed);
    this.#handle = handle;
    const renew = (): void => {
      calls.renew(this.#peer.address, loan.lease, LOAN_TTL_MS);
      this.#renewal = clock.setTimer(LOAN_TTL_MS / 3, renew);
    };
    this.#renewal = clock.setTimer(LOAN_TTL_MS / 3, renew);
    agent.post(handle, { deadlineMs: this.#leftMs() }, (status) => {
      agent.release(handle);
      this.#handle = undefined;
      if (status === TransferStatus.Done && !this.#isCanceled) return this.#settle(loan);
      if (status !== TransferStatus.Canceled) log.debug('reading KV blocks of a peer failed', { peer: this.#peer.instanceId, status });
      this.#giveBack(loan, status === TransferStatus.Canceled || status === TransferStatus.TimedOut || this.#isCanceled ? KvBlockStatus.Canceled : KvBlockStatus.Failed);
    });
  }

  /** Undefined: the loan does not fit what is known of the peer's memory. */
  #prepare(loan: KvLoan): TransferHandle | undefined {
    const { agent, blockBytes, log } = this.#access;
    const { memory, blocks, count } = this.#batch;
    const rows = loan.blocks.length;
    if (loan.lengthBytes !== blockBytes || rows === 0 || rows > count || loan.checksums.length !== 2 * rows) return undefined;
    const whole = (blockStrideBytes: number): { blockStrideBytes: number; pieces: 1; pieceBytes: number; pieceStrideBytes: number } => ({ blockStrideBytes, pieces: 1, pieceBytes: blockBytes, pieceStrideBytes: blockBytes });
    try {
      const peer = agent.addPeer(this.#peer.agentMetadata);
      return agent.prepare({
        op: 'read',
        peer,
        local: blockDescriptors(memory.segment, whole(memory.blockStrideBytes), blocks.subarray(0, rows)),
        remote: blockDescriptors(loan.segment, whole(loan.blockStrideBytes), loan.blocks),
      });
    } catch (error) {
      log.warn('KV blocks of a peer cannot be read', { peer: this.#peer.instanceId, reason: String(error) });
      return undefined;
    }
  }

  /** Only what was untouched until now may be used. */
  #settle(loan: KvLoan): void {
    this.#access.calls.settle(this.#peer.address, loan.lease, (isValid) => {
      if (!isValid || this.#isOver) return this.#end(this.#isCanceled ? KvBlockStatus.Canceled : KvBlockStatus.Missing, 0);
      this.#batch.checksums.set(loan.checksums);
      this.#end(KvBlockStatus.Missing, loan.blocks.length);
    });
  }

  #giveBack(loan: KvLoan, status: KvBlockStatus): void {
    this.#access.calls.settle(this.#peer.address, loan.lease, () => undefined);
    this.#end(status, 0);
  }

  /** The first `good` rows are here, the others ended as `status`. */
  #end(status: KvBlockStatus, good: number): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const { clock } = this.#access;
    for (const timer of [this.#renewal, this.#limit]) if (timer !== undefined) clock.clearTimer(timer);
    this.#batch.statuses.fill(KvBlockStatus.Done, 0, good);
    this.#batch.statuses.fill(status, good);
    this.#done();
  }

  #leftMs(): number {
    return Math.max(0, this.#expiresAtMs - this.#access.clock.nowMs());
  }
}
