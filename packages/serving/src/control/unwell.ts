import type { WorkerRecord } from '@armature/contracts';

/**
 * A worker that takes no requests because its engine failed, as it stands in discovery under `unwell/MODEL/POOL/INDEX@INCARNATION`: for people and
 * tools. Routers follow `workers/` only.
 */
export interface UnwellWorker extends Pick<WorkerRecord, 'instanceId' | 'model' | 'pool' | 'index' | 'role' | 'engine' | 'hardware' | 'address'> {
  /** `held`: well again, and back when it has been for `holdMs`. */
  readonly state: 'failed' | 'held';
  readonly holdMs: number;
  readonly code: string;
  readonly reason: string;
}

export const UNWELL_PREFIX = 'unwell/';

export function unwellKey(model: string, instanceId: string): string {
  return `${UNWELL_PREFIX}${model}/${instanceId}`;
}
