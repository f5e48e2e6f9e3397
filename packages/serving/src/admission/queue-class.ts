import type { WorkerRole } from '@armature/contracts';
import type { QueueOrder } from './order.ts';

/**
 * Where a request may go: the workers of a role, or one of them, or those with certain taints or with a LoRA adapter. Requests of one class can go to the same workers;
 * those of another class never hold them up.
 */
export interface Gate {
  /** Role of the workers that compute the prompt. */
  readonly role: WorkerRole;
  /** Instance the request must go to. */
  readonly worker: string | undefined;
  /** Role `prefill`: the decode worker it must go to. */
  readonly decodeWorker: string | undefined;
  readonly requiredTaints: readonly string[];
  /** Which they must have. */
  readonly adapter?: string | undefined;
}

const SEPARATOR = '\u0000';

/** Equal keys: the same workers are eligible. */
export function gateKey(gate: Gate): string {
  const taints = gate.requiredTaints.length === 0 ? '' : [...new Set(gate.requiredTaints)].sort().join(SEPARATOR);
  return `${gate.role}${SEPARATOR}${gate.worker ?? ''}${SEPARATOR}${gate.decodeWorker ?? ''}${SEPARATOR}${gate.adapter ?? ''}${SEPARATOR}${taints}`;
}

/** The parked requests of one class; exists while there are any. */
export class QueueClass {
  readonly key: string;
  readonly gate: Gate;
  readonly order: QueueOrder;

  constructor(key: string, gate: Gate, order: QueueOrder) {
    this.key = key;
    this.gate = gate;
    this.order = order;
  }
}
