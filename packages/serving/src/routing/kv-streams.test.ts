import type { KvEvent, PlainData } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { CountingMetrics, ManualClock, silentLog, workerRecord } from '../test-support/fakes.ts';
import { EventHistory } from '../worker/event-history.ts';
import { KvStreams } from './kv-streams.ts';

/** A worker's cache as a set of block numbers, and the events that tell of it. */
class Truth {
  readonly held = new Set<number>();
  readonly history: EventHistory;
  lastId = 0;
  constructor(capacity = 32) {
    this.history = new EventHistory(capacity);
  }
  emit(event: { type: 'stored' | 'removed'; blocks: readonly number[] } | { type: 'cleared' }): KvEvent {
    const eventId = ++this.lastId;
    const sequenceHashes = event.type === 'cleared' ? new Int32Array(0) : Int32Array.from(event.blocks.flatMap((block) => [block, 7]));
    const full: KvEvent = event.type === 'cleared' ? { type: 'cleared', eventId } : event.type === 'stored' ? { type: 'stored', eventId, parent: new Int32Array(0), sequenceHashes, tier: 'device' } : { type: 'removed', eventId, sequenceHashes, tier: 'device' };
    applyTo(this.held, full);
    this.history.push(full);
    return full;
  }
  snapshot(): KvEvent[] {
    if (this.lastId === 0) return [];
    if (this.held.size === 0) return [{ type: 'cleared', eventId: this.lastId }];
    return [{ type: 'stored', eventId: this.lastId, parent: new Int32Array(0), sequenceHashes: Int32Array.from([...this.held].flatMap((block) => [block, 7])), tier: 'device' }];
  }
}

function applyTo(held: Set<number>, event: KvEvent): void {
  if (event.type === 'cleared') {
    held.clear();
    return;
  }
  for (let i = 0; i < event.sequenceHashes.length; i += 2) {
    if (event.type === 'stored') held.add(event.sequenceHashes[i]!);
    else held.delete(event.sequenceHashes[i]!);
  }
}

function build(options: { capacity?: number; sabotage?: boolean } = {}) {
  const clock = new ManualClock();
  const metrics = new CountingMetrics();
  const truth = new Truth(options.capacity);
  const known = new Set<number>();
  const degraded: boolean[] = [];
  /** Answers held back until told. */
  const link = { answers: true, queue: [] as (() => void)[], asked: [] as string[] };
  let last = 0;
  let sabotaged = options.sabotage === true;
  const streams = new KvStreams({
    model: 'm',
    clock,
    log: silentLog,
    metrics,
    sink: {
      apply: (_slot, event) => {
        if (event.eventId <= last) return true;
        if (event.eventId !== last + 1) return false;
        last = event.eventId;
        if (sabotaged && event.eventId > 5 && event.type === 'removed') sabotaged = false; // one removal is dropped
        else applyTo(known, event);
        return true;
      },
      restore: (_slot, events, lastEventId) => {
        known.clear();
        for (const event of events) applyTo(known, event);
        last = lastEventId;
      },
      degraded: (_slot, isDegraded) => void degraded.push(isDegraded),
    },
    snapshot: (_worker, done) => {
      link.asked.push('snapshot');
      const events = truth.snapshot();
      link.queue.push(() => done(link.answers ? events : undefined));
    },
    replay: (_worker, from, to, done) => {
      link.asked.push(`replay ${from}-${to}`);
      const events = truth.history.slice(from, to);
      link.queue.push(() => done(link.answers ? events : undefined));
    },
  });
  const answer = (): void => {
    while (link.queue.length > 0) link.queue.shift()!();
  };
  streams.joined(0, workerRecord('w/0', 'both'));
  answer();
  const receive = (payload: unknown): void => streams.receive(0, payload as PlainData);
  return { clock, metrics, truth, known, degraded, link, streams, answer, receive };
}

describe('KvStreams', () => {
  it('closes a gap from the buffer of the worker, without forgetting anything', () => {
    const { truth, known, link, receive, answer, metrics } = build();
    receive(truth.emit({ type: 'stored', blocks: [1, 2] }));
    truth.emit({ type: 'stored', blocks: [3] });
    receive(truth.emit({ type: 'removed', blocks: [1] }));
    expect([...known]).toEqual([1, 2]); // nothing is forgotten while it asks
    answer();
    expect(known).toEqual(truth.held);
    expect(link.asked).toEqual(['snapshot', 'replay 2-2']);
    expect(metrics.total('armature_router_kv_event_replays_total')).toBe(1);
    expect(metrics.total('armature_router_kv_event_resyncs_total')).toBe(0);
  });

  it('takes over the whole state when the buffer no longer reaches back', () => {
    const { truth, known, link, receive, answer, metrics } = build({ capacity: 4 });
    receive(truth.emit({ type: 'stored', blocks: [1] }));
    for (let i = 2; i < 20; i++) truth.emit({ type: 'stored', blocks: [i] });
    receive(truth.emit({ type: 'removed', blocks: [1] }));
    answer();
    expect(known).toEqual(truth.held);
    expect(link.asked).toEqual(['snapshot', 'replay 2-19', 'snapshot']);
    expect(metrics.total('armature_router_kv_event_resyncs_total')).toBe(1);
  });

  it('a loss at the end of the stream is found by the second heartbeat', () => {
    const { truth, known, receive, answer } = build();
    receive(truth.emit({ type: 'stored', blocks: [1] }));
    truth.emit({ type: 'stored', blocks: [2] }); // lost
    receive({ type: 'heartbeat', eventId: 2 });
    expect(known).toEqual(new Set([1]));
    receive({ type: 'heartbeat', eventId: 2 });
    answer();
    expect(known).toEqual(truth.held);
  });

  it('a loss behind the end of a request is found when the fence gives up waiting', () => {
    const { truth, known, streams, answer, clock, metrics } = build();
    truth.emit({ type: 'stored', blocks: [5] }); // lost
    let shown = 0;
    streams.whenApplied(0, 1, () => shown++);
    clock.advance(300);
    expect(shown).toBe(1);
    answer();
    expect(known).toEqual(truth.held);
    expect(metrics.total('armature_router_fence_timeouts_total')).toBe(1);
  });

  it('a worker that does not answer is degraded, keeps what was known, is asked again with growing pauses, and recovers', () => {
    const { truth, known, degraded, link, streams, receive, answer, clock } = build({ capacity: 2 });
    receive(truth.emit({ type: 'stored', blocks: [1] }));
    for (let i = 2; i < 9; i++) truth.emit({ type: 'stored', blocks: [i] });
    link.answers = false;
    receive(truth.emit({ type: 'stored', blocks: [9] }));
    answer();
    expect(degraded).toEqual([true]);
    expect(streams.state(0)).toMatchObject({ state: 'degraded', appliedEventId: 1 });
    expect(known).toEqual(new Set([1]));
    const asked = link.asked.length;
    for (const pause of [1_000, 2_000, 4_000]) {
      clock.advance(pause);
      answer();
    }
    expect(link.asked.length).toBe(asked + 3);
    link.answers = true;
    clock.advance(8_000);
    answer();
    expect(known).toEqual(truth.held);
    expect(degraded).toEqual([true, false]);
    expect(streams.state(0).state).toBe('live');
  });

  it('a worker whose heartbeats stop is degraded until it is heard again', () => {
    const { degraded, receive, clock, streams } = build();
    receive({ type: 'heartbeat', eventId: 0 });
    clock.advance(4_000);
    expect(degraded).toEqual([]);
    clock.advance(6_000);
    expect(degraded).toEqual([true]);
    receive({ type: 'heartbeat', eventId: 0 });
    expect(degraded).toEqual([true, false]);
    streams.close();
    expect(clock.pendingTimers).toBe(0);
  });

  it.each([
    ['nothing', null],
    ['a string', 'stored'],
    ['another version', { type: 'stored_v2', eventId: 1 }],
    ['hashes as strings', { type: 'stored', eventId: 1, parent: new Int32Array(0), sequenceHashes: ['ab'], tier: 'device' }],
    ['hashes as doubles', { type: 'stored', eventId: 1, parent: new Int32Array(0), sequenceHashes: new Float64Array(2), tier: 'device' }],
    ['half a hash', { type: 'stored', eventId: 1, parent: new Int32Array(0), sequenceHashes: new Int32Array(3), tier: 'device' }],
    ['half a parent', { type: 'stored', eventId: 1, parent: new Int32Array(1), sequenceHashes: new Int32Array(2), tier: 'device' }],
    ['no tier', { type: 'removed', eventId: 1, sequenceHashes: new Int32Array(2) }],
    ['a negative id', { type: 'cleared', eventId: -1 }],
    ['a fractional id', { type: 'cleared', eventId: 1.5 }],
    ['an id over 2^53', { type: 'cleared', eventId: 2 ** 60 }],
    ['a cleared tier that is none', { type: 'cleared', eventId: 1, tier: 'tape' }],
    ['a bigint id', { type: 'cleared', eventId: 1n }],
  ])('%s instead of an event is counted, changes nothing, and is made up for', (_name, payload) => {
    const { truth, known, receive, answer, metrics } = build();
    truth.emit({ type: 'stored', blocks: [1] });
    receive(payload);
    expect(known.size).toBe(0);
    expect(metrics.total('armature_router_kv_events_malformed_total')).toBe(1);
    receive(truth.emit({ type: 'stored', blocks: [2] }));
    answer();
    expect(known).toEqual(truth.held);
  });

  const run = (seed: number, sabotage = false): { known: Set<number>; truth: Truth; gaps: number } => {
    let x = seed;
    const below = (bound: number): number => ((x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 8) % bound;
    const { clock, truth, known, link, answer, receive, streams, metrics } = build({ capacity: 1 + below(40), sabotage });
    const late: KvEvent[] = [];
    for (let step = 0; step < 400; step++) {
      const blocks = Array.from({ length: 1 + below(4) }, () => below(60));
      const event = truth.emit(below(40) === 0 ? { type: 'cleared' } : { type: below(2) === 0 ? 'stored' : 'removed', blocks });
      const fate = below(20);
      if (fate === 0) continue; // lost
      if (fate === 1) late.push(event);
      else receive(event);
      if (fate === 2) receive(event);
      if (fate === 3 && late.length > 0) receive(late.splice(below(late.length), 1)[0]);
      if (fate === 4) receive({ type: 'stored', eventId: event.eventId, sequenceHashes: 'x' });
      link.answers = below(5) !== 0;
      if (below(3) === 0) answer();
      if (below(10) === 0) clock.advance(below(3_000));
      if (below(15) === 0) receive({ type: 'heartbeat', eventId: truth.lastId });
    }
    link.answers = true;
    for (let i = 0; i < 6; i++) {
      receive({ type: 'heartbeat', eventId: truth.lastId });
      answer();
      clock.advance(31_000);
      answer();
    }
    receive({ type: 'heartbeat', eventId: truth.lastId });
    expect(streams.state(0).state, `seed ${seed}`).toBe('live');
    streams.close();
    return { known, truth, gaps: metrics.total('armature_router_kv_event_gaps_total') };
  };

  it('whatever is lost, late, doubled or broken: in the end the router knows what the worker holds', () => {
    const seed = 1 + (Date.now() % 100_000);
    console.log(`seeds ${seed} to ${seed + 199}`);
    let gaps = 0;
    for (let s = seed; s < seed + 200; s++) {
      const result = run(s);
      expect(result.known, `seed ${s}`).toEqual(result.truth.held);
      gaps += result.gaps;
    }
    expect(gaps).toBeGreaterThan(200);
  });

  it('the check sees one dropped removal', () => {
    // Events in order, none lost: nothing repairs the sabotage.
    const { truth, known, receive } = build({ sabotage: true });
    for (let i = 0; i < 8; i++) receive(truth.emit({ type: 'stored', blocks: [i] }));
    receive(truth.emit({ type: 'removed', blocks: [3] }));
    expect(known).not.toEqual(truth.held);
  });
});
