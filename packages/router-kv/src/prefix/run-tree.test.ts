import { expect, test } from 'vitest';
import { seeded } from '../fixtures.test.support.ts';
import { HashSlabs, SLAB_HASHES } from './hash-slabs.ts';
import { NONE, RunTree } from './run-tree.ts';

/** Marks every run up to the root for the slot; returns how many. */
function markAll(tree: RunTree, end: number, slot: number): number {
  let count = 0;
  for (let run = end; run !== NONE; run = tree.parentOf(run)) {
    if (tree.mark(run, slot) === NONE) tree.addMark(run, slot);
    count++;
  }
  return count;
}
const plainTree = (): RunTree => {
  const tree: RunTree = new RunTree({
    cut: (upper, lower) => {
      for (let mark = tree.firstMark(lower); mark !== NONE; mark = tree.nextMark(mark)) tree.addMark(upper, tree.slotOf(mark));
    },
  });
  return tree;
};
/** Chains of a trie: block i of a chain is named by its whole prefix. */
const chain = (...path: number[]): Int32Array => {
  const hashes = new Int32Array(path.length * 2);
  let hash = 17;
  path.forEach((step, i) => {
    hash = Math.imul(hash ^ step, 0x9e3779b1) + 1;
    hashes[i * 2] = hash;
    hashes[i * 2 + 1] = hash ^ 0x5bd1e995;
  });
  return hashes;
};

test('a chain is one run until another leaves it; the number of runs follows branches, not blocks', () => {
  const tree = plainTree();
  const long = Array.from({ length: 512 }, (_, i) => i);
  expect(markAll(tree, tree.insert(chain(...long), 512), 0)).toBe(1);
  expect(markAll(tree, tree.insert(chain(...long), 512), 1)).toBe(1);
  expect([tree.runs, tree.blocks]).toEqual([1, 512]);
  const sibling = [...long.slice(0, 200), ...long.slice(0, 312).map((i) => i + 1000)];
  expect(markAll(tree, tree.insert(chain(...sibling), 512), 2)).toBe(2);
  expect([tree.runs, tree.blocks, tree.markCount]).toEqual([3, 824, 6]);
  const head = tree.child(NONE, chain(...long), 0);
  expect([tree.startOf(head), tree.lengthOf(head)]).toEqual([0, 200]);
  for (const cut of [1, 2, 199]) expect(tree.match(head, chain(...long.slice(0, cut), ...Array<number>(300).fill(-7)), 0, cut + 300)).toBe(cut);
});

test('a chain longer than a slab goes on in the next run', () => {
  const tree = plainTree();
  const path = Array.from({ length: SLAB_HASHES + 5 }, (_, i) => i);
  expect(markAll(tree, tree.insert(chain(...path), path.length), 0)).toBe(2);
  expect([tree.covered, tree.blocks, tree.conflicts]).toEqual([SLAB_HASHES + 5, SLAB_HASHES + 5, 0]);
});

test('hashes that are no chain do no harm: what contradicts is left out, and all of it goes again', () => {
  const seed = 99;
  console.log(`run-tree seed ${seed}`);
  const random = seeded(seed);
  const tree = plainTree();
  const ends: [number, number][] = [];
  for (let i = 0; i < 4000; i++) {
    const blocks = 1 + random.below(6);
    const hashes = Int32Array.from({ length: blocks * 2 }, (_, k) => (k % 2 === 0 ? random.below(5) : 0)); // 5 different hashes, zero among them
    const end = tree.insert(hashes, blocks);
    expect(tree.covered).toBeLessThanOrEqual(blocks);
    if (end !== NONE) ends.push([end, i]);
    markAll(tree, end, i);
  }
  expect(tree.conflicts).toBeGreaterThan(100);
  for (const [, slot] of ends) {
    // Bottom first: the deepest run with a mark of this slot.
    const marked: number[] = [];
    for (const [end] of ends) for (let run = end; run !== NONE; run = tree.parentOf(run)) if (tree.mark(run, slot) !== NONE && !marked.includes(run)) marked.push(run);
    if (marked.length === 0) continue;
    marked.sort((a, b) => tree.startOf(b) - tree.startOf(a)).forEach((run) => tree.removeMark(tree.mark(run, slot)));
    if (slot > 300) break;
  }
});

test('slabs: pieces keep their words, sizes do not mix, empty slabs serve other sizes', () => {
  const seed = 5;
  console.log(`hash-slabs seed ${seed}`);
  const random = seeded(seed);
  const slabs = new HashSlabs();
  const pieces: { address: number; count: number; first: number }[] = [];
  const source = new Int32Array(SLAB_HASHES * 2);
  for (let step = 0; step < 20_000; step++) {
    if (random.below(100) < (step < 12_000 ? 60 : 30)) {
      const count = random.below(50) === 0 ? 1 + random.below(SLAB_HASHES) : 1 + random.below(600);
      for (let i = 0; i < count * 2; i++) source[i] = step + i;
      pieces.push({ address: slabs.store(source, 0, count), count, first: step });
    } else if (pieces.length > 0) {
      const [piece] = pieces.splice(random.below(pieces.length), 1);
      const words = slabs.slab(piece.address);
      const at = slabs.offset(piece.address);
      for (let i = 0; i < piece.count * 2; i++) if (words[at + i] !== piece.first + i) expect.fail(`step ${step}: word ${i} of a piece of ${piece.count} was overwritten`);
      slabs.free(piece.address);
    }
  }
  expect(slabs.pieces).toBe(pieces.length);
  for (const { address } of pieces) slabs.free(address);
  expect(slabs.pieces).toBe(0);
  expect(slabs.bytes).toBeLessThanOrEqual(16 * SLAB_HASHES * 8); // spares only
});
