import { TransferStatus } from '@armature/contracts';
import type { Timer, TransferPlan, TransportEndpoint } from '@armature/contracts';

export type TransferDone = (status: TransferStatus) => void;

/** A prepared transfer. Opaque to callers except for its facts; give it back with `Agent.release`. */
export interface TransferHandle {
  readonly op: 'read' | 'write';
  readonly peer: string;
  readonly bytes: number;
  /** Rows as prepared, before neighbours were joined. */
  readonly descriptors: number;
}

/** The agent's side of a handle. */
export class PreparedTransfer implements TransferHandle {
  readonly plan: TransferPlan;
  readonly descriptors: number;
  /** Given to the transport on every post: one closure per handle, none per post. */
  readonly ended: TransferDone;
  status: TransferStatus;
  endpoint: TransportEndpoint | undefined;
  transport: string;
  token: number;
  timer: Timer | undefined;
  done: TransferDone | undefined;
  hasTimedOut: boolean;
  isReleased: boolean;
  notifies: boolean;

  constructor(plan: TransferPlan, count: number, ended: (transfer: PreparedTransfer, status: TransferStatus) => void) {
    this.plan = plan;
    this.descriptors = count;
    this.ended = (status) => ended(this, status);
    this.status = TransferStatus.NotPosted;
    this.endpoint = undefined;
    this.transport = '';
    this.token = 0;
    this.timer = undefined;
    this.done = undefined;
    this.hasTimedOut = false;
    this.isReleased = false;
    this.notifies = false;
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
