import { disaggregationPolicyContract } from '@armature/contracts/testing/disaggregation-policy';
import { describe, expect, it } from 'vitest';
import type { DisaggregationInput } from '@armature/contracts';
import { FadingLine } from '../execution/fading-line.ts';
import { HopTimes } from '../execution/hop-times.ts';
import { PredictedPolicy } from './predicted.ts';
import type { PredictedConfig } from './predicted.ts';

const config: PredictedConfig = { whenNoPrefillWorker: 'local', decodeWeight: 1.25, maxLocalTokens: 512, exploreEvery: 0 };
const input = (more: Partial<DisaggregationInput>): DisaggregationInput => ({
  promptTokens: 1000, overlapTokens: 0, prefillWorkers: 1, leastPrefillTokens: 0, decodePrefillTokens: 0, localFirstTokenMs: NaN, remoteFirstTokenMs: NaN, ...more,
});

disaggregationPolicyContract({ runner: { describe, it }, create: () => new PredictedPolicy(config) });

describe('predicted', () => {
  it('goes where the first token is sooner, with the decode side dearer by its weight', () => {
    const policy = new PredictedPolicy(config);
    expect(policy.isRemote(input({ localFirstTokenMs: 100, remoteFirstTokenMs: 130 }))).toBe(false);
    expect(policy.isRemote(input({ localFirstTokenMs: 100, remoteFirstTokenMs: 120 }))).toBe(true);
  });

  it('while a side is unknown, short prompts stay local', () => {
    const policy = new PredictedPolicy(config);
    expect(policy.isRemote(input({ promptTokens: 511, localFirstTokenMs: 1 }))).toBe(false);
    expect(policy.isRemote(input({ promptTokens: 600, overlapTokens: 100 }))).toBe(false);
    expect(policy.isRemote(input({ promptTokens: 612, overlapTokens: 100 }))).toBe(true);
  });

  it('explores near equals only, every so often', () => {
    const policy = new PredictedPolicy({ ...config, exploreEvery: 4 });
    const near = Array.from({ length: 12 }, () => policy.isRemote(input({ localFirstTokenMs: 100, remoteFirstTokenMs: 120 })));
    expect(near.filter((isRemote) => !isRemote)).toHaveLength(3);
    const clear = Array.from({ length: 12 }, () => policy.isRemote(input({ localFirstTokenMs: 100, remoteFirstTokenMs: 20 })));
    expect(clear).toEqual(Array(12).fill(true));
  });
});

describe('the line that fades', () => {
  it('finds a line in noise, and follows when the machine changes', () => {
    let state = 7;
    const noise = (): number => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32) * 4 - 2;
    const line = new FadingLine();
    const feed = (start: number, slope: number): void => {
      for (let i = 0; i < 300; i++) {
        const x = 100 + ((i * 97) % 2000);
        line.observe(x, start + slope * x + noise());
      }
    };
    expect(line.at(100)).toBeNaN();
    feed(20, 0.1);
    expect(line.at(1000)).toBeCloseTo(120, -0.5);
    expect(line.at(0)).toBeCloseTo(20, -0.5);
    feed(5, 0.4);
    expect(line.at(1000)).toBeCloseTo(405, -1);
  });

  it('says nothing negative, and takes no nonsense', () => {
    const line = new FadingLine();
    for (const [x, y] of [[NaN, 1], [1, NaN], [-1, 1], [1, -1], [Infinity, 1]] as const) line.observe(x, y);
    expect(line.count).toBe(0);
    for (let i = 1; i < 10; i++) line.observe(100 * i, Math.max(0, 100 * i - 300));
    for (const x of [0, 1, 50, 1000]) expect(line.at(x)).toBeGreaterThanOrEqual(0);
    const flat = new FadingLine();
    for (let i = 0; i < 10; i++) flat.observe(512, 50);
    expect([flat.at(512), flat.at(1024)]).toEqual([50, 100]);
  });

  it('hop times: remote is prefill and what of the transfer is left', () => {
    const times = new HopTimes();
    for (let i = 1; i <= 20; i++) {
      times.localPrefill(i * 100, 10 + i * 20);
      times.remotePrefill(i * 100, 5 + i * 10);
      times.transfer(i, 1 + i * 0.5);
    }
    expect(times.localMs(1000)).toBeCloseTo(210, 5);
    expect(times.remoteMs(1000, 10)).toBeCloseTo(105 + 6, 5);
    times.settled(100, 80);
    expect(times.report()).toMatchObject({ local: 20, remote: 20, transfers: 20, meanRelativeError: undefined });
  });
});
