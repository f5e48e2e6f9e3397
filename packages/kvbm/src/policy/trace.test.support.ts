import type { KvEvictionOrder } from '@armature/contracts';
import { seeded } from '../random.test.support.ts';
import { LruOrder } from './lru-order.ts';

/** A prompt: its blocks' numbers, each block follows the one before. */
export type Prompt = readonly number[];

export interface TraceResult {
  /** Leading blocks found held, on the device or in the tier, of all blocks of the prompts. */
  readonly hitRate: number;
  /** The same, each block weighed by what recomputing it costs: 1 + position / 2048. */
  readonly savedCost: number;
  readonly evictions: number;
  readonly refusals: number;
}

const POSITION_BLOCKS = 2048;
const word = (block: number): number => Math.imul(block, 0x9e3779b1) ^ 0x5bd1e995;

/** One tier: a map, and the order under test. */
class TraceTier {
  readonly #order: KvEvictionOrder;
  readonly #placeOf = new Map<number, number>();
  readonly #blockAt: Int32Array;
  readonly #free: number[];
  evictions = 0;
  refusals = 0;

  constructor(order: KvEvictionOrder, places: number) {
    this.#order = order;
    this.#blockAt = new Int32Array(places);
    this.#free = Array.from({ length: places }, (_, i) => places - 1 - i);
  }

  match(prompt: Prompt, from: number): number {
    let at = from;
    while (at < prompt.length && this.#placeOf.has(prompt[at])) at++;
    return at - from;
  }

  /** Held blocks are used, missing ones stored. As the tiers do: leaves first, so that without any knowledge of lineage parents are the younger ones. */
  take(prompt: Prompt, from: number): void {
    const pinned: number[] = [];
    for (let row = from; row < prompt.length; row++) {
      this.#order.seen(prompt[row], word(prompt[row]));
      const held = this.#placeOf.get(prompt[row]);
      const place = held ?? this.#store(prompt, row);
      if (place === -1) continue;
      this.#order.pinned(place);
      pinned.push(held === undefined ? ~place : place);
    }
    for (const entry of pinned.reverse()) {
      const place = entry < 0 ? ~entry : entry;
      if (entry >= 0) this.#order.touched(place);
      this.#order.unpinned(place);
    }
  }

  #store(prompt: Prompt, row: number): number {
    const block = prompt[row];
    let place = this.#free.pop();
    if (place === undefined) {
      place = this.#order.victim();
      if (place === -1 || !this.#order.admits(block, word(block), place)) {
        this.refusals++;
        return -1;
      }
      this.#order.removed(place);
      this.#placeOf.delete(this.#blockAt[place]);
      this.evictions++;
    }
    const parent = row === 0 ? 0 : prompt[row - 1];
    this.#order.inserted(place, block, word(block), this.#placeOf.get(parent) ?? -1, parent, parent === 0 ? 0 : word(parent));
    this.#blockAt[place] = block;
    this.#placeOf.set(block, place);
    return place;
  }
}

/**
 * A tier below a device of `devicePlaces` (LRU) before a stream of prompts. The device answers for the leading blocks it holds; only the rest is asked of
 * the tier, and only the rest is stored in it: so it never hears of the blocks that are used most. Counted after the first quarter.
 */
export function replay(order: KvEvictionOrder, places: number, devicePlaces: number, trace: { readonly prompts: Iterable<Prompt>; readonly turns: number }): TraceResult {
  const device = new TraceTier(new LruOrder(Math.max(1, devicePlaces)), devicePlaces);
  const tier = new TraceTier(order, places);
  let [hits, blocks, saved, cost, count] = [0, 0, 0, 0, 0];
  for (const prompt of trace.prompts) {
    const onDevice = device.match(prompt, 0);
    const matched = onDevice + tier.match(prompt, onDevice);
    if (count++ > trace.turns / 4) {
      for (let row = 0; row < prompt.length; row++) {
        const weight = 1 + row / POSITION_BLOCKS;
        blocks++;
        cost += weight;
        if (row < matched) hits++;
        if (row < matched) saved += weight;
      }
    }
    tier.take(prompt, onDevice);
    if (devicePlaces > 0) device.take(prompt, 0);
  }
  return { hitRate: hits / blocks, savedCost: saved / cost, evictions: tier.evictions, refusals: tier.refusals };
}

/** Number of one of `n`, the first ones more often: Zipf with exponent 1. */
function zipf(n: number, below: (bound: number) => number): number {
  return Math.min(n - 1, Math.floor(Math.exp((below(1 << 24) / (1 << 24)) * Math.log(n + 1))) - 1);
}

/** Conversations under a few dozen system prompts, both Zipf: each turn is the whole conversation so far and a few blocks more. They end, and others begin. */
export function* multiTurn(turns: number, seed: number): Generator<Prompt> {
  const below = seeded(seed);
  let next = 1;
  const fresh = (count: number): number[] => Array.from({ length: count }, () => next++);
  const systems = Array.from({ length: 40 }, () => fresh(8 + below(56)));
  const begin = (): number[] => [...systems[zipf(systems.length, below)], ...fresh(4 + below(24))];
  const open = Array.from({ length: 300 }, begin);
  for (let turn = 0; turn < turns; turn++) {
    const at = zipf(open.length, below);
    if (open[at].length > 240 || below(12) === 0) open[at] = begin();
    else open[at] = [...open[at], ...fresh(4 + below(12))];
    yield open[at];
  }
}

/** A few long documents asked about again and again, while other prompts of the same length come once each. */
export function* scan(turns: number, seed: number): Generator<Prompt> {
  const below = seeded(seed);
  let next = 1;
  const fresh = (count: number): number[] => Array.from({ length: count }, () => next++);
  const documents = Array.from({ length: 24 }, () => fresh(64));
  for (let turn = 0; turn < turns; turn++) yield below(3) === 0 ? [...documents[below(documents.length)], ...fresh(2)] : fresh(66);
}
