import assert from 'node:assert/strict';
import type { PlainData } from '../context.ts';
import type { EventPlane } from '../event-plane.ts';
import { assertSame, everySort, Pace, seeded } from './plane-support.ts';
import type { PlanePace } from './plane-support.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface EventPlaneRuleOptions {
  /** A new, started event plane of its own. */
  create(): EventPlane | Promise<EventPlane>;
  /** Another process's end of the same plane. Without it the rules publish and subscribe at one end. */
  connect?(first: EventPlane): EventPlane | Promise<EventPlane>;
  /** A plane whose subscribers hold `bufferEvents` undelivered events; without it the rule on slow subscribers is left out. */
  createBounded?(bufferEvents: number): EventPlane | Promise<EventPlane>;
  readonly pace?: PlanePace;
}

export interface EventPlaneContractOptions extends EventPlaneRuleOptions {
  readonly runner: SuiteRunner;
  readonly skip?: readonly SkippedRule[];
}

/** The rules of event-plane v1. */
export function eventPlaneContract(options: EventPlaneContractOptions): void {
  registerRules(options.runner, 'event-plane v1', eventPlaneRules(options), options.skip);
}

interface Bench {
  readonly publisher: EventPlane;
  readonly subscriber: EventPlane;
  readonly pace: Pace;
}
type Rule = (name: string, body: (bench: Bench) => Promise<void>) => ContractRule;

export function eventPlaneRules(options: EventPlaneRuleOptions): ContractRule[] {
  const rule: Rule = (name, body) => ({
    name,
    run: async () => {
      const publisher = await options.create();
      const subscriber = (await options.connect?.(publisher)) ?? publisher;
      try {
        await body({ publisher, subscriber, pace: new Pace(options.pace ?? {}) });
      } finally {
        await subscriber.close?.();
        await publisher.close?.();
      }
    },
  });
  const bounded = options.createBounded;
  return [
    ...deliveryRules(rule),
    ...reentryRules(rule),
    ...payloadRules(rule),
    ...lifecycleRules(rule),
    ...(bounded === undefined ? [] : [slowSubscriber((buffer) => bounded.call(options, buffer), new Pace(options.pace ?? {}))]),
  ];
}

function deliveryRules(rule: Rule): ContractRule[] {
  return [
    rule('publish: without a subscriber it does nothing', async ({ publisher }) => {
      publisher.publish('e/a', 1);
    }),
    rule('delivery: in order, each once', async ({ publisher, subscriber, pace }) => {
      const seen: PlainData[] = [];
      subscriber.subscribe('e/', (_subject, payload) => void seen.push(payload));
      for (let i = 0; i < 500; i++) publisher.publish('e/a', i);
      await pace.until('500 events', () => seen.length >= 500);
      await pace.quiet();
      assertSame(seen, Array.from({ length: 500 }, (_, i) => i), 'events');
    }),
    rule('delivery: only subjects with the prefix, to every subscriber that has it', async ({ publisher, subscriber, pace }) => {
      const seen = new Map<string, string[]>();
      for (const prefix of ['', 'e/', 'e/a', 'e/ab', 'f/']) {
        const lines: string[] = [];
        seen.set(prefix, lines);
        subscriber.subscribe(prefix, (subject) => void lines.push(subject));
      }
      for (const subject of ['e/a', 'e/ab', 'e/b', 'f/x']) publisher.publish(subject, null);
      await pace.until('all subjects', () => seen.get('')?.length === 4 && seen.get('f/')?.length === 1);
      await pace.quiet();
      assert.deepEqual([...seen], [
        ['', ['e/a', 'e/ab', 'e/b', 'f/x']],
        ['e/', ['e/a', 'e/ab', 'e/b']],
        ['e/a', ['e/a', 'e/ab']],
        ['e/ab', ['e/ab']],
        ['f/', ['f/x']],
      ]);
    }),
    rule('delivery: order per subject over many subjects (random)', async ({ publisher, subscriber, pace }) => {
      const below = seeded(11);
      const seen = new Map<string, number[]>();
      const sent = new Map<string, number[]>();
      subscriber.subscribe('r/', (subject, payload) => void (seen.get(subject)?.push(payload as number) ?? seen.set(subject, [payload as number])));
      for (let i = 0; i < 2000; i++) {
        const subject = `r/${below(12)}`;
        publisher.publish(subject, i);
        (sent.get(subject) ?? sent.set(subject, []).get(subject))?.push(i);
      }
      await pace.until('2000 events', () => [...seen.values()].reduce((sum, list) => sum + list.length, 0) >= 2000);
      for (const [subject, list] of sent) assert.deepEqual(seen.get(subject), list, `seed 11, ${subject}`);
    }),
    rule('subscribe: a closed subscription is not called again', async ({ publisher, subscriber, pace }) => {
      const seen: PlainData[] = [];
      const subscription = subscriber.subscribe('e/', (_subject, payload) => void seen.push(payload));
      publisher.publish('e/a', 1);
      await pace.until('the first event', () => seen.length === 1);
      subscription.close();
      subscription.close();
      publisher.publish('e/a', 2);
      await pace.quiet();
      assert.deepEqual(seen, [1]);
    }),
  ];
}

function reentryRules(rule: Rule): ContractRule[] {
  return [
    rule('re-entry: an event published inside a listener follows the running one, for every subscriber', async ({ publisher, subscriber, pace }) => {
      const first: string[] = [];
      const second: string[] = [];
      subscriber.subscribe('e/', (subject) => {
        if (subject === 'e/question') publisher.publish('e/answer', null);
        first.push(subject);
      });
      subscriber.subscribe('e/', (subject) => void second.push(subject));
      publisher.publish('e/question', null);
      publisher.publish('e/last', null);
      await pace.until('three events each', () => first.length === 3 && second.length === 3);
      assert.equal(first[0], 'e/question');
      assert.deepEqual(second, first);
    }),
    rule('re-entry: a subscription closed inside its own listener ends there', async ({ publisher, subscriber, pace }) => {
      let count = 0;
      const subscription = subscriber.subscribe('e/', () => {
        count++;
        subscription.close();
      });
      for (let i = 0; i < 5; i++) publisher.publish('e/a', i);
      await pace.until('the first event', () => count > 0);
      await pace.quiet();
      assert.equal(count, 1);
    }),
    rule('re-entry: a listener that throws harms neither the publisher nor other subscribers', async ({ publisher, subscriber, pace }) => {
      const seen: PlainData[] = [];
      subscriber.subscribe('e/', () => {
        throw new Error('listener failed, as the rule wants');
      });
      subscriber.subscribe('e/', (_subject, payload) => void seen.push(payload));
      publisher.publish('e/a', 1);
      publisher.publish('e/a', 2);
      await pace.until('both events', () => seen.length === 2);
    }),
  ];
}

function payloadRules(rule: Rule): ContractRule[] {
  return [
    rule('payload: every sort of plain data arrives as it was', async ({ publisher, subscriber, pace }) => {
      const seen: PlainData[] = [];
      subscriber.subscribe('e/', (_subject, payload) => void seen.push(payload));
      publisher.publish('e/a', everySort());
      await pace.until('the event', () => seen.length === 1);
      assertSame(seen[0], everySort(), 'payload');
    }),
    rule('payload: what a subscriber does to its copy is seen by nobody else', async ({ publisher, subscriber, pace }) => {
      const seen: PlainData[] = [];
      const payload = { column: Int32Array.of(1, 2, 3) };
      subscriber.subscribe('e/', (_subject, copy) => void ((copy as typeof payload).column[0] = 99));
      subscriber.subscribe('e/', (_subject, copy) => void seen.push(copy));
      publisher.publish('e/a', payload);
      payload.column[1] = 77;
      await pace.until('the event', () => seen.length === 1);
      assertSame(seen[0], { column: Int32Array.of(1, 2, 3) }, 'payload');
    }),
  ];
}

function lifecycleRules(rule: Rule): ContractRule[] {
  return [
    rule('lifecycle: close is idempotent; later events go nowhere, without an error', async ({ publisher, pace }) => {
      const seen: PlainData[] = [];
      publisher.subscribe('e/', (_subject, payload) => void seen.push(payload));
      await publisher.close?.();
      await publisher.close?.();
      publisher.publish('e/a', 1);
      publisher.subscribe('e/', (_subject, payload) => void seen.push(payload)).close();
      await pace.quiet();
      assert.deepEqual(seen, []);
    }),
  ];
}

function slowSubscriber(create: (bufferEvents: number) => EventPlane | Promise<EventPlane>, pace: Pace): ContractRule {
  return {
    name: 'slow subscriber: loses its oldest events, keeps the newest in order, and blocks nobody',
    run: async () => {
      const plane = await create(10);
      const slow: PlainData[] = [];
      // While a listener runs, its subscription is as slow as can be: nothing more is delivered.
      plane.subscribe('e/', (_subject, payload) => {
        slow.push(payload);
        if (payload === 'begin') for (let i = 0; i < 100; i++) plane.publish('e/a', i);
      });
      plane.publish('e/a', 'begin');
      await pace.until('the newest event', () => slow.at(-1) === 99);
      await plane.close?.();
      assert.deepEqual(slow, ['begin', 90, 91, 92, 93, 94, 95, 96, 97, 98, 99]);
    },
  };
}
