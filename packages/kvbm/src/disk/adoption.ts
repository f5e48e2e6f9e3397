import type { BlockTable } from '../store/block-table.ts';
import { RECORD_WORDS, stampOf, Word } from './format.ts';
import type { StoreIndex } from './store-index.ts';

/**
 * Gives the table every complete block of the index, longest unused first. Of two records of one hash (a block was moved, and the process died before the old
 * record was struck out) the younger stays; both hold the right bytes.
 */
export function adoptBlocks(index: StoreIndex, table: BlockTable): { readonly kept: number; readonly doubled: number } {
  const slots = byLastUse(index);
  const { words } = index;
  let kept = 0;
  let doubled = 0;
  for (let i = 0; i < slots.length; i++) {
    const slot = slots[i]!;
    const at = slot * RECORD_WORDS;
    const lo = words[at + Word.Hash]!;
    const hi = words[at + Word.Hash + 1]!;
    const [parentLo, parentHi] = [words[at + Word.Parent]!, words[at + Word.Parent + 1]!];
    if (table.adopt(slot, lo, hi, parentLo, parentHi)) {
      kept++;
      continue;
    }
    const older = table.find(lo, hi);
    if (older === -1) {
      index.invalidate(slot);
      continue;
    }
    table.invalidate(older, 'failed');
    index.invalidate(older);
    doubled++;
    table.adopt(slot, lo, hi, parentLo, parentHi);
  }
  return { kept, doubled };
}

/** Held slots by stamp. Sorted as one column of numbers: stamp and slot packed into 53 bits, stamps made coarser only if they do not fit. */
function byLastUse(index: StoreIndex): Int32Array {
  const { words, slots } = index;
  let held = 0;
  let first = Infinity;
  let last = 0;
  for (let slot = 0; slot < slots; slot++) {
    if (!index.isHeld(slot)) continue;
    const stamp = stampOf(words, slot);
    held++;
    if (stamp < first) first = stamp;
    if (stamp > last) last = stamp;
  }
  const slotRange = 2 ** Math.ceil(Math.log2(slots + 1));
  const stampRange = 2 ** 53 / slotRange;
  const scale = Math.min(1, (stampRange - 1) / Math.max(1, last - first));
  const keys = new Float64Array(held);
  for (let slot = 0, at = 0; slot < slots; slot++) if (index.isHeld(slot)) keys[at++] = Math.floor((stampOf(words, slot) - first) * scale) * slotRange + slot;
  keys.sort();
  const ordered = new Int32Array(held);
  for (let i = 0; i < held; i++) ordered[i] = keys[i]! % slotRange;
  return ordered;
}
