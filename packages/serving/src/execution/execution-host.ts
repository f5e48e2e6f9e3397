import type { Clock, Counter, DisaggregationInput, DisaggregationPolicy, Logger, RequestPlane } from '@armature/contracts';
import type { AdmissionQueue } from '../admission/admission-queue.ts';
import type { SessionTable } from '../admission/session-table.ts';
import type { ModelRouter } from '../routing/model-router.ts';
import type { RequestRecords } from '../routing/records.ts';

/** What the requests of one model share; built once per model. */
export interface ExecutionHost {
  readonly model: string;
  readonly blockSize: number;
  readonly leaseTtlMs: number;
  readonly migrationLimit: number;
  readonly router: ModelRouter;
  readonly policy: DisaggregationPolicy;
  /** Undefined: requests never wait here. */
  readonly admission?: AdmissionQueue | undefined;
  /** Undefined: sessions are not looked at. */
  readonly sessions?: SessionTable | undefined;
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

export interface ExecutionMetrics {
  readonly finished: Counter;
  readonly failed: Counter;
  readonly cancelled: Counter;
  readonly remotePrefills: Counter;
  readonly localPrefills: Counter;
  /** Local prefills because no prefill worker was ready. */
  readonly fallbacks: Counter;
  readonly migrations: Counter;
}
