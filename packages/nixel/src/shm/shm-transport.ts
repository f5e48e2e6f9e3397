import type { TransferTransport, TransportEndpoint, TransportHost } from '@armature/contracts';
import { controlPageMissing } from '../local/control-page.ts';
import { DEFAULT_TURN_BUDGET_MS, openLocalEndpoint } from '../local/open-endpoint.ts';
import type { LocalTransportConfig, LocalTransportOptions } from '../local/open-endpoint.ts';
import { Turns } from '../local/turns.ts';
import { libcMissing } from '../native/libc.ts';
import { shmMover } from './shm-mover.ts';

export type ShmTransportConfig = LocalTransportConfig;
export type ShmTransportOptions = LocalTransportOptions;

/**
 * One-sided copies between processes of one host. The remote side must be memory of `createSharedMemory`, registered with its location;
 * the local side may be any memory. The owner says once per plan or segment what may be touched, and takes it back by its control page.
 */
export class ShmTransport implements TransferTransport {
  readonly name = 'shm';
  readonly supports = { sameProcess: true, sameHost: true, remoteHosts: false, notifications: true, kinds: ['dram'] as const };
  readonly #options: ShmTransportOptions;
  readonly #turns: Turns;

  constructor(options: ShmTransportOptions) {
    this.#options = options;
    this.#turns = new Turns(options.clock, options.turnBudgetMs ?? DEFAULT_TURN_BUDGET_MS);
  }

  unavailable(): string | undefined {
    return libcMissing() ?? controlPageMissing();
  }

  /** Throws `TRANSFER_LISTEN_FAILED`, `TRANSFER_NATIVE_UNAVAILABLE`. */
  open(host: TransportHost): Promise<TransportEndpoint> {
    return openLocalEndpoint(host, shmMover(this.#options.log), this.#turns, this.#options);
  }
}
