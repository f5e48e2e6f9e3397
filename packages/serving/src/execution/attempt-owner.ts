import type { ErrorData, InferenceRequest, RoutingHop, TokenBatch, WorkerRole } from '@armature/contracts';
import type { Route } from '../routing/model-router.ts';
import type { MoveRecord, RequestRecord } from '../routing/records.ts';
import type { Attempt } from './attempt.ts';
import type { ExecutionHost } from './execution-host.ts';
import type { Leg } from './leg.ts';
import type { Routed, Share } from './placement.ts';

/** The request that attempts are made for. */
export interface AttemptOwner {
  readonly host: ExecutionHost;
  readonly request: InferenceRequest;
  readonly record: RequestRecord;
  readonly excluded: readonly string[];
  readonly startedAtMs: number;
  /** True: parked in the queue, or refused by it. */
  waits(role: WorkerRole, uncachedTokens: () => number): boolean;
  /** A worker was charged. */
  dispatched(routed: Routed, hop: RoutingHop): void;
  /** The worker that computes the share's tokens. */
  computes(share: Share, route: Route): void;
  /** Computed locally, and what of the prompt the router believes to be there. */
  expectCached(tokens: number): void;
  cached(tokens: number): void;
  /** Some choice of the share has not had its last token. */
  isOpen(share: Share): boolean;
  tokens(attempt: Attempt, batch: TokenBatch, atMs: number): void;
  /** Every choice of the share has had its last token. */
  attemptEnded(attempt: Attempt): void;
  /** It holds nothing any more. `leg` undefined: no worker was found. */
  attemptFailed(attempt: Attempt, leg: Leg | undefined, error: ErrorData): void;
  /** Notes that the decode worker was left; the record of the move to the next one, undefined when it may not be tried. */
  leaveDecode(attempt: Attempt, leg: Leg, error: ErrorData): MoveRecord | undefined;
}

export interface AttemptSetup {
  readonly share: Share;
  /** Moves behind it that count against the limit. */
  readonly depth: number;
  /** How it came to be; undefined for the first one. */
  readonly move: MoveRecord | undefined;
}
