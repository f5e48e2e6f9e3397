import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger, MemoryKind, TransferTransport, TransportEndpoint, TransportHost } from '@armature/contracts';
import type { NixlAgent, NixlLibrary } from './binding.ts';
import { loadNixl } from './capi.ts';
import { activeRdmaPorts, requireFabric } from './fabric.ts';
import type { FabricRequirement } from './fabric.ts';
import { nixlName } from './frames.ts';
import { findLibrary, machineSearch } from './library.ts';
import { NixlEndpoint } from './nixl-endpoint.ts';

/** Fields as in the plug-in's schema. */
export interface NixlTransportConfig {
  readonly library?: string;
  readonly backend?: string;
  readonly params?: Readonly<Record<string, string>>;
  readonly storage?: string;
  readonly storageParams?: Readonly<Record<string, string>>;
  readonly require?: FabricRequirement;
  readonly progressThread?: boolean;
  readonly splitBytes?: number;
  readonly spinMicros?: number;
  readonly idlePollMs?: number;
  readonly pingMs?: number;
  readonly cancelGraceMs?: number;
}

export interface NixlTransportOptions extends NixlTransportConfig {
  readonly clock: Clock;
  readonly log: Logger;
  /** Instead of the installed library; tests. Throws ArmatureError when it cannot be used. */
  readonly load?: () => NixlLibrary;
  /** How long a cut connection is given to be really closed before its transfers are reported. Default 10 ms. */
  readonly settleMs?: number;
  /** Least time between attempts to reach a lost peer by the same metadata. Default 1 s. */
  readonly retryMs?: number;
}

/** Oldest release whose C API has everything used here. */
const OLDEST = [1, 3] as const;

/** Moves KV blocks by NVIDIA NIXL: RDMA, RoCE, EFA, GPUDirect; files by its storage backends. */
export class NixlTransport implements TransferTransport {
  readonly name = 'nixl';
  readonly supports: TransferTransport['supports'];
  readonly #options: NixlTransportOptions;
  #library: NixlLibrary | string | undefined = undefined;

  constructor(options: NixlTransportOptions) {
    this.#options = options;
    const kinds: MemoryKind[] = ['dram', 'device'];
    if (options.storage) kinds.push('file');
    this.supports = { sameProcess: true, sameHost: true, remoteHosts: true, notifications: true, kinds };
  }

  unavailable(): string | undefined {
    const library = (this.#library ??= this.#load());
    return typeof library === 'string' ? library : undefined;
  }

  /** Throws `TRANSFER_NIXL_UNAVAILABLE`, `TRANSFER_NIXL_FAILED` (the backend does not start). */
  open(host: TransportHost): Promise<TransportEndpoint> {
    const library = (this.#library ??= this.#load());
    if (typeof library === 'string') {
      return Promise.reject(new ArmatureError('TRANSFER_NIXL_UNAVAILABLE', `NIXL cannot be used: ${library}`, { hint: 'install it, or leave the transport "nixl" out' }));
    }
    const { progressThread = true } = this.#options;
    const agent = library.createAgent(nixlName(host.agentName, host.incarnation), { progressThread });
    try {
      return Promise.resolve(this.#endpoint(host, library, agent));
    } catch (error) {
      agent.destroy();
      return Promise.reject(ArmatureError.from(error, 'TRANSFER_NIXL_FAILED'));
    }
  }

  #endpoint(host: TransportHost, library: NixlLibrary, agent: NixlAgent): NixlEndpoint {
    const { clock, log, backend = 'UCX', params = {}, storage = '', storageParams = {} } = this.#options;
    const has = agent.plugins();
    for (const name of [backend, storage]) {
      if (name !== '' && !has.includes(name)) {
        throw new ArmatureError('TRANSFER_NIXL_FAILED', `NIXL has no plug-in "${name}"; it has ${has.join(', ') || 'none'}`, { hint: 'name one of them, or point NIXL_PLUGIN_DIR to the folder of libplugin_*.so' });
      }
    }
    return new NixlEndpoint({
      host,
      library,
      agent,
      backend,
      fabric: agent.createBackend(backend, params),
      storage: storage === '' ? undefined : agent.createBackend(storage, storageParams),
      clock,
      log,
      splitBytes: this.#options.splitBytes ?? 4 << 20,
      spinMs: (this.#options.spinMicros ?? 50) / 1000,
      idleMs: this.#options.idlePollMs ?? 5,
      pingMs: this.#options.pingMs ?? 1000,
      cancelGraceMs: this.#options.cancelGraceMs ?? 1000,
      settleMs: this.#options.settleMs ?? 10,
      retryMs: this.#options.retryMs ?? 1000,
    });
  }

  #load(): NixlLibrary | string {
    const { load, library = '', require = 'any', backend = 'UCX', log } = this.#options;
    try {
      if (load !== undefined) return tooOld(load());
      const found = findLibrary(machineSearch(library));
      if (typeof found === 'string') return found;
      const ports = activeRdmaPorts();
      const refused = requireFabric(require, backend, ports, process.env);
      if (refused !== undefined) return refused;
      log.info('NIXL loaded', { file: found.file, version: found.version || 'unknown', backend, rdmaPorts: ports.join(', ') || 'none', ucxTls: process.env['UCX_TLS'] ?? 'all' });
      return tooOld(loadNixl(found.file, found.version));
    } catch (error) {
      const { message, hint } = ArmatureError.from(error, 'TRANSFER_NIXL_UNAVAILABLE');
      return hint === undefined ? message : `${message}; ${hint}`;
    }
  }
}

function tooOld(library: NixlLibrary): NixlLibrary | string {
  const [major = 0, minor = 0] = library.version.split('.').map(Number);
  if (library.version === '' || major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1])) return library;
  return `NIXL ${library.version} is too old, ${OLDEST.join('.')} is the oldest that works; pip install --no-deps --upgrade nixl-cu12`;
}
