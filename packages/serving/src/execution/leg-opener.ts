import type { PlaneMessage, RoutingHop } from '@armature/contracts';
import { Method } from '../messages.ts';
import type { EngineRequestFields } from '../messages.ts';
import type { AttemptOwner } from './attempt-owner.ts';
import type { Attempt } from './attempt.ts';
import { Leg } from './leg.ts';
import type { Routed } from './placement.ts';

export interface LegCall {
  readonly method: string;
  readonly message: PlaneMessage;
  /** How long the worker may say nothing; 0 = whenever. */
  readonly silentMs: number;
}

/** Charges workers and opens streams to them on behalf of one attempt. */
export class LegOpener {
  readonly #owner: AttemptOwner;
  readonly #attempt: Attempt;

  constructor(owner: AttemptOwner, attempt: Attempt) {
    this.#owner = owner;
    this.#attempt = attempt;
  }

  /** A worker is charged from here on. */
  newLeg(kind: 'main' | 'prefill', routed: Routed, hop: RoutingHop): Leg {
    const { router, clock, blockSize } = this.#owner.host;
    const { route, query } = routed;
    const { hops, move } = this.#attempt;
    if (hop !== 'decode') hops.dispatched(router.table.activePrefillTokens(route.slot) + Math.max(0, query.promptTokens - route.overlapBlocks * blockSize));
    const charge = router.dispatch(route, query, hop);
    this.#owner.dispatched(routed, hop);
    if (move !== undefined) move.to = route.worker.instanceId;
    return new Leg({ kind, worker: route.worker, charge, clock }, this.#attempt);
  }

  /** False: the request has no time left. What befalls the stream is told to the attempt, maybe before this returns. */
  open(leg: Leg, { method, message, silentMs }: LegCall): boolean {
    const { host, request, startedAtMs } = this.#owner;
    const deadlineMs = request.deadlineMs - (host.clock.nowMs() - startedAtMs);
    if (deadlineMs <= 0) return false;
    leg.expect(method === Method.Decode ? 'transfer' : leg.arrow, silentMs);
    leg.open(host.requests, { method, message, deadlineMs, traceparent: request.traceparent });
    return true;
  }

  engineRequest(leg: 'full' | 'prefill' | 'decode'): EngineRequestFields {
    const { request, host } = this.#owner;
    const { share, id, placement } = this.#attempt;
    return {
      id,
      leg,
      tokenIds: share.tokenIds,
      promptTokens: request.promptTokenIds.length,
      sequenceHashes: placement.hashes,
      cacheSalt: request.cacheSalt,
      ...(request.adapter === undefined ? {} : { adapter: request.adapter }),
      // A prefill worker's token is nobody's output where the engine's decode leg samples the first one: engines that guide decoding do.
      ...(request.responseFormat === undefined || leg === 'prefill' ? {} : { responseFormat: request.responseFormat }),
      sampling: request.sampling,
      stop: request.stop,
      choices: share.choices,
      firstChoice: share.firstChoice,
      firstTokens: undefined,
      priority: request.priority,
      leaseTtlMs: host.leaseTtlMs,
    };
  }
}
