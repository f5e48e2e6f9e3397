import type { TransferTransport, TransportEndpoint, TransportHost } from '@armature/contracts';
import { controlPageMissing } from '../local/control-page.ts';
import { DEFAULT_TURN_BUDGET_MS, openLocalEndpoint } from '../local/open-endpoint.ts';
import type { LocalTransportConfig, LocalTransportOptions } from '../local/open-endpoint.ts';
import { Turns } from '../local/turns.ts';
import { libcMissing } from '../native/libc.ts';
import { cmaMover } from './cma-mover.ts';
import { crossMemoryForbidden } from './permission.ts';

export interface CmaTransportConfig extends LocalTransportConfig {
  readonly sameUserTrust?: boolean;
}
export interface CmaTransportOptions extends LocalTransportOptions {
  readonly sameUserTrust?: boolean;
}

/**
 * One-sided copies to and from memory of another process that is not shared: any ArrayBuffer, a WebAssembly memory.
 * The kernel lets a process of the same user touch all of another's memory, so the two must trust each other fully: the owner is asked what may
 * be touched (grants hold between programs that keep to this protocol), it cannot enforce it. Off unless `sameUserTrust`; never between tenants.
 */
export class CmaTransport implements TransferTransport {
  readonly name = 'cma';
  readonly supports = { sameProcess: true, sameHost: true, remoteHosts: false, notifications: true, kinds: ['dram'] as const };
  readonly #options: CmaTransportOptions;
  readonly #turns: Turns;

  constructor(options: CmaTransportOptions) {
    this.#options = options;
    this.#turns = new Turns(options.clock, options.turnBudgetMs ?? DEFAULT_TURN_BUDGET_MS);
  }

  unavailable(): string | undefined {
    if (this.#options.sameUserTrust !== true) return 'reads memory of other processes: set sameUserTrust where every process of this user is trusted';
    return libcMissing() ?? controlPageMissing() ?? crossMemoryForbidden();
  }

  /** Throws `TRANSFER_LISTEN_FAILED`, `TRANSFER_NATIVE_UNAVAILABLE`. */
  open(host: TransportHost): Promise<TransportEndpoint> {
    return openLocalEndpoint(host, cmaMover, this.#turns, this.#options);
  }
}
