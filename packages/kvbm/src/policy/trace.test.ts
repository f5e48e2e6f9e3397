import { expect, test } from 'vitest';
import type { KvEvictionOrder, KvPolicy, PluginDescriptor } from '@armature/contracts';
import { costPolicyDefaults } from './config.ts';
import { kvPolicyPlugins } from './plugin.ts';
import { multiTurn, replay, scan } from './trace.test.support.ts';
import type { Prompt, TraceResult } from './trace.test.support.ts';

const SEED = 20;

function orderOf(name: string, places: number): KvEvictionOrder {
  const plugin = kvPolicyPlugins.find((one) => one.name === name) as PluginDescriptor<'kv-policy', object>;
  return (plugin.create(costPolicyDefaults, {} as never) as KvPolicy).order('host', places);
}

const percent = (share: number): string => `${(share * 100).toFixed(1)} %`.padStart(8);

/** The table of docs/kvbm-policies.md. */
test('hit rates of the four orders on two traces, alone and below a device', () => {
  const traces: [string, (turns: number) => Iterable<Prompt>, number, [number, number][]][] = [
    ['multi-turn', (turns) => multiTurn(turns, SEED), 2000, [[2000, 0], [6000, 0], [2000, 1000], [6000, 3000]]],
    ['scan', (turns) => scan(turns, SEED), 2000, [[2000, 0], [2000, 500]]],
  ];
  const found = new Map<string, TraceResult>();
  for (const [trace, prompts, turns, sizes] of traces) {
    for (const [places, devicePlaces] of sizes) {
      for (const { name } of kvPolicyPlugins) {
        const result = replay(orderOf(name, places), places, devicePlaces, { prompts: prompts(turns), turns });
        found.set(`${trace} ${places}/${devicePlaces} ${name}`, result);
        console.log(`${trace.padEnd(10)} ${places} places below ${String(devicePlaces).padStart(4)}  ${name.padEnd(8)} hits ${percent(result.hitRate)}  cost saved ${percent(result.savedCost)}  evictions ${result.evictions} (seed ${SEED})`);
        expect(result.evictions).toBeGreaterThan(100);
      }
    }
  }
  const hits = (key: string): number => (found.get(key) as TraceResult).hitRate;
  // What the docs claim.
  expect(hits('scan 2000/0 tinylfu')).toBeGreaterThan(1.5 * hits('scan 2000/0 lru'));
  for (const sizes of ['2000/0', '6000/0', '2000/1000', '6000/3000']) expect(hits(`multi-turn ${sizes} lineage`)).toBeGreaterThanOrEqual(hits(`multi-turn ${sizes} lru`));
}, 60_000);
