import { TransferStatus } from '@armature/contracts';
import type { TransferPlan } from '@armature/contracts';
import type { Path, Peer } from './peers.ts';

export type TransferDone = (status: TransferStatus) => void;

/** A prepared transfer. Opaque to callers except for its facts; give it back with `Agent.release`. */
export interface TransferHandle {
  readonly op: 'read' | 'write';
  readonly peer: string;
  readonly bytes: number;
  /** Rows as prepared, before neighbours were joined. */
  readonly descriptors: number;
}

/** The agent's side of a handle. Nodes of the runner's list of running transfers. */
export class PreparedTransfer implements TransferHandle {
  readonly plan: TransferPlan;
  readonly descriptors: number;
  /** Given to the transport on every post: one closure per handle, none per post. */
  readonly ended: TransferDone;
  status: TransferStatus;
  /** Whom it was checked against, and when; see `Peer.epoch`, `SegmentTable.epoch`. */
  target: Peer;
  targetEpoch: number;
  segmentEpoch: number;
  /** Ways that can move it, as found when it was checked. */
  paths: readonly Path[];
  path: Path | undefined;
  /** Bits of `paths` tried by this post. */
  tried: number;
  /** What it was expected to take on the path that this attempt tries out; 0: it runs on the cheapest. */
  trialMicros: number;
  /** Counts calls of a transport's post: tells whether a token that comes back is still of the running one. */
  attempt: number;
  token: number;
  /** Counts posts: tells whether this one has ended while another began. */
  posts: number;
  /** Infinity until the transport has taken it. */
  expiresAtMs: number;
  /** What the transport's Canceled stands for: nothing was asked yet (0), Canceled, TimedOut, NotFound. */
  endsAs: TransferStatus;
  notification: Uint8Array | undefined;
  done: TransferDone | undefined;
  isReleased: boolean;
  next: PreparedTransfer | undefined;
  previous: PreparedTransfer | undefined;

  constructor(plan: TransferPlan, count: number, checked: { readonly target: Peer; readonly targetEpoch: number; readonly segmentEpoch: number; readonly paths: readonly Path[] }, ended: (transfer: PreparedTransfer, status: TransferStatus) => void) {
    this.plan = plan;
    this.descriptors = count;
    this.ended = (status) => ended(this, status);
    this.status = TransferStatus.NotPosted;
    this.target = checked.target;
    this.targetEpoch = checked.targetEpoch;
    this.segmentEpoch = checked.segmentEpoch;
    this.paths = checked.paths;
    this.path = undefined;
    this.tried = 0;
    this.trialMicros = 0;
    this.attempt = 0;
    this.token = 0;
    this.posts = 0;
    this.expiresAtMs = Infinity;
    this.endsAs = TransferStatus.Done;
    this.notification = undefined;
    this.done = undefined;
    this.isReleased = false;
    this.next = undefined;
    this.previous = undefined;
  }

  get op(): 'read' | 'write' {
    return this.plan.op;
  }

  get peer(): string {
    return this.plan.peer;
  }

  get bytes(): number {
    return this.plan.bytes;
  }
}
