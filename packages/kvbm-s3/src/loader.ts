import { KvBlockStatus } from '@armature/contracts';
import type { BusyMeter } from './busy-meter.ts';
import type { Circuit } from './circuit.ts';
import { objectKey } from './format.ts';
import { Landing } from './landing.ts';
import type { LandingRun } from './landing.ts';
import type { S3Client } from './s3-client.ts';
import { S3Failure } from './s3-failure.ts';

export interface LoaderOptions {
  readonly client: S3Client;
  readonly circuit: Circuit;
  readonly meter: BusyMeter;
  readonly folder: string;
  readonly blockBytes: number;
  readonly fingerprint: Uint8Array;
}

/** What is now known of an object that a run was read from. `bad`: it holds something else than it should. */
export type ObjectState = 'good' | 'gone' | 'bad';

/** One ranged GET, resumed where it broke off until the deadline. Never rejects; every row of the run comes to its end. */
export async function loadRun(options: LoaderOptions, run: LandingRun, firstLo: number, firstHi: number, limits: { deadlineMs: number; signal: AbortSignal }): Promise<ObjectState> {
  const { client, circuit, meter, folder, blockBytes, fingerprint } = options;
  let state: ObjectState = 'good';
  const ended = (row: number, status: KvBlockStatus): void => {
    if (status === KvBlockStatus.Foreign || status === KvBlockStatus.Failed) state = 'bad';
    run.ended(row, status);
  };
  const landing = new Landing({ ...run, ended }, blockBytes, fingerprint);
  if (circuit.isOpen) {
    landing.fail(KvBlockStatus.Missing);
    return 'good';
  }
  meter.begin();
  try {
    await client.call({ method: 'GET', key: objectKey(folder, firstLo, firstHi), attempt: () => landing.attempt(), ...limits });
    circuit.succeeded();
    // A whole answer with too few bytes: the object is shorter than it was said to be.
    landing.fail(KvBlockStatus.Failed);
    return state;
  } catch (error) {
    const failure = S3Failure.from(error);
    if (failure.status === 404) {
      landing.fail(KvBlockStatus.Missing);
      return 'gone';
    }
    if (failure.status === 416) {
      landing.fail(KvBlockStatus.Failed);
      return 'bad';
    }
    if (failure.code === 'Deadline') {
      if (landing.isSilent) circuit.suspect();
    } else circuit.failed(failure);
    const wasBad = (state as ObjectState) === 'bad';
    landing.fail(failure.code === 'Canceled' ? KvBlockStatus.Canceled : circuit.isOpen ? KvBlockStatus.Missing : KvBlockStatus.Failed);
    return wasBad ? 'bad' : 'good';
  } finally {
    meter.end(landing.landed, landing.landed * blockBytes);
  }
}
