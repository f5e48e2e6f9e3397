import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { seeded } from '@armature/contracts/testing/plane-support';
import { describe, expect, it } from 'vitest';
import { EventSource } from './event-source.ts';
import { PublisherStream } from './publisher-stream.ts';
import type { StreamSettings } from './publisher-stream.ts';
import { countingMetrics, recordingLogger, testCodec } from './testing.test.support.ts';
import type { Counts } from './testing.test.support.ts';

/** One publisher and one subscriber over a connection that loses what the test says, under virtual time. */
class Wire {
  readonly clock = new ManualClock();
  readonly source: EventSource;
  readonly stream: PublisherStream;
  readonly counts: Counts;
  readonly seen: { readonly subject: string; readonly n: number }[] = [];
  readonly down: Buffer[] = [];
  readonly up: Buffer[] = [];
  readonly prefixes = new Set<string>();
  losesDown: () => boolean = () => false;
  losesUp: () => boolean = () => false;

  constructor(replayEvents: number, settings: Partial<StreamSettings> = {}) {
    this.source = new EventSource({ clock: this.clock, codec: testCodec, replayEvents, replayBytes: 1 << 24 });
    const counters = countingMetrics();
    this.counts = counters.counts;
    this.stream = new PublisherStream({
      publisher: this.source.id,
      token: '00112233445566ff',
      clock: this.clock,
      codec: testCodec,
      log: recordingLogger(),
      counters,
      replayTimeoutMs: 100,
      replayAttempts: 3,
      heldBytes: 1 << 20,
      joinOverlapMs: 0,
      ...settings,
      deliver: (subject, payload) => void this.seen.push({ subject, n: testCodec.decode(payload) as number }),
      send: (frame) => void (this.losesUp() || this.up.push(frame)),
    });
  }

  join(prefix: string): void {
    this.prefixes.add(prefix);
    this.stream.join(prefix, this.clock.nowMs());
  }
  leave(prefix: string): void {
    this.prefixes.delete(prefix);
    this.stream.leave(prefix);
  }
  publish(subject: string, n: number): void {
    const frame = this.source.publish(subject, testCodec.encode(n));
    if ([...this.prefixes].some((prefix) => subject.startsWith(prefix)) && !this.losesDown()) this.down.push(frame);
  }
  beat(): void {
    if (!this.losesDown()) this.down.push(this.source.beat());
  }
  /** The next message in each direction. */
  step(): boolean {
    const up = this.up.shift();
    const reply = up === undefined ? undefined : this.source.answer(up);
    if (reply !== undefined && !this.losesDown()) this.down.push(reply);
    const down = this.down.shift();
    if (down !== undefined) this.stream.receive(down);
    return up !== undefined || down !== undefined;
  }
  cut(): void {
    this.stream.disconnected();
    this.down.length = 0;
    this.up.length = 0;
  }
  /** No more losses; two beats tell of everything. */
  async settle(): Promise<void> {
    this.losesDown = () => false;
    this.losesUp = () => false;
    this.stream.connected();
    for (let round = 0; round < 8; round++) {
      if (round === 2 || round === 5) this.beat();
      while (this.step());
      await this.clock.elapse(200);
    }
  }
}

describe('publisher stream, random losses', () => {
  it.each(Array.from({ length: 60 }, (_, seed) => seed))('all that was published after the subscription comes, once and in order (seed %i)', async (seed) => {
    const below = seeded(seed * 7919 + 1);
    // Requests travel for very long here: the overlap has to cover it, so older events may come as well.
    const wire = new Wire(1 << 16, { replayAttempts: Infinity, joinOverlapMs: 1_000_000 });
    const expected: { subject: string; n: number }[] = [];
    const prefixes = ['a/', 'b/', 'a/1', ''];
    let isUp = false;
    for (let n = 0; n < 600; n++) {
      const roll = below(100);
      if (roll < 3 && wire.prefixes.size < prefixes.length) wire.join(prefixes.filter((prefix) => !wire.prefixes.has(prefix))[below(4 - wire.prefixes.size)]!);
      else if (roll < 5) {
        if (isUp) wire.cut();
        else wire.stream.connected();
        isUp = !isUp;
      } else if (roll < 7) wire.losesDown = below(2) === 0 ? () => below(3) === 0 : () => false;
      else if (roll < 9) wire.losesUp = below(2) === 0 ? () => below(2) === 0 : () => false;
      else if (roll < 12) wire.beat();
      else if (roll < 40) wire.step();
      else if (roll < 45) await wire.clock.elapse(below(40));
      else {
        const subject = `${'ab'[below(2)]}/${below(4)}`;
        await wire.clock.elapse(1); // no two things at one time: published after the subscription, or before
        if ([...wire.prefixes].some((prefix) => subject.startsWith(prefix))) expected.push({ subject, n });
        if (isUp) wire.publish(subject, n);
        else wire.source.publish(subject, testCodec.encode(n));
      }
    }
    await wire.settle();
    const bySubject = (events: readonly { subject: string; n: number }[]): Record<string, number[]> => {
      const sorted: Record<string, number[]> = {};
      for (const { subject, n } of events) (sorted[subject] ??= []).push(n);
      return Object.fromEntries(Object.entries(sorted).sort());
    };
    expect(wire.counts.lost).toBe(0);
    expect(wire.counts.refused).toBe(0);
    const seen = bySubject(wire.seen);
    for (const [subject, numbers] of Object.entries(seen)) expect(numbers, subject).toEqual([...new Set(numbers)].sort((a, b) => a - b));
    for (const [subject, numbers] of Object.entries(bySubject(expected))) expect(numbers.filter((n) => !seen[subject]?.includes(n)), subject).toEqual([]);
    expect(wire.stream.heldBytes).toBe(0);
  });

  it.each(Array.from({ length: 30 }, (_, seed) => seed))('a small buffer loses the oldest, counts them exactly, and keeps order (seed %i)', async (seed) => {
    const below = seeded(seed + 1000);
    const wire = new Wire(20, { replayAttempts: Infinity });
    wire.join('');
    wire.stream.connected();
    const subjects = ['x', 'y'];
    for (const subject of subjects) wire.publish(subject, -1); // known to the stream: losses are counted from here
    while (wire.step());
    for (let n = 0; n < 1000; n++) {
      if (below(40) === 0) wire.losesDown = below(2) === 0 ? () => true : () => false;
      if (below(60) === 0) wire.beat();
      wire.publish(subjects[below(2)]!, n);
      if (below(3) > 0) wire.step();
      if (below(10) === 0) await wire.clock.elapse(20);
    }
    wire.publish('x', 1000);
    wire.publish('y', 1001);
    await wire.settle();
    for (const subject of subjects) {
      const numbers = wire.seen.filter((event) => event.subject === subject).map((event) => event.n);
      expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));
    }
    expect(wire.seen.slice(-2).map((event) => event.n).sort()).toEqual([1000, 1001]);
    expect(wire.seen.length + wire.counts.lost).toBe(1004);
  });
});

describe('publisher stream', () => {
  it('an event behind a gap waits for the replay; one before the subscription does not come', async () => {
    const wire = new Wire(100);
    wire.publish('s', 0);
    await wire.clock.elapse(5);
    wire.join('s');
    wire.stream.connected();
    while (wire.step());
    wire.publish('s', 1);
    wire.losesDown = () => true;
    wire.publish('s', 2);
    wire.losesDown = () => false;
    wire.publish('s', 3);
    while (wire.step());
    expect(wire.seen.map(({ n }) => n)).toEqual([1, 2, 3]);
    expect(wire.counts).toMatchObject({ gaps: 1, replayed: 2, lost: 0 });
  });

  it('a lost last event is missed at the next beat', async () => {
    const wire = new Wire(100);
    wire.join('s');
    wire.stream.connected();
    while (wire.step());
    wire.losesDown = () => true;
    wire.publish('s', 1);
    wire.losesDown = () => false;
    while (wire.step());
    expect(wire.seen).toEqual([]);
    wire.beat();
    while (wire.step());
    expect(wire.seen.map(({ n }) => n)).toEqual([1]);
  });

  it('a publisher that does not answer: later events are delivered after three attempts, the gap is counted', async () => {
    const wire = new Wire(100);
    wire.join('s');
    wire.stream.connected();
    wire.publish('s', 0);
    while (wire.step());
    wire.losesUp = () => true;
    wire.losesDown = () => true;
    wire.publish('s', 1);
    wire.publish('s', 2);
    wire.losesDown = () => false;
    wire.publish('s', 3);
    while (wire.step());
    await wire.clock.elapse(299);
    expect(wire.seen.map(({ n }) => n)).toEqual([0]);
    await wire.clock.elapse(1);
    expect(wire.seen.map(({ n }) => n)).toEqual([0, 3]);
    expect(wire.counts).toMatchObject({ gaps: 1, lost: 2 });
    expect(wire.stream.isLive).toBe(true);
  });

  it('what is held during a replay is bounded; what does not fit is asked for again', async () => {
    const wire = new Wire(10_000, { heldBytes: 2_000 });
    wire.join('s');
    wire.stream.connected(); // its request is on the way: everything is held
    for (let n = 0; n < 500; n++) wire.publish('s', n);
    while (wire.down.length > 0) wire.stream.receive(wire.down.shift()!);
    expect(wire.stream.heldBytes).toBeLessThanOrEqual(2_000);
    while (wire.step());
    expect(wire.seen.map(({ n }) => n)).toEqual(Array.from({ length: 500 }, (_, n) => n));
  });

  it('broken and foreign frames are refused and harm nothing (random)', async () => {
    const wire = new Wire(100);
    wire.join('');
    wire.stream.connected();
    while (wire.step());
    const below = seeded(5);
    const good = [wire.source.publish('s', testCodec.encode(1)), wire.source.beat(), new EventSource({ clock: wire.clock, codec: testCodec, replayEvents: 1, replayBytes: 1 }).beat()];
    for (let i = 0; i < 3000; i++) {
      const frame = Buffer.from(good[below(3)]!.subarray(0, below(200)));
      for (let flips = below(4); flips > 0 && frame.length > 0; flips--) frame[below(Math.min(12, frame.length))] = below(256);
      wire.stream.receive(frame);
      try {
        wire.source.answer(frame);
      } catch {
        // refused, as it should be
      }
    }
    expect(wire.counts.refused).toBeGreaterThan(1000);
  });
});
