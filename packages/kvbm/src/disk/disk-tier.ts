import fs from 'node:fs';
import type { KvTierBackend, KvTierHost } from '@armature/contracts';
import { resolveDiskConfig } from './disk-config.ts';
import type { DiskConfig, DiskTierConfig } from './disk-config.ts';
import type { DiskIo } from './disk-io.ts';
import { DiskStore } from './disk-store.ts';
import { geometryFor } from './geometry.ts';
import { assertDevice } from './slabs.ts';
import { chooseFolder } from './store-folder.ts';

/** Blocks on a local disk, in one folder per worker, kept over restarts. */
export class DiskTier implements KvTierBackend {
  readonly tier = 'disk';
  readonly #config: DiskConfig;
  readonly #io: DiskIo;
  #store: DiskStore | undefined = undefined;

  /** `io`: for tests. Throws `KVBM_CAPACITY_INVALID`. */
  constructor(config: DiskTierConfig = {}, io: DiskIo = fs) {
    this.#config = resolveDiskConfig(config);
    this.#io = io;
  }

  capacityBytes(): number {
    return this.#config.capacityBytes;
  }

  /**
   * Throws `KVBM_STORE_LOCKED`, `KVBM_STORE_NEWER`, `KVBM_STORE_PATH_INVALID`, `KVBM_STORE_DENIED`, `KVBM_STORE_FAILED`, `KVBM_CAPACITY_INVALID`,
   * `KVBM_CAPACITY_OVER_DEVICE`. A full or failing disk opens degraded.
   */
  async open(host: KvTierHost): Promise<DiskStore> {
    const geometry = geometryFor(this.#config, host.blockBytes);
    const { folder, discard } = await chooseFolder(this.#config.path, host);
    // A folder for the life of the process is not worth reserving space for.
    const config = discard === undefined ? this.#config : { ...this.#config, preallocate: false };
    try {
      // Before memory is taken for so many blocks.
      await assertDevice(folder, geometry);
      this.#store = await DiskStore.open({ config, host, folder, io: this.#io, discard }, geometry.slots);
    } catch (error) {
      await discard?.();
      throw error;
    }
    return this.#store;
  }

  async close(): Promise<void> {
    await this.#store?.close();
  }
}
