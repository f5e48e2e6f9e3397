import assert from 'node:assert/strict';
import type { PlainData } from '../context.ts';
import type { Discovery, DiscoveryWatcher, Registration } from '../discovery.ts';
import { assertSame, errorCode, everySort, Pace, seeded } from './plane-support.ts';
import type { PlanePace } from './plane-support.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface DiscoveryRuleOptions {
  /** A new, started discovery over an empty store of its own. */
  create(): Discovery | Promise<Discovery>;
  /** Another client of the same store. Without it the rules use one client for both sides. */
  connect?(first: Discovery): Discovery | Promise<Discovery>;
  readonly pace?: PlanePace;
}

export interface DiscoveryContractOptions extends DiscoveryRuleOptions {
  readonly runner: SuiteRunner;
  readonly skip?: readonly SkippedRule[];
}

/** The rules of discovery v1. */
export function discoveryContract(options: DiscoveryContractOptions): void {
  registerRules(options.runner, 'discovery v1', discoveryRules(options), options.skip);
}

interface Bench {
  readonly owner: Discovery;
  readonly reader: Discovery;
  readonly pace: Pace;
}

/** Everything a watcher was told, as lines. */
class Recorder implements DiscoveryWatcher {
  readonly lines: string[] = [];
  readonly entries = new Map<string, PlainData>();

  put({ key, value }: { readonly key: string; readonly value: PlainData }): void {
    this.lines.push(`put ${key} ${JSON.stringify(value)}`);
    this.entries.set(key, value);
  }

  removed(key: string): void {
    this.lines.push(`removed ${key}`);
    this.entries.delete(key);
  }

  synced(): void {
    this.lines.push('synced');
  }
}

export function discoveryRules(options: DiscoveryRuleOptions): ContractRule[] {
  const rule = (name: string, body: (bench: Bench) => Promise<void>): ContractRule => ({
    name,
    run: async () => {
      const owner = await options.create();
      const reader = (await options.connect?.(owner)) ?? owner;
      try {
        await body({ owner, reader, pace: new Pace(options.pace ?? {}) });
      } finally {
        await reader.close?.();
        await owner.close?.();
      }
    },
  });
  return [...watchRules(rule), ...ownerRules(rule), ...orderRules(rule), ...valueRules(rule), ...lifecycleRules(rule)];
}

type Rule = (name: string, body: (bench: Bench) => Promise<void>) => ContractRule;

function watchRules(rule: Rule): ContractRule[] {
  return [
    rule('watch: the snapshot, then synced once, then the promise', async ({ owner, reader }) => {
      await owner.register('w/a', 1);
      await owner.register('w/b', 2);
      const recorder = new Recorder();
      await reader.watch('w/', recorder);
      assert.deepEqual(recorder.lines.slice(0, -1).sort(), ['put w/a 1', 'put w/b 2']);
      assert.equal(recorder.lines.at(-1), 'synced');
    }),
    rule('watch: an empty prefix is synced at once', async ({ reader }) => {
      const recorder = new Recorder();
      await reader.watch('nobody/', recorder);
      assert.deepEqual(recorder.lines, ['synced']);
    }),
    rule('watch: later changes arrive in order', async ({ owner, reader, pace }) => {
      const recorder = new Recorder();
      await reader.watch('w/', recorder);
      const registration = await owner.register('w/a', 1);
      await registration.update(2);
      await registration.close();
      await pace.until('four changes', () => recorder.lines.length === 4);
      assert.deepEqual(recorder.lines, ['synced', 'put w/a 1', 'put w/a 2', 'removed w/a']);
    }),
    rule('watch: only keys with the prefix', async ({ owner, reader, pace }) => {
      const recorder = new Recorder();
      await owner.register('x/before', 0);
      await reader.watch('w/', recorder);
      await owner.register('x/a', 1);
      await owner.register('w/a', 2);
      await pace.until('the matching key', () => recorder.lines.length >= 2);
      await pace.quiet();
      assert.deepEqual(recorder.lines, ['synced', 'put w/a 2']);
    }),
    rule('watch: a closed watch is not called again', async ({ owner, reader, pace }) => {
      const recorder = new Recorder();
      const watch = await reader.watch('w/', recorder);
      watch.close();
      watch.close();
      await owner.register('w/a', 1);
      await pace.quiet();
      assert.deepEqual(recorder.lines, ['synced']);
    }),
    rule('watch: one that throws does not harm the others', async ({ owner, reader, pace }) => {
      const fail = (): never => {
        throw new Error('watcher failed, as the rule wants');
      };
      await reader.watch('w/', { put: fail, removed: fail });
      const recorder = new Recorder();
      await reader.watch('w/', recorder);
      const registration = await owner.register('w/a', 1);
      await registration.close();
      await pace.until('both changes', () => recorder.lines.length === 3);
      assert.deepEqual(recorder.lines, ['synced', 'put w/a 1', 'removed w/a']);
    }),
  ];
}

function ownerRules(rule: Rule): ContractRule[] {
  return [
    rule('register: a key has one living owner', async ({ owner, reader }) => {
      const registration = await owner.register('w/a', 1);
      await assert.rejects(reader.register('w/a', 2), (error) => errorCode(error) === 'DISCOVERY_KEY_TAKEN');
      await registration.close();
      await (await reader.register('w/a', 3)).close();
    }),
    rule('register: close is idempotent, and removed is told once', async ({ owner, reader, pace }) => {
      const recorder = new Recorder();
      await reader.watch('w/', recorder);
      const registration = await owner.register('w/a', 1);
      await registration.close();
      await registration.close();
      await pace.until('the removal', () => recorder.lines.length >= 3);
      await pace.quiet();
      assert.deepEqual(recorder.lines, ['synced', 'put w/a 1', 'removed w/a']);
    }),
    rule('register: the close of an old owner does not touch a new one', async ({ owner, reader, pace }) => {
      const old = await owner.register('w/a', 'old');
      await old.close();
      await owner.register('w/a', 'new');
      await old.close();
      const recorder = new Recorder();
      await reader.watch('w/', recorder);
      await pace.quiet();
      assert.deepEqual(recorder.lines, ['put w/a "new"', 'synced']);
    }),
    rule('register: an update after close is refused and changes nothing', async ({ owner, reader }) => {
      const registration = await owner.register('w/a', 1);
      await registration.close();
      await assert.rejects(registration.update(2));
      const recorder = new Recorder();
      await reader.watch('w/', recorder);
      assert.deepEqual(recorder.lines, ['synced']);
    }),
  ];
}

function orderRules(rule: Rule): ContractRule[] {
  return [
    rule('order: a change made inside a callback follows the running one, for every watcher', async ({ owner, pace }) => {
      const first = new Recorder();
      const second = new Recorder();
      let isAnswered = false;
      await owner.watch('w/', {
        put: (entry) => {
          if (entry.key === 'w/a' && !isAnswered) {
            isAnswered = true;
            void owner.register('w/answer', 1);
          }
          first.put(entry);
        },
        removed: (key) => first.removed(key),
      });
      await owner.watch('w/', second);
      await owner.register('w/a', 0);
      await pace.until('both keys at both watchers', () => first.entries.size === 2 && second.entries.size === 2);
      assert.deepEqual(first.lines, ['put w/a 0', 'put w/answer 1']);
      assert.deepEqual(second.lines, ['synced', 'put w/a 0', 'put w/answer 1']);
    }),
    rule('order: watchers that come at any time end with what is registered (random changes)', async ({ owner, reader, pace }) => {
      for (const seed of [1, 2, 3]) await randomChanges(owner, reader, pace, seed);
    }),
  ];
}

async function randomChanges(owner: Discovery, reader: Discovery, pace: Pace, seed: number): Promise<void> {
  const below = seeded(seed);
  const prefix = `r${seed}/`;
  const model = new Map<string, number>();
  const held = new Map<string, Registration>();
  const recorders: Recorder[] = [];
  for (let step = 0; step < 60; step++) {
    const key = `${prefix}${below(6)}`;
    const registration = held.get(key);
    if (below(8) === 0) {
      const recorder = new Recorder();
      recorders.push(recorder);
      await reader.watch(prefix, recorder);
    } else if (registration === undefined) {
      held.set(key, await owner.register(key, step));
      model.set(key, step);
    } else if (below(3) === 0) {
      await registration.close();
      held.delete(key);
      model.delete(key);
    } else {
      await registration.update(step);
      model.set(key, step);
    }
  }
  const expected = JSON.stringify([...model].sort());
  for (const [index, recorder] of recorders.entries()) {
    const state = (): string => JSON.stringify([...recorder.entries].sort());
    await pace.until(`watcher ${index} of seed ${seed} has ${expected}`, () => state() === expected);
  }
  for (const registration of held.values()) await registration.close();
}

function valueRules(rule: Rule): ContractRule[] {
  return [
    rule('values: every sort of plain data arrives as it was', async ({ owner, reader }) => {
      await owner.register('w/a', everySort());
      const recorder: PlainData[] = [];
      await reader.watch('w/', { put: ({ value }) => void recorder.push(value), removed: () => undefined });
      assertSame(recorder[0], everySort(), 'value');
    }),
    rule('values: what a watcher does to its copy is seen by nobody else', async ({ owner, reader }) => {
      const value = { column: Int32Array.of(1, 2, 3) };
      await owner.register('w/a', value);
      value.column[0] = 99;
      await reader.watch('w/', { put: ({ value: copy }) => void ((copy as typeof value).column[1] = 77), removed: () => undefined });
      const seen: PlainData[] = [];
      await reader.watch('w/', { put: ({ value: copy }) => void seen.push(copy), removed: () => undefined });
      assertSame(seen[0], { column: Int32Array.of(1, 2, 3) }, 'value');
    }),
  ];
}

function lifecycleRules(rule: Rule): ContractRule[] {
  return [
    rule('lifecycle: close is idempotent and silences watchers', async ({ owner, pace }) => {
      const recorder = new Recorder();
      await owner.watch('w/', recorder);
      await owner.register('w/a', 1);
      await pace.until('the entry', () => recorder.lines.length === 2);
      await owner.close?.();
      await owner.close?.();
      await pace.quiet();
      assert.deepEqual(recorder.lines, ['synced', 'put w/a 1']);
    }),
    rule('lifecycle: after close, register and watch are refused', async ({ owner }) => {
      await owner.close?.();
      await assert.rejects(owner.register('w/a', 1), (error) => errorCode(error) === 'DISCOVERY_CLOSED');
      await assert.rejects(owner.watch('w/', new Recorder()), (error) => errorCode(error) === 'DISCOVERY_CLOSED');
    }),
  ];
}
