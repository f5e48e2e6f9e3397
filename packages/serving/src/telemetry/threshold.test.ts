import type { DisaggregationPolicy, Discovery, DiscoveryWatcher, PlainData } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { conditional } from '../policies/disaggregation.ts';
import type { ConditionalConfig } from '../policies/disaggregation.ts';
import { silentLog } from '../test-support/fakes.ts';
import { followThreshold, PublishedThreshold } from './threshold.ts';

class OneDiscovery implements Discovery {
  readonly supports = { processes: false } as const;
  readonly writes: PlainData[] = [];
  #watcher: DiscoveryWatcher | undefined = undefined;
  fails = 0;

  async register(key: string, value: PlainData): Promise<{ update(next: PlainData): Promise<void>; close(): Promise<void> }> {
    if (this.fails-- > 0) throw new Error('no quorum');
    const put = (next: PlainData): void => {
      this.writes.push(next);
      this.#watcher?.put({ key, value: next });
    };
    put(value);
    return { update: async (next) => put(next), close: async () => this.#watcher?.removed(key) };
  }
  async watch(_prefix: string, watcher: DiscoveryWatcher): Promise<{ close(): void }> {
    this.#watcher = watcher;
    return { close: () => (this.#watcher = undefined) };
  }
}

const policyOf = (rule: ConditionalConfig['rule']): DisaggregationPolicy => conditional.create({ whenNoPrefillWorker: 'local', rule, maxLocalTokens: 100, maxLocalShare: 1, prefillBusyTokens: 8_192, decodeBusyTokens: 8_192 }, undefined as never) as DisaggregationPolicy;
const isRemote = (policy: DisaggregationPolicy, promptTokens: number): boolean => policy.isRemote({ promptTokens, overlapTokens: 1, prefillWorkers: 1, leastPrefillTokens: 0, decodePrefillTokens: 0, localFirstTokenMs: NaN, remoteFirstTokenMs: NaN });

describe('the disaggregation threshold', () => {
  it('that a planner sets holds while the planner lives; then the configured one again', async () => {
    const discovery = new OneDiscovery();
    const policy = policyOf('isl-bounding');
    await followThreshold('m', policy, discovery);
    const threshold = new PublishedThreshold({ model: 'm', tokens: 100, discovery, log: silentLog });
    expect([threshold.current(), isRemote(policy, 150)]).toEqual([100, true]);
    threshold.set(200);
    threshold.set(300); // while the first is written
    await new Promise((resolve) => setImmediate(resolve));
    expect([threshold.current(), isRemote(policy, 150), isRemote(policy, 350), discovery.writes]).toEqual([300, false, true, [{ tokens: 200 }, { tokens: 300 }]]);
    await threshold.close();
    expect(isRemote(policy, 150)).toBe(true);
  });

  it('that could not be said is said by the next plan', async () => {
    const discovery = new OneDiscovery();
    discovery.fails = 1;
    const threshold = new PublishedThreshold({ model: 'm', tokens: 100, discovery, log: silentLog });
    threshold.set(200);
    await new Promise((resolve) => setImmediate(resolve));
    expect(discovery.writes).toEqual([]);
    threshold.set(200);
    await new Promise((resolve) => setImmediate(resolve));
    expect(discovery.writes).toEqual([{ tokens: 200 }]);
  });

  it('is none where the policy looks at queues only', async () => {
    expect(await followThreshold('m', policyOf('prefill-load'), new OneDiscovery())).toBeUndefined();
  });
});
