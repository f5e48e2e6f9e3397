import { TransferStatus } from '@armature/contracts';
import type { Clock, Logger, TransferPlan, TransferSegment, TransportHost } from '@armature/contracts';
import type { ControlClient } from '../local/control-client.ts';
import { resolvePlan } from '../local/peer-state.ts';
import type { PeerState } from '../local/peer-state.ts';
import { CudaResult, statusOf } from './binding.ts';
import type { CompiledCopies, Hold } from './copies.ts';
import type { CopyEngine } from './copy-engine.ts';
import { LaneJob } from './lane-job.ts';

/** A plan ready to be copied; holds for one epoch of the owner's page. */
interface Ready {
  readonly copies: CompiledCopies;
  readonly epoch: number;
  readonly locals: readonly TransferSegment[];
}

export interface CudaTransferOptions {
  readonly state: PeerState;
  /** Undefined: the agent itself is the peer. */
  readonly link: ControlClient | undefined;
  readonly plan: TransferPlan;
  readonly notification: Uint8Array | undefined;
  readonly done: (status: TransferStatus) => void;
  readonly clock: Clock;
  readonly log: Logger;
  readonly host: TransportHost;
  /** Own segments on both sides. */
  readonly resolveSelf: (plan: TransferPlan) => { readonly copies: CompiledCopies; readonly locals: readonly TransferSegment[] } | TransferStatus;
  /** Throws when there is no such GPU. */
  readonly engine: (ordinal: number) => CopyEngine;
}

const MAX_RESTARTS = 3;

/** One posted plan: waits for the connection and the owner's word, copies, notifies, ends once, and not while a copy of it is on a stream. */
export class CudaTransfer {
  readonly #options: CudaTransferOptions;
  readonly #startMs: number;
  #ready: Ready | undefined = undefined;
  #job: LaneJob | undefined = undefined;
  #engine: CopyEngine | undefined = undefined;
  #holds: Hold[] = [];
  /** What was asked for while copies ran. */
  #endsAs: TransferStatus = TransferStatus.Done;
  #restarts = 0;
  #isResolving = false;
  #hasEnded = false;
  /** Asking and opening are in its time: says nothing about the next one. */
  #isFirst = false;
  onEnd: (() => void) | undefined = undefined;

  constructor(options: CudaTransferOptions) {
    this.#options = options;
    this.#startMs = options.clock.nowMs();
  }

  get link(): ControlClient | undefined {
    return this.#options.link;
  }

  get state(): PeerState {
    return this.#options.state;
  }

  start(): void {
    const { link } = this.#options;
    if (link === undefined || (link.isReady && !this.#isResolving)) this.resolve();
  }

  /** The connection is ready. */
  resolve(): void {
    const { state, link, plan, host, resolveSelf } = this.#options;
    if (this.#hasEnded) return;
    if (link === undefined) {
      const own = resolveSelf(plan);
      if (typeof own === 'number') this.#finish(own);
      else this.#begin({ ...own, epoch: 0 });
      return;
    }
    this.#isResolving = true;
    const known = state.plans.get(plan);
    if (known !== undefined && known.link === link && known.epoch === link.epoch && known.locals.every((segment) => host.segment(segment.id) === segment)) {
      this.#begin({ copies: known.pieces as CompiledCopies, epoch: known.epoch, locals: known.locals });
      return;
    }
    resolvePlan(state, link, plan, host, (status, ready) => {
      if (this.#hasEnded) return;
      if (ready === undefined) {
        this.#finish(status);
        return;
      }
      state.plans.set(plan, ready);
      this.#isFirst = true;
      this.#begin({ copies: ready.pieces as CompiledCopies, epoch: ready.epoch, locals: ready.locals });
    });
  }

  /** Asks to stop: ends now when no copy is on a stream, else with the last one that is. The first reason stays. */
  end(status: TransferStatus): void {
    if (this.#hasEnded || this.#endsAs !== TransferStatus.Done) return;
    if (this.#job === undefined) {
      this.#finish(status);
      return;
    }
    this.#endsAs = status;
    this.#engine?.stop(this.#job);
  }

  #begin(ready: Ready): void {
    this.#ready = ready;
    const { copies } = ready;
    if (copies.count === 0) {
      this.#copied();
      return;
    }
    try {
      const engine = this.#options.engine(copies.ordinal);
      this.#holds = copies.hold();
      const job = new LaneJob(copies, () => this.#endsAs === TransferStatus.Done && this.#holdsStill(), (result) => this.#settled(job, result));
      this.#engine = engine;
      this.#job = job;
      engine.add(job);
    } catch (error) {
      this.#options.log.warn('GPU copies cannot begin', { peer: this.#options.plan.peer, ordinal: copies.ordinal, error: error instanceof Error ? error.message : String(error) });
      this.#letGo();
      this.#finish(TransferStatus.TransportError);
    }
  }

  /** The owner's word has not changed since it was given. */
  #holdsStill(): boolean {
    const { link } = this.#options;
    return link === undefined || link.epoch === this.#ready?.epoch;
  }

  /** Nothing is on a stream any more. */
  #settled(job: LaneJob, result: number): void {
    this.#letGo();
    const isWhole = result === CudaResult.Success && job.next >= job.copies.count;
    if (result !== CudaResult.Success) this.#finish(this.#endsAs === TransferStatus.Done ? statusOf(result) : this.#endsAs);
    else if (this.#endsAs !== TransferStatus.Done && !(isWhole && this.#endsAs === TransferStatus.Canceled)) this.#finish(this.#endsAs);
    else if (this.#holdsStill()) this.#copied();
    else this.#again();
  }

  /** What was copied while the owner took it back is not what was asked for. */
  #again(): void {
    const { link } = this.#options;
    this.#endsAs = TransferStatus.Done;
    if (link?.epoch === undefined) this.#finish(TransferStatus.RemoteDisconnected);
    else if (this.#restarts++ === MAX_RESTARTS) this.#finish(TransferStatus.TransportError);
    else this.resolve();
  }

  #copied(): void {
    const { notification, state, plan, clock, link, host } = this.#options;
    let isNotified = true;
    if (notification !== undefined) {
      if (link === undefined) host.notified(host.agentName, notification.slice());
      else isNotified = link.notify(notification.slice());
    }
    if (!this.#isFirst && plan.bytes > 0) state.observe(plan.bytes, plan.local.count, (clock.nowMs() - this.#startMs) * 1000);
    this.#finish(isNotified ? TransferStatus.Done : TransferStatus.TransportError);
  }

  #letGo(): void {
    this.#job = undefined;
    this.#engine = undefined;
    for (const hold of this.#holds.splice(0)) {
      try {
        hold.release();
      } catch (error) {
        this.#options.log.warn('memory used by GPU copies was not released', { error: error instanceof Error ? error.message : String(error) });
      }
    }
  }

  #finish(status: TransferStatus): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.onEnd?.();
    this.#options.done(status);
  }
}
