import assert from 'node:assert/strict';
import type { KvTier } from '../kv-events.ts';
import type { KvEvictionOrder, KvPolicy } from '../kv-policy.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface KvPolicyContractOptions {
  readonly runner: SuiteRunner;
  /** A new policy, independent of all others, with default config. */
  create(): KvPolicy | Promise<KvPolicy>;
  /** Promises of the policy beyond the contract, each with rules of its own. */
  readonly supports?: KvPolicySupports;
  readonly skip?: readonly SkippedRule[];
}

export interface KvPolicySupports {
  /** Blocks without parents that were used equally often go in the order of their last use. */
  readonly leastRecentFirst?: boolean;
  /** A block is no victim while a block that follows it is held. */
  readonly leavesFirst?: boolean;
}

type Create = KvPolicyContractOptions['create'];

const TIERS: readonly KvTier[] = ['device', 'host', 'disk', 'object'];
const SEEDS = [1, 7, 42, 1001];
const NONE = -1;

function random(seed: number): (bound: number) => number {
  let x = seed >>> 0;
  return (bound) => ((x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 8) % bound;
}

interface Held {
  readonly hash: number;
  readonly parent: number;
  isPinned: boolean;
}

/**
 * A tier as the contract describes one: keeps the books the naive way and checks every answer. Blocks are numbers from 1: hash words (n, n ^ 0x5bd1e995).
 */
class Tier {
  readonly order: KvEvictionOrder;
  readonly held: (Held | undefined)[];
  readonly #where: string;
  readonly #supports: KvPolicySupports;

  constructor(order: KvEvictionOrder, places: number, where: string, supports: KvPolicySupports = {}) {
    this.order = order;
    this.held = Array.from({ length: places }, () => undefined);
    this.#where = where;
    this.#supports = supports;
  }

  get free(): number {
    return this.held.indexOf(undefined);
  }

  placeOf(hash: number): number {
    return this.held.findIndex((block) => block?.hash === hash);
  }

  hasChild(place: number): boolean {
    const hash = this.held[place]?.hash;
    return this.held.some((block) => block !== undefined && block.parent === hash);
  }

  insert(place: number, hash: number, parent: number): void {
    this.held[place] = { hash, parent, isPinned: false };
    this.order.inserted(place, hash, word(hash), parent === 0 ? NONE : this.placeOf(parent), parent, word(parent));
  }

  pin(place: number, isPinned: boolean): void {
    const block = this.held[place];
    assert.ok(block !== undefined);
    if (block.isPinned === isPinned) return;
    block.isPinned = isPinned;
    if (isPinned) this.order.pinned(place);
    else this.order.unpinned(place);
  }

  remove(place: number): void {
    this.held[place] = undefined;
    this.order.removed(place);
  }

  /** Asks for the victim and checks the answer. */
  victim(): number {
    const victim = this.order.victim();
    assert.equal(this.order.victim(), victim, `two answers without a change between them (${this.#where})`);
    if (victim === NONE) {
      const evictable = this.held.findIndex((block, place) => block?.isPinned === false && !this.hasChild(place));
      assert.equal(evictable, NONE, `no victim, though place ${evictable} is neither pinned nor followed by a held block (${this.#where})`);
      return victim;
    }
    const block = this.held[victim];
    assert.ok(block !== undefined, `victim ${victim} is a free place or none (${this.#where})`);
    assert.ok(!block.isPinned, `victim ${victim} is pinned (${this.#where})`);
    if (this.#supports.leavesFirst === true) assert.ok(!this.hasChild(victim), `victim ${victim} is followed by a block that is held (${this.#where})`);
    return victim;
  }

  /** Evicts until nothing is left but what is pinned. */
  drain(): void {
    for (let left = this.held.length; left > 0; left--) {
      const victim = this.victim();
      if (victim === NONE) return;
      this.remove(victim);
    }
    assert.equal(this.order.victim(), NONE, `a victim in an empty tier (${this.#where})`);
  }
}

function word(hash: number): number {
  return hash === 0 ? 0 : hash ^ 0x5bd1e995;
}

/** Any calls that a tier may make. Blocks form trees (`parent` of n is n >> 1, every eighth starts a prompt) and come in any order. */
function anyCalls(tier: Tier, below: (bound: number) => number, steps: number): void {
  const places = tier.held.length;
  for (let step = 0; step < steps; step++) {
    const place = below(places);
    const block = tier.held[place];
    const kind = below(8);
    if (kind < 3) {
      const hash = 1 + below(places * 4);
      tier.order.seen(hash, word(hash));
      if (tier.placeOf(hash) !== NONE) continue;
      const to = tier.free === NONE ? tier.victim() : tier.free;
      if (to === NONE) continue;
      if (tier.held[to] !== undefined) {
        assert.equal(typeof tier.order.admits(hash, word(hash), to), 'boolean', 'admits answers true or false');
        tier.remove(to);
      }
      tier.insert(to, hash, hash % 8 === 0 ? 0 : hash >> 1);
    } else if (block === undefined) tier.victim();
    else if (kind === 3) tier.order.touched(place);
    else if (kind === 4) tier.pin(place, true);
    else if (kind < 7) tier.pin(place, false);
    else if (below(4) === 0) tier.remove(place);
    if (step % 5 === 0) tier.victim();
  }
}

async function eachTier(create: Create, supports: KvPolicySupports, body: (tier: Tier, below: (bound: number) => number, where: string) => void): Promise<void> {
  const policy = await create();
  for (const kind of TIERS) {
    for (const places of [1, 2, 17, 64]) {
      for (const seed of SEEDS) {
        const where = `${kind}, ${places} places, seed ${seed}`;
        body(new Tier(policy.order(kind, places), places, where, supports), random(seed), where);
      }
    }
  }
}

function policyRules(create: Create): ContractRule[] {
  return [
    {
      name: 'shape: has a name and a prefetch rule',
      async run() {
        const policy = await create();
        assert.ok(typeof policy.name === 'string' && policy.name !== '');
        assert.ok(['route', 'queue', 'never'].includes(policy.prefetch), `prefetch is ${policy.prefetch}`);
      },
    },
    {
      name: 'offload: one complete rule per tier, the same at every call, never below the object store',
      async run() {
        const policy = await create();
        for (const tier of TIERS) {
          const rule = policy.offload(tier);
          assert.ok(['stored', 'evict', 'uses', 'never'].includes(rule.when), `${tier}: ${rule.when}`);
          if (rule.when === 'uses') assert.ok(Number.isInteger(rule.uses) && rule.uses >= 1, `${tier}: ${rule.uses} uses`);
          assert.deepEqual(policy.offload(tier), rule);
        }
        assert.equal(policy.offload('object').when, 'never');
      },
    },
    {
      name: 'lifecycle: starts, closes twice, and closes without start',
      async run() {
        const policy = await create();
        await policy.start?.();
        await policy.close?.();
        await policy.close?.();
        await (await create()).close?.();
      },
    },
  ];
}

function orderRules(create: Create): ContractRule[] {
  return [
    {
      name: 'victim: none in an empty tier, and the only block of a tier',
      run: () =>
        eachTier(create, {}, (tier, below, where) => {
          assert.equal(tier.victim(), NONE, where);
          const place = below(tier.held.length);
          tier.insert(place, 5, 0);
          assert.equal(tier.victim(), place, where);
          tier.remove(place);
          assert.equal(tier.victim(), NONE, where);
        }),
    },
    {
      name: 'victim: never a pinned block, also one that is used while pinned; back when the pin ends',
      run: () =>
        eachTier(create, {}, (tier, below, where) => {
          for (let place = 0; place < tier.held.length; place++) tier.insert(place, place + 1, 0);
          for (let place = 0; place < tier.held.length; place++) {
            tier.pin(place, true);
            tier.order.touched(place);
            tier.victim();
          }
          assert.equal(tier.victim(), NONE, where);
          const place = below(tier.held.length);
          tier.pin(place, false);
          assert.equal(tier.victim(), place, where);
        }),
    },
    {
      name: 'victim: a removed place is forgotten, pinned or not, until it is filled again',
      run: () =>
        eachTier(create, {}, (tier, _below, where) => {
          for (let place = 0; place < tier.held.length; place++) tier.insert(place, place + 1, 0);
          for (let place = 0; place < tier.held.length; place++) {
            if (place % 2 === 1) tier.pin(place, true);
            tier.remove(place);
            tier.victim();
          }
          assert.equal(tier.victim(), NONE, where);
          tier.insert(0, 999, 0);
          assert.equal(tier.victim(), 0, where);
        }),
    },
    {
      name: 'victim: everything that is not pinned can be evicted, chains and trees included',
      run: () =>
        eachTier(create, {}, (tier, below, where) => {
          for (let place = 0; place < tier.held.length; place++) tier.insert(place, place + 1, (place + 1) >> 1);
          tier.drain();
          assert.ok(tier.held.every((block) => block === undefined), `blocks are left (${where})`);
          // Children before their parents: the lineage is only complete at the end.
          for (let place = 0; place < tier.held.length; place++) tier.insert(place, tier.held.length - place, (tier.held.length - place) >> 1);
          tier.pin(below(tier.held.length), true);
          tier.drain();
          tier.pin(tier.held.findIndex((block) => block !== undefined), false);
          tier.drain();
          assert.ok(tier.held.every((block) => block === undefined), `blocks are left (${where})`);
        }),
    },
    {
      name: 'victim: any calls in any order give an allowed answer and throw nothing',
      run: () => eachTier(create, {}, (tier, below) => anyCalls(tier, below, 400)),
    },
    {
      name: 'upcoming: where offered, names what would go, one after the other, and changes nothing',
      run: () =>
        eachTier(create, {}, (tier, below, where) => {
          if (tier.order.upcoming === undefined) return;
          for (let round = 0; round < 4; round++) {
            anyCalls(tier, below, 60);
            const limit = 1 + below(tier.held.length);
            const named = new Int32Array(limit).fill(NONE);
            const count: number = tier.order.upcoming(named, limit);
            const gone: number[] = [];
            for (let victim = tier.victim(); gone.length < limit && victim !== NONE; victim = tier.victim()) {
              gone.push(victim);
              tier.remove(victim);
            }
            assert.deepEqual([...named.subarray(0, count)], gone, where);
            assert.ok(named.subarray(count).every((place) => place === NONE), `wrote past the end (${where})`);
          }
        }),
    },
    {
      name: 'order: orders of one policy know nothing of each other',
      async run() {
        const policy = await create();
        const [a, b] = [policy.order('host', 4), policy.order('host', 4)];
        a.inserted(2, 1, word(1), NONE, 0, 0);
        assert.equal(b.victim(), NONE);
        b.inserted(3, 1, word(1), NONE, 0, 0);
        a.removed(2);
        assert.equal(b.victim(), 3);
        assert.equal(a.victim(), NONE);
      },
    },
  ];
}

function recencyRules(create: Create): ContractRule[] {
  return [
    {
      name: 'least recent first: equal blocks go in the order of their last use',
      run: () =>
        eachTier(create, {}, (tier, below, where) => {
          const places = tier.held.length;
          for (let place = 0; place < places; place++) tier.insert(place, place + 1, 0);
          const uses = Array.from({ length: places }, (_, place) => place);
          for (let i = places - 1; i > 0; i--) {
            const j = below(i + 1);
            [uses[i], uses[j]] = [uses[j], uses[i]];
          }
          for (const place of uses) tier.order.touched(place);
          const victims: number[] = [];
          for (let i = 0; i < places; i++) {
            victims.push(tier.victim());
            tier.remove(victims[i]);
          }
          assert.deepEqual(victims, uses, where);
        }),
    },
    {
      name: 'least recent first: the age of a block that was filled in place begins when that ends',
      run: () =>
        eachTier(create, {}, (tier, _below, where) => {
          if (tier.held.length < 3) return;
          for (let place = 0; place < 3; place++) {
            tier.insert(place, place + 1, 0);
            tier.pin(place, true);
          }
          for (const place of [2, 0, 1]) tier.pin(place, false);
          const victims: number[] = [];
          for (let i = 0; i < 3; i++) {
            victims.push(tier.victim());
            tier.remove(victims[i]);
          }
          assert.deepEqual(victims, [2, 0, 1], where);
        }),
    },
    {
      name: 'least recent first: a pin is no use, a use during a pin is one',
      run: () =>
        eachTier(create, {}, (tier, _below, where) => {
          if (tier.held.length < 3) return;
          for (let place = 0; place < 3; place++) tier.insert(place, place + 1, 0);
          for (const place of [1, 0]) tier.pin(place, true);
          for (const place of [1, 0]) tier.pin(place, false);
          assert.equal(tier.victim(), 0, where);
          tier.pin(0, true);
          tier.order.touched(0);
          tier.pin(0, false);
          assert.equal(tier.victim(), 1, where);
        }),
    },
  ];
}

function leafRules(create: Create, supports: KvPolicySupports): ContractRule[] {
  return [
    {
      name: 'leaves first: no victim is followed by a held block, in whatever order blocks come and go',
      run: () => eachTier(create, supports, (tier, below) => anyCalls(tier, below, 400)),
    },
    {
      name: 'leaves first: a parent that comes after its child is held by it',
      run: () =>
        eachTier(create, supports, (tier) => {
          if (tier.held.length < 3) return;
          tier.insert(2, 3, 2);
          tier.insert(1, 2, 1);
          tier.insert(0, 1, 0);
          for (let place = 0; place < 3; place++) tier.order.touched(2);
          tier.drain();
        }),
    },
  ];
}

/** The rules of kv-policy v1. */
export function kvPolicyRules(create: Create, supports: KvPolicySupports = {}): ContractRule[] {
  return [
    ...policyRules(create),
    ...orderRules(create),
    ...(supports.leastRecentFirst === true ? recencyRules(create) : []),
    ...(supports.leavesFirst === true ? leafRules(create, supports) : []),
  ];
}

export function kvPolicyContract(options: KvPolicyContractOptions): void {
  registerRules(options.runner, 'kv-policy v1 contract', kvPolicyRules(options.create, options.supports), options.skip);
}
