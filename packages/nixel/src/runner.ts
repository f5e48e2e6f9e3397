// @hot
import { TransferStatus } from '@armature/contracts';
import type { Clock, Logger, Timer } from '@armature/contracts';
import type { TransferCounters } from './counters.ts';
import type { PreparedTransfer, TransferDone } from './handle.ts';
import type { Path } from './peers.ts';

export interface PostOptions {
  /** Delivered to the peer after the data; not when the transfer fails. Belongs to the transfer until it has ended. */
  readonly notification?: Uint8Array;
  readonly deadlineMs?: number;
}

export interface RunnerOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly counters: TransferCounters;
  readonly deadlineMs: number;
  readonly maxRunningPerPeer: number;
  /** Brings a handle up to date whose peer or segments have changed. `Done`, or what a post of it must end with. */
  readonly recheck: (transfer: PreparedTransfer) => TransferStatus;
  readonly isCurrent: (transfer: PreparedTransfer) => boolean;
  /** Delivers a notification over another path than the data's. */
  readonly notify: (peer: string, payload: Uint8Array) => boolean;
}

const NO_OPTIONS: PostOptions = {};

/** Runs prepared transfers: picks the path, keeps the deadline, falls back, ends each exactly once. A post allocates nothing. */
export class TransferRunner {
  readonly #options: RunnerOptions;
  #first: PreparedTransfer | undefined = undefined;
  #count = 0;
  /** One timer for all: set for the earliest deadline, cleared when nothing runs. */
  #timer: Timer | undefined = undefined;
  #timerAtMs = Infinity;
  #isClosed = false;

  constructor(options: RunnerOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#count;
  }

  post(transfer: PreparedTransfer, options: PostOptions = NO_OPTIONS, done?: TransferDone): TransferStatus {
    if (transfer.status === TransferStatus.InProgress) return TransferStatus.RepostActive;
    if (transfer.isReleased) return TransferStatus.NotFound;
    const { clock, counters, deadlineMs } = this.#options;
    transfer.done = done;
    transfer.endsAs = TransferStatus.Done;
    transfer.notification = options.notification;
    transfer.tried = 0;
    transfer.path = undefined;
    transfer.status = TransferStatus.InProgress;
    counters.posted++;
    const refused = this.#refusal(transfer);
    this.#link(transfer);
    if (refused !== TransferStatus.Done) {
      this.#finish(transfer, refused);
      return transfer.status;
    }
    const post = ++transfer.posts;
    transfer.expiresAtMs = Infinity;
    this.#start(transfer, TransferStatus.RemoteDisconnected);
    // Unless it has ended: what runs then was posted from within `done`, with a deadline of its own.
    if (transfer.posts === post && transfer.status === TransferStatus.InProgress) {
      transfer.expiresAtMs = clock.nowMs() + (options.deadlineMs ?? deadlineMs);
      this.#arm(transfer.expiresAtMs);
    }
    return transfer.status;
  }

  /** Asks the transport to stop; its Canceled is reported as `as`. The first reason stays. */
  cancel(transfer: PreparedTransfer, as: TransferStatus): void {
    if (transfer.status !== TransferStatus.InProgress) return;
    if (transfer.endsAs === TransferStatus.Done) transfer.endsAs = as;
    transfer.path?.endpoint.cancel(transfer.token);
  }

  /** The transport's word on the current attempt. */
  ended(transfer: PreparedTransfer, reported: TransferStatus): void {
    const { path } = transfer;
    if (transfer.status !== TransferStatus.InProgress || path === undefined) {
      this.#options.log.error('transport reported a transfer twice', { transport: path?.name, peer: transfer.peer, status: reported });
      return;
    }
    if (reported === TransferStatus.Done) {
      path.worked();
      if (transfer.trialMicros > 0) path.exploration.tried(transfer.trialMicros, this.#micros(path, transfer));
      this.#finish(transfer, this.#deliver(transfer, path));
      return;
    }
    if (reported === TransferStatus.RemoteDisconnected || reported === TransferStatus.TransportError) path.failed(this.#options.clock.nowMs());
    else if (transfer.trialMicros > 0) path.exploration.failed();
    if (this.#mayFallBack(transfer, reported)) this.#start(transfer, reported);
    else this.#finish(transfer, reported === TransferStatus.Canceled && transfer.endsAs < 0 ? transfer.endsAs : reported);
  }

  /** Cancels what `matches`; it ends as `as`. */
  cancelAll(matches: (transfer: PreparedTransfer) => boolean, as: TransferStatus): void {
    for (const transfer of this.running()) if (matches(transfer)) this.cancel(transfer, as);
  }

  running(): PreparedTransfer[] {
    const all: PreparedTransfer[] = [];
    for (let at = this.#first; at !== undefined; at = at.next) all.push(at);
    return all;
  }

  close(): void {
    this.#isClosed = true;
    this.cancelAll(() => true, TransferStatus.Canceled);
  }

  #refusal(transfer: PreparedTransfer): TransferStatus {
    const { isCurrent, recheck, maxRunningPerPeer, counters } = this.#options;
    if (this.#isClosed) return TransferStatus.NotFound;
    if (!isCurrent(transfer)) {
      const status = recheck(transfer);
      if (status !== TransferStatus.Done) return status;
    }
    if (transfer.target.running < maxRunningPerPeer) return TransferStatus.Done;
    counters.overloaded++;
    return TransferStatus.Overloaded;
  }

  /** Posts on the best path not tried yet; without one the transfer ends as `last`. */
  #start(transfer: PreparedTransfer, last: TransferStatus): void {
    const path = this.#choose(transfer);
    if (path === undefined) {
      this.#finish(transfer, last);
      return;
    }
    if (transfer.path !== undefined) this.#options.counters.fallbacks++;
    transfer.path = path;
    transfer.token = 0;
    const attempt = ++transfer.attempt;
    const token = path.endpoint.post(transfer.plan, path.notifies ? transfer.notification : undefined, transfer.ended);
    if (transfer.attempt === attempt && transfer.status === TransferStatus.InProgress) transfer.token = token;
  }

  /** Lowest estimate among paths that do not rest; resting ones only when there is no other. */
  #choose(transfer: PreparedTransfer): Path | undefined {
    const { paths } = transfer;
    const now = paths.length > 1 ? this.#options.clock.nowMs() : 0;
    let best = -1;
    let bestMicros = Infinity;
    let bestRests = true;
    for (let i = 0; i < paths.length; i++) {
      if ((transfer.tried & (1 << i)) !== 0) continue;
      const path = paths[i]!;
      const rests = path.restsUntilMs > now;
      if (rests && !bestRests) continue;
      const micros = this.#micros(path, transfer);
      if (micros < bestMicros || (bestRests && !rests && micros < Infinity)) {
        best = i;
        bestMicros = micros;
        bestRests = rests;
      }
    }
    if (best < 0) return undefined;
    transfer.trialMicros = 0;
    if (paths.length > 1) best = this.#trial(transfer, best, bestMicros, now);
    transfer.tried |= 1 << best;
    return paths[best];
  }

  #micros({ endpoint }: Path, { plan }: PreparedTransfer): number {
    return endpoint.estimateMicros(plan.peer, plan.bytes, plan.local.count);
  }

  /** The cheapest path, or one whose time to be tried has come. Reads only, unless it has worked before: a read that fails there is run again. */
  #trial(transfer: PreparedTransfer, best: number, bestMicros: number, now: number): number {
    const { paths } = transfer;
    if (transfer.tried !== 0 || paths[best]!.restsUntilMs > now) return best;
    paths[best]!.exploration.chosen();
    for (let i = 0; i < paths.length; i++) {
      const path = paths[i]!;
      if (i === best || path.restsUntilMs > now || (transfer.op === 'write' && !path.hasWorked)) continue;
      const micros = this.#micros(path, transfer);
      if (!path.exploration.isDue(micros, bestMicros)) continue;
      transfer.trialMicros = micros;
      this.#options.counters.trials++;
      return i;
    }
    return best;
  }

  /**
   * Safe when running it again cannot be seen: nothing was moved (NotSupported), or it is a read whose local memory is still the
   * transfer's own. A write that broke off may have been completed and notified; its owner may already use the bytes.
   */
  #mayFallBack(transfer: PreparedTransfer, reported: TransferStatus): boolean {
    const isSafe = reported === TransferStatus.NotSupported || (transfer.op === 'read' && (reported === TransferStatus.RemoteDisconnected || reported === TransferStatus.TransportError));
    return isSafe && transfer.endsAs === TransferStatus.Done && !this.#isClosed && !transfer.target.isRemoved && this.#options.clock.nowMs() < transfer.expiresAtMs;
  }

  #deliver(transfer: PreparedTransfer, path: Path): TransferStatus {
    const { notification } = transfer;
    if (notification === undefined) return TransferStatus.Done;
    if (!path.notifies && !this.#options.notify(transfer.peer, notification)) return TransferStatus.RemoteDisconnected;
    this.#options.counters.notificationsSent++;
    return TransferStatus.Done;
  }

  #finish(transfer: PreparedTransfer, status: TransferStatus): void {
    this.#unlink(transfer);
    transfer.status = status;
    const { counters, clock } = this.#options;
    if (status === TransferStatus.Done) counters.finished(transfer.path?.name ?? '', transfer.op, transfer.bytes, transfer.descriptors);
    else counters.failedWith(status);
    transfer.path = undefined;
    transfer.notification = undefined;
    if (this.#count === 0 && this.#timer !== undefined) {
      clock.clearTimer(this.#timer);
      this.#timer = undefined;
      this.#timerAtMs = Infinity;
    }
    const { done } = transfer;
    transfer.done = undefined;
    if (done !== undefined) done(status);
  }

  #link(transfer: PreparedTransfer): void {
    transfer.next = this.#first;
    transfer.previous = undefined;
    if (this.#first !== undefined) this.#first.previous = transfer;
    this.#first = transfer;
    this.#count++;
    transfer.target.running++;
  }

  #unlink(transfer: PreparedTransfer): void {
    const { next, previous } = transfer;
    if (previous === undefined) this.#first = next;
    else previous.next = next;
    if (next !== undefined) next.previous = previous;
    transfer.next = undefined;
    transfer.previous = undefined;
    this.#count--;
    transfer.target.running--;
  }

  #arm(atMs: number): void {
    if (atMs >= this.#timerAtMs) return;
    const { clock } = this.#options;
    if (this.#timer !== undefined) clock.clearTimer(this.#timer);
    this.#timerAtMs = atMs;
    this.#timer = clock.setTimer(Math.max(0, atMs - clock.nowMs()), () => this.#expire());
  }

  #expire(): void {
    this.#timer = undefined;
    this.#timerAtMs = Infinity;
    const now = this.#options.clock.nowMs();
    this.cancelAll((transfer) => transfer.expiresAtMs <= now && transfer.endsAs === TransferStatus.Done, TransferStatus.TimedOut);
    let earliest = Infinity;
    for (let at = this.#first; at !== undefined; at = at.next) if (at.endsAs === TransferStatus.Done) earliest = Math.min(earliest, at.expiresAtMs);
    if (earliest < Infinity) this.#arm(earliest);
  }
}
