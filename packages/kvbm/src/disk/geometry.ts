import { ArmatureError } from '@armature/contracts';
import { PAGE_BYTES } from './format.ts';

/** Where slot `s` lies: slab `s / slotsPerSlab`, at `(s % slotsPerSlab) * slotBytes`. */
export interface StoreGeometry {
  readonly blockBytes: number;
  readonly slotBytes: number;
  readonly slots: number;
  readonly slotsPerSlab: number;
}

const MAX_SLOTS = 2 ** 30 - 1;

/** Throws `KVBM_CAPACITY_INVALID`. `slotsPerSlab`: of a store that is there already; its slabs keep their size. */
export function geometryFor(config: { readonly capacityBytes: number; readonly slabBytes: number }, blockBytes: number, slotsPerSlab?: number): StoreGeometry {
  const slotBytes = Math.ceil(blockBytes / PAGE_BYTES) * PAGE_BYTES;
  const slots = Math.floor(config.capacityBytes / slotBytes);
  if (slots < 1 || slots > MAX_SLOTS) {
    throw new ArmatureError('KVBM_CAPACITY_INVALID', `${config.capacityBytes} bytes hold ${slots} blocks of ${blockBytes} bytes (${slotBytes} on disk)`, { hint: `give the disk tier room for 1 to ${MAX_SLOTS} blocks` });
  }
  return { blockBytes, slotBytes, slots, slotsPerSlab: slotsPerSlab ?? Math.max(1, Math.floor(config.slabBytes / slotBytes)) };
}

export function slabsOf({ slots, slotsPerSlab }: StoreGeometry): number {
  return Math.ceil(slots / slotsPerSlab);
}

/** Slots of one slab: the last one may be shorter. */
export function slotsOfSlab({ slots, slotsPerSlab }: StoreGeometry, slab: number): number {
  return Math.min(slotsPerSlab, slots - slab * slotsPerSlab);
}

export function slabName(slab: number): string {
  return `slab-${String(slab).padStart(5, '0')}`;
}

export function isSlabName(name: string): boolean {
  return /^slab-\d{5,}$/.test(name);
}
