import { sizeBytes } from '../size.ts';

/** Fields as in the plug-in's schema; sizes in bytes or with a unit. */
export interface DiskTierConfig {
  readonly path?: string;
  readonly capacity?: number | string;
  readonly slabBytes?: number | string;
  readonly preallocate?: boolean;
  readonly direct?: boolean;
  readonly maxRunning?: number;
  readonly maxQueued?: number;
  readonly readBytesPerSecond?: number | string;
  readonly writeBytesPerSecond?: number | string;
  readonly probeMs?: number;
}

/** Resolved. */
export interface DiskConfig {
  /** Undefined: a folder of its own for the life of the process. */
  readonly path: string | undefined;
  readonly capacityBytes: number;
  readonly slabBytes: number;
  readonly preallocate: boolean;
  readonly direct: boolean;
  readonly maxRunning: number;
  readonly maxQueued: number;
  readonly readBytesPerSecond: number | undefined;
  readonly writeBytesPerSecond: number | undefined;
  readonly probeMs: number;
}

export const diskDefaults = { capacity: '1GiB', slabBytes: '1GiB', preallocate: true, direct: true, maxRunning: 8, maxQueued: 64, probeMs: 2000 } as const;

/** Throws `KVBM_CAPACITY_INVALID` for what is no size. */
export function resolveDiskConfig(config: DiskTierConfig): DiskConfig {
  const { path, capacity, slabBytes, preallocate, direct, maxRunning, maxQueued, readBytesPerSecond, writeBytesPerSecond, probeMs } = { ...diskDefaults, ...config };
  const rate = (size: number | string | undefined, what: string): number | undefined => (size === undefined ? undefined : sizeBytes(size, what));
  return {
    path,
    capacityBytes: sizeBytes(capacity, 'capacity'),
    slabBytes: sizeBytes(slabBytes, 'slabBytes'),
    preallocate,
    direct,
    maxRunning,
    maxQueued,
    readBytesPerSecond: rate(readBytesPerSecond, 'readBytesPerSecond'),
    writeBytesPerSecond: rate(writeBytesPerSecond, 'writeBytesPerSecond'),
    probeMs,
  };
}
