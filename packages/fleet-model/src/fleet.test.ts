import { describe, expect, it } from 'vitest';
import { arrivals, FleetModel, latencyBucket, latencyQuantile, linearTiming, polynomialTiming, shiftPhases } from './index.ts';
import type { Arrival, FleetOptions, FleetPool, PassTiming } from './index.ts';
import { testRandom } from './test-random.test.support.ts';

const timing = linearTiming({ prefillMsPerToken: 0.02, prefillMs: 5, decodeMsPerSequence: 0.1, decodeMsPerContextToken: 0.0005, decodeMs: 8 });

function pool(name: string, role: FleetPool['role'], replicas: number, change: Partial<FleetPool> = {}): FleetPool {
  return { pool: name, role, hardware: 'h', gpusPerWorker: 1, costPerHour: 2, roleChange: 'live', minReplicas: 0, maxReplicas: 64, startupMs: 30_000, timing, maxSequences: 64, maxBatchedTokens: 2048, kvTokens: 200_000, replicas, ...change };
}

function fleet(pools: readonly FleetPool[], change: Partial<FleetOptions> = {}): FleetModel {
  return new FleetModel({ pools, objective: { ttftMs: 500, itlMs: 30 }, transferMs: 2, transferMsPerToken: 0.01, drainMs: 60_000, roleChangeMs: 500, ...change });
}

interface NaiveSequence {
  readonly of: Arrival;
  toPrefill: number;
  produced: number;
  firstMs: number;
  endMs: number;
}

/** One aggregated worker, one pass at a time, nothing skipped. */
function naive(rows: readonly Arrival[], passTiming: PassTiming, maxSequences: number, maxBatchedTokens: number): NaiveSequence[] {
  const all: NaiveSequence[] = rows.map((of) => ({ of, toPrefill: of.promptTokens - Math.min(of.cachedTokens, of.promptTokens - 1), produced: 0, firstMs: NaN, endMs: NaN }));
  let [prompts, decoding]: [NaiveSequence[], NaiveSequence[]] = [[], []];
  let next = 0;
  let now = 0;
  while (all.some(({ endMs }) => Number.isNaN(endMs))) {
    while (next < all.length && all[next].of.atMs <= now) prompts.push(all[next++]);
    const taking = decoding.slice(0, maxSequences);
    let room = Math.max(1, maxBatchedTokens - taking.length);
    const parts: [NaiveSequence, number][] = [];
    if (taking.length < maxSequences) {
      for (const prompt of prompts) {
        if (room <= 0) break;
        const part = Math.min(room, prompt.toPrefill);
        room -= part;
        parts.push([prompt, part]);
      }
    }
    if (taking.length === 0 && parts.length === 0) {
      now = all[next].of.atMs;
      continue;
    }
    const context = taking.reduce((sum, { of, produced }) => sum + of.promptTokens + produced, 0);
    now += passTiming.passMs(parts.reduce((sum, [, part]) => sum + part, 0), taking.length, context);
    for (const sequence of taking) if (++sequence.produced >= sequence.of.outputTokens) sequence.endMs = now;
    for (const [prompt, part] of parts) {
      prompt.toPrefill -= part;
      if (prompt.toPrefill > 0) continue;
      prompt.firstMs = now;
      if (++prompt.produced >= prompt.of.outputTokens) prompt.endMs = now;
      else decoding.push(prompt);
    }
    prompts = prompts.filter(({ toPrefill }) => toPrefill > 0);
    decoding = decoding.filter(({ endMs }) => Number.isNaN(endMs));
  }
  return all;
}

const sorted = (values: readonly number[]): number[] => [...values].sort((a, b) => a - b);

describe('one aggregated worker against a model that does every pass', () => {
  for (let seed = 1; seed <= 12; seed++) {
    it(`seed ${seed}: the same means within 1 %`, () => {
      const random = testRandom(seed);
      const phase = { untilMs: 60_000, requestsPerSecond: 1 + random.next() * 4, promptTokens: 300 + random.below(900), outputTokens: 20 + random.below(150), hitRate: random.next() * 0.5 };
      const rows = [...arrivals([phase], random)];
      const expected = naive(rows, timing, 64, 2048);
      const model = fleet([pool('all', 'both', 1)]);
      for (const row of rows) model.arrive(row.atMs, row.promptTokens, row.cachedTokens, row.outputTokens);
      model.advance(1e9);
      const measures = model.measure();
      expect(measures.finished).toBe(rows.length);
      expect(measures.outputTokens).toBe(rows.reduce((sum, row) => sum + row.outputTokens, 0));
      const ttfts = sorted(expected.map(({ of, firstMs }) => firstMs - of.atMs));
      expect(latencyQuantile(measures.ttft, 0.5) / ttfts[Math.floor(ttfts.length / 2)]).toBeGreaterThan(0.9);
      expect(latencyQuantile(measures.ttft, 0.5) / ttfts[Math.floor(ttfts.length / 2)]).toBeLessThan(1.1);
      const within = expected.filter(({ of, firstMs, endMs }) => firstMs - of.atMs <= 500 && (of.outputTokens === 1 || (endMs - firstMs) / (of.outputTokens - 1) <= 30)).length;
      expect(Math.abs(measures.withinObjective - within)).toBeLessThanOrEqual(Math.max(2, 0.02 * rows.length));
    });
  }
});

describe('disaggregated fleets', () => {
  const phase = { untilMs: 120_000, requestsPerSecond: 6, promptTokens: 1200, outputTokens: 100, hitRate: 0.2 };

  it('every request is prefilled remotely, ends once, and GPU time is workers × time', () => {
    const model = fleet([pool('prefill', 'prefill', 2), pool('decode', 'decode', 2)]);
    const rows = [...arrivals([phase], testRandom(7))];
    for (const row of rows) model.arrive(row.atMs, row.promptTokens, row.cachedTokens, row.outputTokens);
    model.advance(1_000_000);
    const measures = model.measure();
    expect(measures.finished).toBe(rows.length);
    expect(measures.remotePrefills).toBe(rows.length);
    expect(measures.gpuMs).toBeCloseTo(4 * 1_000_000, 3);
    expect(measures.cost).toBeCloseTo((8 * 1_000_000) / 3_600_000, 9);
    expect(model.inFlight).toBe(0);
  });

  it('short prompts are prefilled where they decode, below the threshold', () => {
    const model = fleet([pool('prefill', 'prefill', 1), pool('decode', 'decode', 1)], { thresholdTokens: 500 });
    model.arrive(0, 400, 0, 10);
    model.arrive(1, 600, 0, 10);
    model.advance(1e6);
    expect(model.measure()).toMatchObject({ finished: 2, remotePrefills: 1 });
  });

  it('a worker that is ordered comes after its start-up and is paid from the order; one that leaves finishes first', () => {
    const model = fleet([pool('prefill', 'prefill', 1), pool('decode', 'decode', 1)]);
    model.arrive(0, 500, 0, 2000);
    model.advance(1_000);
    model.apply({ replicas: { decode: 2 }, lent: [] });
    model.advance(30_999);
    expect(model.pools()[1]).toMatchObject({ desired: 2, ready: 1, starting: 1 });
    model.advance(31_000);
    expect(model.pools()[1]).toMatchObject({ ready: 2, starting: 0 });
    model.measure();
    model.apply({ replicas: { decode: 0 }, lent: [] });
    expect(model.pools()[1].draining).toBe(model.inFlight > 0 ? 1 : 0);
    model.advance(200_000);
    expect(model.pools()[1]).toMatchObject({ desired: 0, ready: 0, draining: 0 });
  });

  it('without any decode worker requests wait, and go on when one has joined: none is lost', () => {
    const model = fleet([pool('prefill', 'prefill', 1), pool('decode', 'decode', 0)]);
    for (let i = 0; i < 20; i++) model.arrive(i, 300, 0, 20);
    model.apply({ replicas: { decode: 1 }, lent: [] });
    model.advance(1e6);
    expect(model.measure().finished).toBe(20);
  });

  it('a lent worker drains, then works for the other role, and comes back', () => {
    const model = fleet([pool('prefill', 'prefill', 1), pool('decode', 'decode', 3)]);
    model.apply({ replicas: {}, lent: [{ from: 'decode', to: 'prefill', workers: 1 }] });
    model.advance(1_000);
    expect(model.pools()[1]).toMatchObject({ ready: 2, lent: 1 });
    model.apply({ replicas: {}, lent: [{ from: 'decode', to: 'prefill', workers: 0 }] });
    model.advance(2_000);
    expect(model.pools()[1]).toMatchObject({ ready: 3, lent: 0 });
    const fixed = fleet([pool('prefill', 'prefill', 1), pool('decode', 'decode', 3, { roleChange: 'none' })]);
    fixed.apply({ replicas: {}, lent: [{ from: 'decode', to: 'prefill', workers: 1 }] });
    fixed.advance(10_000);
    expect(fixed.pools()[1]).toMatchObject({ ready: 3, lent: 0 });
  });

  it('what outlives its drain moves and is computed again: nothing is lost (40 random histories)', () => {
    for (let seed = 1; seed <= 40; seed++) {
      const random = testRandom(seed);
      const model = fleet([pool('prefill', 'prefill', 2), pool('decode', 'decode', 2)], { drainMs: 1_000 });
      let sent = 0;
      for (let atMs = 0; atMs < 300_000; atMs += random.next() * 600) {
        model.arrive(atMs, 1 + random.below(2000), random.below(500), 1 + random.below(300));
        sent++;
        if (random.next() < 0.05) model.apply({ replicas: { [random.next() < 0.5 ? 'prefill' : 'decode']: 1 + random.below(4) }, lent: [] });
        if (random.next() < 0.02) model.apply({ replicas: {}, lent: [{ from: 'decode', to: 'prefill', workers: random.below(2) }] });
      }
      model.advance(1e8);
      expect(model.measure().finished, `seed ${seed}`).toBe(sent);
    }
  });

  it('is the same for a seed', () => {
    const run = (): unknown => {
      const model = fleet([pool('prefill', 'prefill', 2), pool('decode', 'decode', 2)]);
      for (const row of arrivals(shiftPhases({ durationMs: 600_000, requestsPerSecond: 2, longTokens: 2000, shortTokens: 200, hitRate: 0.3 }, testRandom(3)), testRandom(4))) model.arrive(row.atMs, row.promptTokens, row.cachedTokens, row.outputTokens);
      model.advance(1e7);
      return model.measure();
    };
    expect(run()).toEqual(run());
  });
});

describe('latency buckets', () => {
  it('count each latency in the bucket whose bound is the first not below it', () => {
    const random = testRandom(5);
    for (let i = 0; i < 2000; i++) {
      const counts = new Uint32Array(353);
      const ms = 0.1 * 10 ** (random.next() * 5);
      counts[latencyBucket(ms)]++;
      expect(Math.abs(latencyQuantile(counts, 1) / Math.max(ms, 0.25) - 1)).toBeLessThan(0.0443);
    }
    expect(latencyQuantile(new Uint32Array(353), 0.5)).toBeNaN();
  });
});

describe('timings', () => {
  it("the polynomial is the mock engine's formula", () => {
    const mock = polynomialTiming({ prefill: [4.209989e-7, 1.518344e-2, 16.50142], decode: [-25.74, 54.01, 5.74], kvTokens: 1000 });
    expect(mock.passMs(1000, 0, 0)).toBeCloseTo(4.209989e-7 * 1e6 + 15.18344 + 16.50142, 9);
    expect(mock.passMs(0, 3, 500)).toBeCloseTo(-25.74 / 4 + 54.01 / 2 + 5.74, 9);
    expect(mock.passMs(0, 0, 0)).toBe(0);
  });
});
