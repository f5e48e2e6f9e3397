import { TransferStatus } from '@armature/contracts';
import type { TransferPeer, TransferPlan, TransferSegment, TransportHost } from '@armature/contracts';
import { slice } from '../descriptors.ts';
import { PathEstimate } from '../estimate.ts';
import type { ControlClient } from './control-client.ts';
import { MAX_ASK_ROWS } from './control-frames.ts';
import type { Mover, Pieces, SegmentFacts } from './pieces.ts';

/** A plan that the owner has allowed, ready to be copied. Holds for one connection and one epoch of the owner's page. */
export interface ReadyPlan {
  readonly link: ControlClient;
  readonly epoch: number;
  readonly pieces: Pieces;
  /** Local segments named; each must still be registered at every post. */
  readonly locals: readonly TransferSegment[];
}

/** Fixed cost of one scattered piece. */
const PIECE_MICROS = 0.1;

/** What an endpoint knows of one peer: its connection, what it has allowed, plans computed for it. */
export class PeerState {
  readonly peer: TransferPeer;
  readonly #estimate: PathEstimate;
  readonly plans = new WeakMap<TransferPlan, ReadyPlan>();
  link: ControlClient | undefined = undefined;
  /** Segments that may be touched whole, by op; of one epoch of one connection. */
  readonly #whole = { read: new Map<number, SegmentFacts>(), write: new Map<number, SegmentFacts>() };
  #epoch = 0;

  constructor(peer: TransferPeer, mover: Mover) {
    this.peer = peer;
    this.#estimate = new PathEstimate(mover.latencyMicros, mover.bytesPerMicro);
  }

  micros(bytes: number, count: number): number {
    return this.#estimate.micros(bytes, count, PIECE_MICROS);
  }

  observe(bytes: number, count: number, micros: number): void {
    this.#estimate.observe(bytes, count, PIECE_MICROS, micros);
  }

  forget(): void {
    this.#whole.read.clear();
    this.#whole.write.clear();
  }

  /** Answers of an earlier epoch are dropped. */
  at(epoch: number): void {
    if (epoch === this.#epoch) return;
    this.#epoch = epoch;
    this.forget();
  }

  learn(op: 'read' | 'write', facts: readonly SegmentFacts[]): void {
    for (const fact of facts) if (fact.isWhole) this.#whole[op].set(fact.id, fact);
  }

  whole(op: 'read' | 'write', segment: number): SegmentFacts | undefined {
    return this.#whole[op].get(segment);
  }
}

type Resolved = (status: TransferStatus, ready: ReadyPlan | undefined) => void;

const MAX_ATTEMPTS = 3;

/**
 * Asks the owner for what is not known to be allowed, then computes the pieces. `resolved` comes once, at once when nothing has to be asked:
 * a plan inside segments that are allowed as a whole costs no round trip, so that a peer that is busy or stopped is still read from.
 */
export function resolvePlan(state: PeerState, link: ControlClient, plan: TransferPlan, host: TransportHost, resolved: Resolved): void {
  const locals = localSegments(plan, host);
  if (typeof locals === 'number') {
    resolved(locals, undefined);
    return;
  }
  const asked = new Map<number, SegmentFacts>();
  let attempts = 0;
  let row = 0;
  let epoch = 0;
  const restart = (): void => {
    const now = link.epoch;
    if (now === undefined) resolved(TransferStatus.RemoteDisconnected, undefined);
    else if (attempts++ === MAX_ATTEMPTS) resolved(TransferStatus.TransportError, undefined);
    else {
      row = 0;
      epoch = now;
      state.at(now);
      asked.clear();
      next();
    }
  };
  const next = (): void => {
    let facts: SegmentFacts | undefined;
    while (row < plan.remote.count) {
      if (facts?.id !== plan.remote.segments[row]) facts = state.whole(plan.op, plan.remote.segments[row]!);
      if (facts === undefined) break;
      if (plan.remote.offsets[row]! + plan.remote.lengths[row]! > facts.lengthBytes) {
        resolved(TransferStatus.InvalidDescriptor, undefined);
        return;
      }
      row++;
    }
    if (row === plan.remote.count) {
      finish();
      return;
    }
    const end = Math.min(plan.remote.count, row + MAX_ASK_ROWS);
    link.ask(plan.op, slice(plan.remote, row, end), (status, verdict) => {
      if (status !== TransferStatus.Done || verdict === undefined) resolved(status === TransferStatus.Done ? TransferStatus.TransportError : status, undefined);
      else if (verdict.epoch !== epoch) restart();
      else {
        row = end;
        state.learn(plan.op, verdict.segments);
        for (const facts of verdict.segments) asked.set(facts.id, facts);
        next();
      }
    });
  };
  const finish = (): void => {
    const remote = (id: number): SegmentFacts | undefined => state.whole(plan.op, id) ?? asked.get(id);
    const pieces = link.memory === undefined ? TransferStatus.RemoteDisconnected : link.memory.pieces({ plan, local: (id) => host.segment(id), remote });
    if (typeof pieces === 'number') resolved(pieces, undefined);
    else resolved(TransferStatus.Done, { link, epoch, pieces, locals });
  };
  restart();
}

/** The local side of a plan, checked: nothing outside a registered segment is ever touched. Of the remote side only what no owner could answer. */
function localSegments(plan: TransferPlan, host: TransportHost): readonly TransferSegment[] | TransferStatus {
  const { local, remote } = plan;
  if (local.count !== remote.count) return TransferStatus.InvalidDescriptor;
  const found = new Set<TransferSegment>();
  let segment: TransferSegment | undefined;
  for (let i = 0; i < local.count; i++) {
    if (segment?.id !== local.segments[i]) {
      segment = host.segment(local.segments[i]!);
      if (segment === undefined) return TransferStatus.NotFound;
      found.add(segment);
    }
    const length = local.lengths[i]!;
    if (length < 0 || length !== remote.lengths[i] || !(remote.offsets[i]! >= 0) || !(local.offsets[i]! >= 0) || local.offsets[i]! + length > segment.lengthBytes) return TransferStatus.InvalidDescriptor;
  }
  return [...found];
}
