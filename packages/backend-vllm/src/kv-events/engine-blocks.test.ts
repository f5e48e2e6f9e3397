import { expect, test } from 'vitest';
import type { KvEvent } from '@armature/contracts';
import { noSalt, sequenceHashes } from '@armature/tokens';
import { seeded } from '../fake-vllm.test.support.ts';
import { BatchReader } from './batch-reader.ts';
import { batch, removed, stored } from './encode.test.support.ts';
import { EngineBlocks } from './engine-blocks.ts';

const SIZE = 4;
const keysOf = (hashes: Int32Array): string[] => Array.from({ length: hashes.length / 2 }, (_, i) => `${hashes[2 * i]},${hashes[2 * i + 1]}`);

/** What a follower believes. */
class Follower {
  readonly held = new Set<string>();
  lastId = 0;
  apply(event: KvEvent): void {
    if (event.type === 'cleared') this.held.clear();
    else for (const key of keysOf(event.sequenceHashes)) this.held[event.type === 'stored' ? 'add' : 'delete'](key);
  }
  live(event: KvEvent): void {
    expect(event.eventId).toBe(++this.lastId);
    if (event.type === 'stored' && event.parent.length > 0) expect(this.held.has(keysOf(event.parent)[0]!), 'parent first').toBe(true);
    this.apply(event);
  }
}

/** A block pool as vLLM has it: any number of copies of a hash, each told when it is stored and when it goes; chains share prefixes. */
class Pool {
  readonly chains: { hash: bigint; key: string; copies: number; parent: number; tokens: number[]; children: number }[] = [];
  readonly #next: (bound: number) => number;
  constructor(next: (bound: number) => number) {
    this.#next = next;
  }
  step(): object | undefined {
    const live = this.chains.flatMap(({ copies }, i) => (copies > 0 ? [i] : []));
    const pick = this.#next(10);
    if (pick < 5) return this.#store(pick === 0 || live.length === 0 ? -1 : live[this.#next(live.length)]!);
    if (pick === 5 && live.length > 0) return this.#again(live[this.#next(live.length)]!);
    const leaves = live.filter((i) => !this.chains.some(({ parent, copies }) => parent === i && copies > 0) || this.chains[i]!.copies > 1);
    if (leaves.length === 0) return undefined;
    const gone = this.chains[leaves[this.#next(leaves.length)]!]!;
    gone.copies--;
    return removed([gone.hash]);
  }
  #again(at: number): object {
    const chain = this.chains[at]!;
    chain.copies++;
    return stored([chain.hash], chain.parent === -1 ? null : this.chains[chain.parent]!.hash, chain.tokens.slice(-SIZE));
  }
  #store(parent: number): object {
    const before = parent === -1 ? [] : this.chains[parent]!.tokens;
    const hashes: bigint[] = [];
    const added: number[] = [];
    let last = parent;
    const count = 1 + this.#next(3);
    for (let i = 0; i < count; i++) {
      for (let t = 0; t < SIZE; t++) added.push(this.#next(100_000));
      const tokens = [...before, ...added];
      const hash = (BigInt(this.chains.length + 1) << 40n) | 0xff00_0000_0000_0007n;
      this.chains.push({ hash, key: keysOf(sequenceHashes(Int32Array.from(tokens), tokens.length, SIZE, noSalt)).at(-1)!, copies: 1, parent: last, tokens, children: 0 });
      last = this.chains.length - 1;
      hashes.push(hash);
    }
    return stored(hashes, parent === -1 ? null : this.chains[parent]!.hash, added);
  }
  get held(): string[] {
    return this.chains.filter(({ copies }) => copies > 0).map(({ key }) => key).sort();
  }
}

test('followers and snapshots hold what the pool holds, after any events', () => {
  for (const seed of [1, 2, 3, 4]) {
    const next = seeded(seed);
    const pool = new Pool(next);
    const follower = new Follower();
    const blocks = new EngineBlocks(SIZE, (event) => follower.live(event));
    const reader = new BatchReader();
    for (let round = 0; round < 60; round++) {
      const events = Array.from({ length: 1 + next(6) }, () => pool.step()).filter((event) => event !== undefined);
      reader.read(batch(round, ...events), blocks);
      blocks.flush();
      expect([...follower.held].sort(), `seed ${seed}, round ${round}`).toEqual(pool.held);
    }
    const rebuilt = new Follower();
    const snapshot = blocks.snapshot();
    for (const event of snapshot) {
      if (event.type === 'stored' && event.parent.length > 0) expect(rebuilt.held.has(keysOf(event.parent)[0]!), 'parent first').toBe(true);
      rebuilt.apply(event);
    }
    expect([...rebuilt.held].sort(), `snapshot, seed ${seed}`).toEqual(pool.held);
    expect(snapshot.at(-1)?.eventId).toBe(blocks.lastId);
    expect(blocks.heldBlocks).toBe(pool.held.length);
    for (const { hash, copies } of pool.chains) for (let copy = 0; copy < copies; copy++) reader.read(batch(99, removed([hash])), blocks);
    blocks.flush();
    expect([blocks.rows, blocks.tenants, follower.held.size], 'nothing is left').toEqual([0, 0, 0]);
    expect(blocks.counts.unknownRemovals).toBe(0);
  }
});

test('what cannot be named is left out and counted: orphans, other sizes, images, other groups, media and types', () => {
  const follower = new Follower();
  const blocks = new EngineBlocks(SIZE, (event) => follower.live(event));
  const reader = new BatchReader();
  reader.read(
    batch(
      1,
      stored([1n], 99n, [1, 2, 3, 4]),
      stored([2n], null, [1, 2, 3]),
      stored([3n, 4n], null, [1, 2, 3, 4, 5, 6, 7, 8], { extra_keys: [null, [['image', 3]]] }),
      stored([5n], 4n, [9, 9, 9, 9]),
      stored([6n], null, [7, 7, 7, 7], { group_idx: 1 }),
      stored([7n], null, [7, 7, 7, 7], { medium: 'TAPE' }),
      { type: 'BlockMoved', block_hashes: [3n] },
      removed([98n]),
    ),
    blocks,
  );
  expect(blocks.counts).toMatchObject({ orphanBlocks: 1, misshapenBlocks: 1, foreignBlocks: 2, ignoredEvents: 3, unknownRemovals: 1 });
  expect(follower.held.size).toBe(1);
  reader.read(batch(2, removed([5n]), removed([4n]), removed([3n])), blocks);
  blocks.flush();
  expect([follower.held.size, blocks.rows, blocks.tenants]).toEqual([0, 0, 0]);
});

test('more copies than the engine has blocks are noticed', () => {
  const blocks = new EngineBlocks(SIZE, () => undefined);
  blocks.totalBlocks = 2;
  const reader = new BatchReader();
  reader.read(batch(1, stored([5n], null, [1, 2, 3, 4]), stored([5n], null, [1, 2, 3, 4])), blocks);
  expect([blocks.heldBlocks, blocks.isOverfull]).toEqual([1, false]);
  reader.read(batch(1, stored([5n], null, [1, 2, 3, 4])), blocks);
  expect(blocks.isOverfull).toBe(true);
});
