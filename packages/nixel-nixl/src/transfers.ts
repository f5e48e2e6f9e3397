import { TransferStatus } from '@armature/contracts';
import type { Clock, Timer } from '@armature/contracts';
import { NixlResult } from './binding.ts';
import type { NixlAgent, NixlHandle } from './binding.ts';
import type { CompiledPlan, PlanPart } from './compiled-plan.ts';
import { MAX_NOTIFICATION_BYTES, PING, userFrame } from './frames.ts';
import type { PeerLink } from './peer-link.ts';

export interface TransfersOptions {
  readonly agent: NixlAgent;
  readonly clock: Clock;
  /** How long a cancelled transfer may go on before its link is cut. */
  readonly cancelGraceMs: number;
  /** A request has failed, or does not end: the link must be cut. NIXL says of no failed request that its bytes have stopped. */
  readonly onBroken: (link: PeerLink, status: TransferStatus) => void;
  /** Notifications of transfers with the agent itself need no library. */
  readonly onSelfNotified: (payload: Uint8Array) => void;
}

class Transfer {
  readonly token: number;
  readonly link: PeerLink;
  readonly compiled: CompiledPlan;
  readonly bytes: number;
  readonly notification: Uint8Array | undefined;
  readonly done: (status: TransferStatus) => void;
  readonly startMs: number;
  readonly running: { part: PlanPart; request: NixlHandle }[] = [];
  next = 0;
  isCanceled = false;
  grace: Timer | undefined = undefined;

  constructor(token: number, link: PeerLink, compiled: CompiledPlan, rest: { notification: Uint8Array | undefined; done: (status: TransferStatus) => void; startMs: number }) {
    this.token = token;
    this.link = link;
    this.compiled = compiled;
    this.notification = rest.notification;
    this.done = rest.done;
    this.startMs = rest.startMs;
    this.bytes = compiled.parts.reduce((sum, part) => sum + part.bytes, 0);
  }
}

export interface Ending {
  readonly done: (status: TransferStatus) => void;
  readonly status: TransferStatus;
}

/** Posts copy inside the call on some paths (shared memory): no turn of the event loop posts for longer. */
const TURN_MS = 0.5;
/** Looks at running requests within one turn, so that a turn's own cost does not slow a transfer down. */
const LOOKS_PER_TURN = 16;
const LOOKS_MS = 0.03;
export const MAX_TRANSFERS = 4096;

/** Transfers that run: posts their parts, looks at their requests, ends them. */
export class Transfers {
  readonly #options: TransfersOptions;
  readonly #transfers = new Map<number, Transfer>();
  #nextToken = 1;

  constructor(options: TransfersOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#transfers.size;
  }

  /** The plan's link is up. Returns a token, 0 when it has ended. */
  start(link: PeerLink, compiled: CompiledPlan, notification: Uint8Array | undefined, done: (status: TransferStatus) => void): number {
    if (this.#transfers.size >= MAX_TRANSFERS || (notification !== undefined && notification.length > MAX_NOTIFICATION_BYTES)) {
      done(this.#transfers.size >= MAX_TRANSFERS ? TransferStatus.Overloaded : TransferStatus.NotSupported);
      return 0;
    }
    const transfer = new Transfer(this.#nextToken++, link, compiled, { notification, done, startMs: this.#options.clock.nowMs() });
    this.#transfers.set(transfer.token, transfer);
    this.#advance(transfer, transfer.startMs + TURN_MS);
    return this.#transfers.has(transfer.token) ? transfer.token : 0;
  }

  /** What NIXL has begun goes on to its end: only then is memory safe. What it has not, is not begun. */
  cancel(token: number): void {
    const transfer = this.#transfers.get(token);
    if (transfer === undefined || transfer.isCanceled) return;
    transfer.isCanceled = true;
    if (transfer.running.length === 0) {
      this.#end(transfer, TransferStatus.Canceled);
      return;
    }
    const { clock, cancelGraceMs, onBroken } = this.#options;
    transfer.grace = clock.setTimer(cancelGraceMs, () => onBroken(transfer.link, TransferStatus.Canceled));
  }

  cancelAll(): void {
    for (const token of [...this.#transfers.keys()]) this.cancel(token);
  }

  /** One look. True when something ended or moved on. */
  poll(): boolean {
    if (this.#transfers.size === 0) return false;
    const { clock } = this.#options;
    const startMs = clock.nowMs();
    let happened = false;
    for (let look = 0; look < LOOKS_PER_TURN && this.#transfers.size > 0 && !happened; look++) {
      for (const transfer of [...this.#transfers.values()]) if (this.#transfers.has(transfer.token) && this.#advance(transfer, startMs + TURN_MS)) happened = true;
      if (clock.nowMs() - startMs > LOOKS_MS) break;
    }
    return happened;
  }

  /** Takes all transfers of a link that is cut; their requests are abandoned. Report them when nothing can move any more. */
  takeAll(link: PeerLink): readonly Ending[] {
    const endings: Ending[] = [];
    for (const transfer of [...this.#transfers.values()]) {
      if (transfer.link !== link) continue;
      for (const { request } of transfer.running.splice(0)) this.#options.agent.releaseRequest(request);
      this.#forget(transfer);
      endings.push({ done: transfer.done, status: transfer.isCanceled ? TransferStatus.Canceled : TransferStatus.RemoteDisconnected });
    }
    return endings;
  }

  /** Collects ended requests, posts waiting parts, ends the transfer. True when anything changed. */
  #advance(transfer: Transfer, untilMs: number): boolean {
    let changed = this.#collect(transfer);
    if (changed === undefined) return true;
    const { parts } = transfer.compiled;
    const isStopped = (): boolean => transfer.isCanceled || transfer.compiled.isReleased;
    while (transfer.next < parts.length && !isStopped() && this.#options.clock.nowMs() < untilMs) {
      if (!this.#post(transfer, parts[transfer.next++]!)) return true;
      changed = true;
    }
    const isWhole = transfer.next >= parts.length;
    if (transfer.running.length > 0 || (!isWhole && !isStopped())) return changed;
    // A plan is taken back when a segment of it is given up: what was posted has ended, the rest is not begun.
    this.#end(transfer, isWhole ? TransferStatus.Done : transfer.isCanceled ? TransferStatus.Canceled : TransferStatus.NotFound);
    return true;
  }

  /** Undefined: a request failed and the link is cut. */
  #collect(transfer: Transfer): boolean | undefined {
    let changed = false;
    for (let i = transfer.running.length - 1; i >= 0; i--) {
      const { part, request } = transfer.running[i]!;
      const result = this.#options.agent.status(request);
      if (result === NixlResult.InProgress) continue;
      if (result !== NixlResult.Success) return this.#broken(transfer, result);
      changed = true;
      transfer.running.splice(i, 1);
      transfer.compiled.giveBack(part, request);
    }
    return changed;
  }

  #post(transfer: Transfer, part: PlanPart): boolean {
    const request = transfer.compiled.take(part);
    // The library refuses a request only when what it was prepared from is gone.
    if (request === 0n) return this.#broken(transfer, NixlResult.NotFound) !== undefined;
    const rides = transfer.compiled.parts.length === 1 && !transfer.link.isSelf ? transfer.notification : undefined;
    const result = this.#options.agent.post(request, rides === undefined ? undefined : userFrame(rides));
    if (result === NixlResult.Success) {
      transfer.compiled.giveBack(part, request);
      return true;
    }
    transfer.running.push({ part, request });
    return result === NixlResult.InProgress || this.#broken(transfer, result) !== undefined;
  }

  #broken(transfer: Transfer, result: number): undefined {
    this.#options.onBroken(transfer.link, this.#meaning(transfer.link, result));
    return undefined;
  }

  /** The C API has one code for most failures. A connection that does not take a ping is lost; one that does has another trouble. */
  #meaning(link: PeerLink, result: number): TransferStatus {
    const { agent } = this.#options;
    if (result === NixlResult.NotFound || link.isSelf) return link.isSelf ? TransferStatus.TransportError : TransferStatus.RemoteDisconnected;
    const isLost = !agent.knows(link.nixlName) || agent.notify(link.nixlName, PING) < 0;
    return isLost ? TransferStatus.RemoteDisconnected : TransferStatus.TransportError;
  }

  #end(transfer: Transfer, status: TransferStatus): void {
    this.#forget(transfer);
    const { link, notification } = transfer;
    if (status === TransferStatus.Done) {
      link.estimate.observe(transfer.bytes, (this.#options.clock.nowMs() - transfer.startMs) * 1000);
      link.isTold = false;
      if (notification !== undefined && link.isSelf) this.#options.onSelfNotified(notification.slice());
      // A single part has carried it; several have all been seen to end, so it comes after their data.
      else if (notification !== undefined && transfer.compiled.parts.length !== 1 && this.#options.agent.notify(link.nixlName, userFrame(notification)) < 0) {
        transfer.done(TransferStatus.RemoteDisconnected);
        return;
      }
    }
    transfer.done(status);
  }

  #forget(transfer: Transfer): void {
    this.#transfers.delete(transfer.token);
    if (transfer.grace !== undefined) this.#options.clock.clearTimer(transfer.grace);
    transfer.grace = undefined;
  }
}
