import { ArmatureError } from '@armature/contracts';
import type { KvTierBackend, KvTierHost } from '@armature/contracts';
import { formatSize, sizeBytes } from '../size.ts';
import { HostMemory, thisMachine } from './host-memory.ts';
import type { HostMachine } from './host-memory.ts';
import { HostStore } from './host-store.ts';

/** Fields as in the plug-in's schema. */
export interface HostTierConfig {
  readonly capacity?: number | string;
}

export const DEFAULT_HOST_CAPACITY = '256MiB';

/** Blocks begin at page boundaries: what direct file I/O and DMA want. */
const ALIGNMENT_BYTES = 4096;

/** KV blocks in this host's memory (G2), shared with the processes of this host. */
export class HostTier implements KvTierBackend {
  readonly tier = 'host';
  readonly #capacityBytes: number;
  readonly #machine: HostMachine;

  /** Throws `KVBM_CAPACITY_INVALID`. */
  constructor({ capacity = DEFAULT_HOST_CAPACITY }: HostTierConfig = {}, machine: HostMachine = thisMachine) {
    this.#capacityBytes = sizeBytes(capacity, 'the capacity of the host tier');
    this.#machine = machine;
  }

  capacityBytes(): number {
    return this.#capacityBytes;
  }

  /** Throws `KVBM_CAPACITY_INVALID`: not one block, too many, or more than the machine has. */
  async open(host: KvTierHost): Promise<HostStore> {
    const { blockBytes, worker, log, mover } = host;
    const blockStrideBytes = Math.ceil(blockBytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    const blocks = Math.floor(this.#capacityBytes / blockStrideBytes);
    if (!(blocks >= 1 && blocks < 2 ** 30)) {
      throw new ArmatureError('KVBM_CAPACITY_INVALID', `a host tier of ${formatSize(this.#capacityBytes)} for blocks of ${formatSize(blockStrideBytes)}`, { hint: 'it must hold at least one block and fewer than 2^30' });
    }
    const layout = { blocks, blockStrideBytes, pieces: 1, pieceBytes: blockBytes, pieceStrideBytes: blockBytes };
    const memory = HostMemory.allocate({ layout, name: `armature-kv-${worker}`, mover, log, machine: this.#machine, othersWrite: host.engineWrites === true });
    log.info('host tier is open', { blocks, blockBytes, bytes: blocks * blockStrideBytes, mapped: memory.isMapped });
    return new HostStore(host, memory);
  }
}
