import type { Candidates, WorkerRecord } from '@armature/contracts';

export type CandidateColumns = { -readonly [K in keyof Candidates]: Candidates[K] } & { workers: WorkerRecord[] };

/** Empty columns with room for `capacity` candidates. */
export function newCandidateColumns(capacity: number): CandidateColumns {
  return {
    count: 0,
    slots: new Int32Array(capacity),
    activeRequests: new Int32Array(capacity),
    activePrefillTokens: new Float64Array(capacity),
    activeBlocks: new Float64Array(capacity),
    totalBlocks: new Float64Array(capacity),
    costPerHour: new Float64Array(capacity),
    degraded: new Uint8Array(capacity),
    workers: [],
    overlapBlocks: new Int32Array(capacity),
    hostBlocks: new Int32Array(capacity),
    diskBlocks: new Int32Array(capacity),
    objectBlocks: new Int32Array(capacity),
    decodeBlocks: new Float64Array(capacity),
    excessShare: new Float64Array(capacity),
  };
}
