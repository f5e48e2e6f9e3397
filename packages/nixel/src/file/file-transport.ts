import type { Clock, Logger, TransferTransport, TransportHost } from '@armature/contracts';
import { FileEndpoint } from './file-endpoint.ts';
import type { FileIo } from './file-endpoint.ts';

/** Fields as in the plug-in's schema. */
export interface FileTransportConfig {
  readonly queueDepth?: number;
  readonly maxOperationBytes?: number;
  readonly sync?: 'none' | 'data' | 'full';
}

export interface FileTransportOptions extends FileTransportConfig {
  readonly clock: Clock;
  readonly log: Logger;
  /** For tests: system calls that fail. Default node:fs. */
  readonly io?: FileIo;
}

/** Memory to file and back within one agent, positional and batched. The agent is its own peer. */
export class FileTransport implements TransferTransport {
  readonly name = 'file';
  readonly supports = { sameProcess: true, sameHost: false, remoteHosts: false, notifications: false, selfOnly: true, kinds: ['dram', 'file'] as const };
  readonly #options: FileTransportOptions;

  constructor(options: FileTransportOptions) {
    this.#options = options;
  }

  unavailable(): undefined {
    return undefined;
  }

  open(host: TransportHost): Promise<FileEndpoint> {
    const { clock, log, queueDepth = 32, maxOperationBytes = 1 << 20, sync = 'none', io } = this.#options;
    return Promise.resolve(new FileEndpoint({ host, clock, log, queueDepth, maxOperationBytes, sync, io }));
  }
}
