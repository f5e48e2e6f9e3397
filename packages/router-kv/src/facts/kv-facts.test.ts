import { expect, test } from 'vitest';
import { chainHashes, idleCandidates, routingRequest, storedEvent, workerRecord } from '@armature/contracts/testing/routing-fixtures';
import { kvPolicyDefaults } from '../config.ts';
import { fakeContext } from '../fixtures.test.support.ts';
import { KvFacts } from './kv-facts.ts';

function open(config: Partial<typeof kvPolicyDefaults> = {}, kvEvents = true, totalBlocks = 4096) {
  const context = fakeContext();
  const facts = new KvFacts({ ...kvPolicyDefaults, ...config }, context);
  for (let slot = 0; slot < 3; slot++) facts.kv.joined(slot, workerRecord(slot, { kvEvents, totalBlocks }));
  const overlaps = (chain: number, blocks: number): number[] => {
    const candidates = idleCandidates(3);
    facts.collect(routingRequest({ chain, blocks }), candidates);
    return [...candidates.overlapBlocks];
  };
  return { context, facts, overlaps };
}

test('a prompt that was sent to a worker counts as cached there until its events have had time to say so', () => {
  const { context, facts, overlaps } = open();
  facts.load.dispatched(1, routingRequest({ id: 'a', chain: 1, blocks: 8 }));
  expect(overlaps(1, 8)).toEqual([0, 8, 0]);
  expect(overlaps(1, 12)).toEqual([0, 8, 0]);
  facts.load.ended(1, 'a');
  facts.kv.apply(1, storedEvent(1, chainHashes(1, 3)));
  expect(overlaps(1, 8)).toEqual([0, 8, 0]); // the longer of both
  context.clock.advance(6_000);
  expect(overlaps(1, 8)).toEqual([0, 3, 0]); // what the worker said
  facts.close();
});

test('what a running request will have computed counts as held, for the requests of its kind that come next', () => {
  const { context, facts, overlaps } = open();
  facts.load.dispatched(2, routingRequest({ id: 'a', chain: 1, blocks: 8 }));
  context.clock.advance(60_000);
  expect(overlaps(1, 12)).toEqual([0, 0, 8]);
  facts.load.ended(2, 'a');
  expect(overlaps(1, 12)).toEqual([0, 0, 0]);
  facts.close();
});

test('off means off', () => {
  const { facts, overlaps } = open({ predictSeconds: 0 });
  facts.load.dispatched(1, routingRequest({ id: 'a', chain: 1, blocks: 8 }));
  expect(overlaps(1, 8)).toEqual([0, 0, 0]);
  facts.close();
});

test('a worker without events is known by what was sent to it, as long as it can hold it', () => {
  const { context, facts, overlaps } = open({}, false, 20);
  facts.load.dispatched(0, routingRequest({ id: 'a', chain: 1, blocks: 12 }));
  context.clock.advance(60_000);
  expect(overlaps(1, 12)).toEqual([12, 0, 0]);
  facts.load.ended(0, 'a');
  facts.load.dispatched(0, routingRequest({ id: 'b', chain: 2, blocks: 12 }));
  facts.load.ended(0, 'b');
  expect(overlaps(2, 12)).toEqual([12, 0, 0]);
  expect(overlaps(1, 12)).toEqual([8, 0, 0]); // 20 blocks in all: the end of the older chain is gone
  facts.load.dispatched(2, routingRequest({ id: 'c', chain: 3, blocks: 4, hop: 'decode' }));
  facts.load.ended(2, 'c');
  expect(overlaps(3, 4)).toEqual([0, 0, 4]);
  context.clock.advance(130_000);
  expect(overlaps(2, 12)).toEqual([0, 0, 0]);
  facts.close();
  expect(context.clock.timers).toBe(0);
});

test('a cleared cache and a worker that left are forgotten', () => {
  const { facts, overlaps } = open();
  for (const slot of [0, 1]) facts.load.dispatched(slot, routingRequest({ id: `r${slot}`, chain: 1, blocks: 4 }));
  facts.load.ended(0, 'r0');
  facts.kv.apply(0, { type: 'cleared', eventId: 1 });
  facts.kv.left(1);
  expect(overlaps(1, 4)).toEqual([0, 0, 0]);
  facts.close();
});
