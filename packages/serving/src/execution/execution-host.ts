import type { Clock, Counter, DisaggregationInput, DisaggregationPolicy, Logger, RequestPlane } from '@armature/contracts';
import type { AdmissionQueue } from '../admission/admission-queue.ts';
import type { SessionTable } from '../admission/session-table.ts';
import type { ModelRouter } from '../routing/model-router.ts';
import type { Inhibitions } from '../routing/inhibitions.ts';
import type { RequestRecords } from '../routing/records.ts';
import type { QueuePrefetch } from './queue-prefetch.ts';
import type { TrafficTelemetry } from '../telemetry/traffic-telemetry.ts';
import type { HopTimes } from './hop-times.ts';
import type { WaitingRoom } from './waiting-room.ts';

/** What the requests of one model share; built once per model. */
export interface ExecutionHost {
  readonly model: string;
  readonly blockSize: number;
  readonly leaseTtlMs: number;
  readonly migrationLimit: number;
  /** How long a worker may be silent, by what it is at, in milliseconds; 0 = as long as the request lives. */
  readonly deadlines: HopDeadlines;
  /** How long a request without any worker waits for one. */
  readonly failoverWaitMs: number;
  readonly router: ModelRouter;
  readonly policy: DisaggregationPolicy;
  /** Undefined: requests never wait here. */
  readonly admission?: AdmissionQueue | undefined;
  /** Undefined: workers are not told of requests that wait. */
  readonly prefetch?: QueuePrefetch | undefined;
  /** Undefined: sessions are not looked at. */
  readonly sessions?: SessionTable | undefined;
  /** Undefined: a lost worker is left by the requests that lost it only. */
  readonly inhibitions?: Inhibitions | undefined;
  /** Undefined: requests never wait for a worker to come. */
  readonly waitingRoom?: WaitingRoom | undefined;
  /** What hops have taken lately; undefined: nothing is predicted. */
  readonly hopTimes?: HopTimes | undefined;
  /** Undefined: traffic is not reported. */
  readonly telemetry?: TrafficTelemetry | undefined;
  readonly requests: RequestPlane;
  readonly records: RequestRecords;
  readonly clock: Clock;
  readonly log: Logger;
  /** Reused for every question to the policy. */
  readonly input: DisaggregationInput;
  readonly metrics: ExecutionMetrics;
  /** Unique id of a run, for the planes and the load accounting (client request ids may repeat). */
  nextRunId(): string;
}

export interface HopDeadlines {
  /** Between two words of a prefill worker. */
  readonly prefillMs: number;
  /** From the end of prefill until the decode worker has the KV. */
  readonly transferMs: number;
  /** Until the first token of the worker that decodes, its queue included. */
  readonly firstTokenMs: number;
  /** Between two tokens of a request. */
  readonly interTokenMs: number;
}

export interface ExecutionMetrics {
  readonly finished: Counter;
  readonly failed: Counter;
  readonly cancelled: Counter;
  readonly remotePrefills: Counter;
  readonly localPrefills: Counter;
  /** Local prefills because no prefill worker was ready. */
  readonly fallbacks: Counter;
  readonly migrations: Counter;
  /** Decode workers replaced while the prefill worker held the KV. */
  readonly decodeReattached: Counter;
}
