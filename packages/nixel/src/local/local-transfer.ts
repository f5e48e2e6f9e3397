import { TransferStatus } from '@armature/contracts';
import type { Clock, TransferPlan, TransportHost } from '@armature/contracts';
import type { ControlClient } from './control-client.ts';
import { MAX_VECTORS } from '../native/libc.ts';
import { resolvePlan } from './peer-state.ts';
import type { PeerState, ReadyPlan } from './peer-state.ts';
import type { Job, Turns } from './turns.ts';

export interface LocalTransferOptions {
  readonly state: PeerState;
  readonly link: ControlClient;
  readonly plan: TransferPlan;
  readonly notification: Uint8Array | undefined;
  readonly done: (status: TransferStatus) => void;
  readonly clock: Clock;
  readonly host: TransportHost;
  readonly turns: Turns;
  readonly stepBytes: number;
}

const MAX_RESTARTS = 3;

/** One posted plan: waits for the connection and the owner's word, copies in steps, notifies, ends once. */
export class LocalTransfer implements Job {
  readonly #options: LocalTransferOptions;
  readonly #startMs: number;
  #ready: ReadyPlan | undefined = undefined;
  #at = 0;
  #restarts = 0;
  #hasEnded = false;
  #isResolving = false;
  /** The owner was asked: says nothing about the next one. */
  #isFirst = false;
  onEnd: (() => void) | undefined = undefined;

  constructor(options: LocalTransferOptions) {
    this.#options = options;
    this.#startMs = options.clock.nowMs();
  }

  get link(): ControlClient {
    return this.#options.link;
  }

  get state(): PeerState {
    return this.#options.state;
  }

  /** Copies now when the owner need not be asked: a plan made for one request is as fast as one posted again. False: `start` it. */
  runInline(): boolean {
    this.#ready = this.#known();
    if (this.#ready === undefined && this.link.isReady) this.#resolve(true);
    if (this.#ready === undefined) return this.#hasEnded;
    while (!this.step());
    return this.#hasEnded;
  }

  start(): void {
    // An inline run that found the owner's word changed is asking already.
    if (this.link.isReady && !this.#isResolving) this.resolve();
  }

  /** The connection is ready: find out what may be touched, then queue. */
  resolve(): void {
    this.#resolve(false);
  }

  #resolve(isInline: boolean): void {
    const { state, link, plan, host, turns } = this.#options;
    this.#isResolving = true;
    const known = this.#known();
    if (known !== undefined) {
      this.#ready = known;
      turns.add(this);
      return;
    }
    let isAsking = false;
    resolvePlan(state, link, plan, host, (status, ready) => {
      if (this.#hasEnded) return;
      if (ready === undefined) {
        this.end(status);
        return;
      }
      state.plans.set(plan, ready);
      this.#isFirst = isAsking;
      this.#ready = ready;
      this.#at = 0;
      if (isAsking || !isInline) turns.add(this);
    });
    isAsking = true;
  }

  step(): boolean {
    const ready = this.#ready;
    if (this.#hasEnded || ready === undefined) return true;
    if (!this.#holds(ready)) return true;
    const { pieces } = ready;
    let to = this.#at;
    for (let bytes = 0; to < pieces.count && to - this.#at < MAX_VECTORS && bytes < this.#options.stepBytes; to++) bytes += pieces.lengths[to]!;
    if (to > this.#at) {
      const status = pieces.copy(this.#at, to);
      if (status !== TransferStatus.Done) {
        this.end(status);
        return true;
      }
      this.#at = to;
    }
    if (to < pieces.count) return false;
    // Once more: what was copied while the owner took it back is not what was asked for.
    if (this.#holds(ready)) this.#finish();
    return true;
  }

  /** Ends it now, unless it has ended. Nothing is in flight between two steps. */
  end(status: TransferStatus): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.onEnd?.();
    this.#options.done(status);
  }

  #known(): ReadyPlan | undefined {
    const { state, link, plan, host } = this.#options;
    const known = state.plans.get(plan);
    if (known === undefined || known.link !== link || known.epoch !== link.epoch) return undefined;
    for (let i = 0; i < known.locals.length; i++) if (host.segment(known.locals[i]!.id) !== known.locals[i]) return undefined;
    return known;
  }

  /** False: the owner's word has changed; the transfer begins again with asking, or has ended. */
  #holds(ready: ReadyPlan): boolean {
    const { epoch } = ready.link;
    if (epoch === ready.epoch) return true;
    this.#ready = undefined;
    this.#at = 0;
    if (epoch === undefined) this.end(TransferStatus.RemoteDisconnected);
    else if (this.#restarts++ === MAX_RESTARTS) this.end(TransferStatus.TransportError);
    else this.resolve();
    return false;
  }

  #finish(): void {
    const { notification, state, plan, clock, link } = this.#options;
    const isNotified = notification === undefined || link.notify(notification.slice());
    if (!this.#isFirst) state.observe(plan.bytes, plan.local.count, (clock.nowMs() - this.#startMs) * 1000);
    this.end(isNotified ? TransferStatus.Done : TransferStatus.TransportError);
  }
}
