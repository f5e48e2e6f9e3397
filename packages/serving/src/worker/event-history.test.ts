import type { KvEvent } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { testRandom } from '../test-support/fakes.ts';
import { EventHistory } from './event-history.ts';

const event = (eventId: number, blocks: number): KvEvent => ({ type: 'removed', eventId, sequenceHashes: new Int32Array(blocks * 2), tier: 'device' });

/** A list of the last events, the oldest dropped while there are too many of them or too many words. */
class NaiveHistory {
  held: KvEvent[] = [];
  readonly #events: number;
  readonly #words: number;

  constructor(events: number, words: number) {
    this.#events = events;
    this.#words = words;
  }

  push(next: KvEvent): void {
    if (next.eventId !== (this.held.at(-1)?.eventId ?? 0) + 1) this.held = [];
    this.held.push(next);
    const words = (): number => this.held.reduce((sum, held) => sum + (held.type === 'removed' ? held.sequenceHashes.length : 0), 0);
    while (this.held.length > this.#events || (words() > this.#words && this.held.length > 1)) this.held.shift();
  }
}

function compared(seed: number, capacityEvents: number, history: Pick<EventHistory, 'push' | 'slice' | 'lastEventId'>): { whole: number } {
  const random = testRandom(seed);
  const naive = new NaiveHistory(capacityEvents, 2_000);
  let whole = 0;
  for (let step = 0, id = 0; step < 1_200; step++) {
    id += random.below(300) === 0 ? 2 + random.below(50) : 1;
    const next = event(id, random.below(100) === 0 ? 500 : random.below(6));
    history.push(next);
    naive.push(next);
    const where = `seed ${seed}, capacity ${capacityEvents}, step ${step}`;
    const first = naive.held[0]!.eventId;
    expect(history.lastEventId, where).toBe(id);
    expect(history.slice(first, id), where).toEqual(naive.held);
    expect(history.slice(first - 1, id), where).toBeUndefined();
    whole = Math.max(whole, naive.held.length);
  }
  return { whole };
}

describe('EventHistory', () => {
  it.each([[1, 3], [2, 64], [3, 65], [4, 200], [5, 1_000]])('holds what a plain list of the last events holds, at every size it grows to (seed %i, capacity %i)', (seed, capacity) => {
    const { whole } = compared(seed, capacity, new EventHistory(capacity, 2_000));
    expect(whole).toBeGreaterThan(Math.min(capacity, 150) - 1);
  });

  it('sabotage: a history that loses an event while it grows is seen', () => {
    const history = new EventHistory(1_000, 2_000);
    const forgets = { push: (next: KvEvent) => history.push(next), slice: (from: number, to: number) => history.slice(from, to)?.filter(({ eventId }) => eventId !== 65), get lastEventId() { return history.lastEventId; } };
    expect(() => compared(5, 1_000, forgets)).toThrow(/seed 5/);
  });
});
