import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { plannerPolicyContract } from '@armature/contracts/testing/planner-policy';
import { scalingConnectorContract } from '@armature/contracts/testing/scaling-connector';
import type { SuiteRunner } from '@armature/contracts/testing/runner';
import { describe, expect, it } from 'vitest';
import { DryRunConnector } from './connectors/dry-run.ts';
import { VirtualConnector } from './connectors/virtual.ts';
import { LoadPolicy } from './policies/load/load-policy.ts';
import { OptimizePolicy } from './policies/optimize/optimize-policy.ts';
import { shippedWeights } from './policies/rl/plugin.ts';
import { RlPolicy } from './policies/rl/rl-policy.ts';
import { SlaPolicy } from './policies/sla/sla-policy.ts';
import { plannerPlugins } from './plugins.ts';
import { silentLog, TestDiscovery, TestRandom } from './testing.test.support.ts';

plannerPolicyContract({ runner: named('load'), create: () => new LoadPolicy({ prefill: { up: 1, down: 0.1 }, decode: { up: 0.85, down: 0.5 }, step: 0 }) });
plannerPolicyContract({ runner: named('sla'), create: () => new SlaPolicy({ caution: 0, downShare: 0.8, hardware: {}, tables: {} }) });
plannerPolicyContract({ runner: named('optimize'), create: () => new OptimizePolicy({ horizonMs: 30_000, caution: 0.25, evaluations: 4, maxRequests: 200, margin: 0.02, transferMs: 2, transferMsPerToken: 0.005, drainMs: 10_000, hardware: {} }, new TestRandom(1)) });
plannerPolicyContract({ runner: named('rl'), create: () => new RlPolicy({ hardware: {} }, shippedWeights()) });

const virtual = (discovery: TestDiscovery): VirtualConnector => new VirtualConnector(discovery, new ManualClock(), { prefix: 'planner', ttlMs: 10_000 });

scalingConnectorContract({ runner: named('dry-run'), create: async () => ({ connector: new DryRunConnector(silentLog), close: async () => undefined }) });
scalingConnectorContract({
  runner: named('virtual'),
  create: async () => {
    const discovery = new TestDiscovery();
    const put = discovery.put.bind(discovery);
    let writes = 0;
    discovery.put = (key, value) => {
      if (key.endsWith('/desired')) writes++;
      put(key, value);
    };
    const connector = virtual(discovery);
    return { connector, effects: () => writes, close: () => connector.close() };
  },
});

function named(name: string): SuiteRunner {
  return { describe: (title, body) => describe(`${name}: ${title}`, body), it };
}

describe('plug-ins of the planner', () => {
  it('have defaults and descriptions for every field', () => {
    const fields = (schema: Record<string, unknown>, path: string): string[] =>
      Object.entries((schema['properties'] ?? {}) as Record<string, Record<string, unknown>>).flatMap(([name, field]) => [
        ...(typeof field['description'] === 'string' ? [] : [`${path}.${name}: no description`]),
        ...('default' in field || ((schema['required'] ?? []) as string[]).includes(name) ? [] : [`${path}.${name}: no default`]),
        ...fields(field, `${path}.${name}`),
      ]);
    expect(plannerPlugins.map(({ name }) => name)).toEqual(['load', 'sla', 'optimize', 'rl', 'dry-run', 'virtual']);
    for (const { name, configSchema } of plannerPlugins) expect(fields(configSchema, name)).toEqual([]);
  });
});
