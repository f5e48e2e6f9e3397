import type { PlainData } from '@armature/contracts';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { describe, expect, it } from 'vitest';
import { TestDiscovery } from '../testing.test.support.ts';
import { VirtualConnector } from './virtual.ts';

const order = (revision: number, replicas: number): { revision: number; model: string; pools: { pool: string; replicas: number }[] } => ({ revision, model: 'm', pools: [{ pool: 'a', replicas }] });
const open = (discovery: TestDiscovery): VirtualConnector => new VirtualConnector(discovery, new ManualClock(), { prefix: 'planner', ttlMs: 10_000 });

describe('the virtual connector', () => {
  it('writes the desired state and tells what the actor acknowledges', async () => {
    const discovery = new TestDiscovery();
    const connector = open(discovery);
    await connector.apply(order(1, 3));
    expect(discovery.entries.get('planner/m/desired')).toMatchObject(order(1, 3));
    expect(connector.status('m')).toMatchObject({ revision: 1, state: 'unknown', reason: 'nobody has acknowledged the order at planner/m/done' });
    discovery.put('planner/m/done', { order: order(1, 3), state: 'pending', reason: 'no node has a free GPU' } as unknown as PlainData);
    expect(connector.status('m')).toEqual({ revision: 1, state: 'pending', reason: 'no node has a free GPU' });
    discovery.put('planner/m/done', { order: order(1, 3), state: 'done' } as unknown as PlainData);
    expect(connector.status('m')).toEqual({ revision: 1, state: 'done' });
    await connector.close();
    expect(discovery.entries.has('planner/m/desired')).toBe(false);
  });

  it('a planner that starts again goes on from what the actor remembers, once the lease of the dead one has ended', async () => {
    const discovery = new TestDiscovery();
    await open(discovery).apply(order(4, 3));
    discovery.put('planner/m/done', { order: order(4, 3), state: 'done' } as unknown as PlainData);
    const again = open(discovery);
    expect(await again.current('m')).toEqual(order(4, 3));
    await expect(again.apply(order(5, 2))).rejects.toMatchObject({ code: 'PLANNER_DESIRED_TAKEN' });
    discovery.lapse('planner/m/desired');
    await again.apply(order(5, 2));
    expect(discovery.entries.get('planner/m/desired')).toMatchObject(order(5, 2));
  });

  it('what the actor has acknowledged outlives the planner and its lease', async () => {
    const discovery = new TestDiscovery();
    discovery.put('planner/m/done', { order: order(4, 3), state: 'done' } as unknown as PlainData);
    expect(await open(discovery).current('m')).toEqual(order(4, 3));
  });

  it('what others write there by mistake is not believed', async () => {
    const discovery = new TestDiscovery();
    for (const wrong of [null, 'done', { order: { revision: 'x' } }, { order: order(9, -1), state: 'done' }, { order: order(9, 1), state: 'perhaps' }]) {
      discovery.put('planner/m/done', wrong as unknown as PlainData);
      expect(await open(discovery).current('m')).toBeUndefined();
    }
  });
});
