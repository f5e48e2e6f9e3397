import type { WorkerRecord } from '@armature/contracts';
import { PROTOCOL } from '../messages.ts';

const MAX_NAME_LENGTH = 256;

/** Why a discovery entry cannot be a worker of the model, or undefined. Entries are written by other processes: everything is looked at. */
export function refusalOf(worker: WorkerRecord | undefined | null, blockSize: number, protocol = PROTOCOL): { readonly code: string; readonly message: string } | undefined {
  if (typeof worker !== 'object' || worker === null || typeof worker.instanceId !== 'string' || typeof worker.address !== 'string' || !Array.isArray(worker.taints)) {
    return { code: 'SERVING_WORKER_INVALID', message: 'its discovery entry is no worker record' };
  }
  const { adapters } = worker;
  if (adapters !== undefined && !(Array.isArray(adapters) && adapters.every((name) => typeof name === 'string' && name !== '' && name.length <= MAX_NAME_LENGTH))) {
    return { code: 'SERVING_WORKER_INVALID', message: `adapters of its discovery entry is not a list of names of 1 to ${MAX_NAME_LENGTH} characters` };
  }
  // What a version adds is optional in records and methods, so that the version before it can be served. The other way round nobody knows.
  if (worker.protocol !== protocol && worker.protocol !== protocol - 1) {
    const newer = worker.protocol > protocol ? 'upgrade this process first' : 'upgrade the worker';
    return { code: 'SERVING_PROTOCOL_MISMATCH', message: `it speaks protocol ${worker.protocol}, this process ${protocol} and ${protocol - 1}; ${newer}` };
  }
  // Its hashes would never match: no overlap would ever be found, silently.
  if (worker.blockSize !== blockSize) return { code: 'SERVING_WORKER_MISMATCH', message: `its blocks have ${worker.blockSize} tokens, those of the model ${blockSize}; set the same blockSize everywhere` };
  return undefined;
}
