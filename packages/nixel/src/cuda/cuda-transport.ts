import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger, TransferTransport, TransportEndpoint, TransportHost } from '@armature/contracts';
import { ControlPage, controlPageMissing } from '../local/control-page.ts';
import { libcMissing } from '../native/libc.ts';
import { localityKey, startTicks } from '../native/process.ts';
import { CudaEndpoint } from './cuda-endpoint.ts';
import { cudaMissing, cudaRuntime } from './runtime.ts';
import type { CudaRuntime } from './runtime.ts';

/** Fields as in the plug-in's schema. */
export interface CudaTransportConfig {
  readonly token?: string;
  readonly pin?: boolean;
  readonly batch?: boolean;
  readonly turnBudgetMs?: number;
  readonly spinMs?: number;
  readonly connectTimeoutMs?: number;
  readonly closeTimeoutMs?: number;
}

export interface CudaTransportOptions extends CudaTransportConfig {
  readonly clock: Clock;
  readonly log: Logger;
  /** Default: the one of this process. */
  readonly runtime?: CudaRuntime;
}

/**
 * Copies between GPU memory and pinned host memory, within a GPU, and to and from GPU memory of other agents of this host. Copies are
 * asynchronous, made by the initiator; owners answer what may be touched and are not otherwise involved.
 */
export class CudaTransport implements TransferTransport {
  readonly name = 'cuda';
  readonly supports = { sameProcess: true, sameHost: true, remoteHosts: false, notifications: true, kinds: ['dram', 'device'] as const };
  readonly #options: CudaTransportOptions;

  constructor(options: CudaTransportOptions) {
    this.#options = options;
  }

  unavailable(): string | undefined {
    return libcMissing() ?? (this.#options.runtime === undefined ? cudaMissing() : undefined) ?? controlPageMissing();
  }

  /** Touches no GPU yet. Throws `TRANSFER_CUDA_UNAVAILABLE`, `TRANSFER_LISTEN_FAILED`. */
  async open(host: TransportHost): Promise<TransportEndpoint> {
    const { clock, log, token = '', pin = true, batch = true, turnBudgetMs = 0.5, spinMs = 2, connectTimeoutMs = 5000, closeTimeoutMs = 5000 } = this.#options;
    const runtime = this.#options.runtime ?? cudaRuntime();
    const socket = `armature-${randomBytes(16).toString('hex')}`;
    const server = net.createServer();
    const page = new ControlPage('armature-control');
    try {
      await listen(server, socket);
    } catch (error) {
      page.close();
      throw error;
    }
    return new CudaEndpoint({
      host,
      runtime,
      server,
      page,
      pin,
      closeTimeoutMs,
      locality: localityKey(),
      facts: { socket, pid: process.pid, startTicks: startTicks(process.pid) ?? 0, page: page.fd },
      settings: { clock, log, token, connectTimeoutMs, randomBytes },
      engine: { turnBudgetMs, spinMs, batch: batch && runtime.driver.hasBatch },
    });
  }
}

function listen(server: net.Server, socket: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => {
      reject(new ArmatureError('TRANSFER_LISTEN_FAILED', `cannot listen on an abstract socket: ${error.message}`, { hint: 'check the limit of open files, or use the tcp transport', cause: error }));
    });
    server.listen({ path: `\0${socket}` }, resolve);
  });
}
