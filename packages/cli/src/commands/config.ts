import { ArmatureError } from '@armature/contracts';
import { effectiveYaml, loadConfig } from '@armature/core';
import type { ConfigGraph } from '@armature/core';
import { configOptions } from '../boot.ts';

const EMPTY = 'apiVersion: armature/v1\nmodels:\n  - { name: example, source: example }\n';

async function graphOf(file: string | undefined): Promise<ConfigGraph> {
  const options = await configOptions(file ?? 'armature.yaml');
  const { configFile: _configFile, ...rest } = options;
  const { graph } = await loadConfig(file === undefined ? { ...rest, configText: EMPTY } : options);
  return graph;
}

/** Throws CONFIG_INVALID with every problem; prints one line when there is none. */
export async function configCheck(file: string, print: boolean): Promise<void> {
  const graph = await graphOf(file);
  process.stdout.write(print ? effectiveYaml(graph) : `${file}: no problems\n`);
}

export async function configSchema(file: string | undefined): Promise<void> {
  const graph = await graphOf(file);
  process.stdout.write(`${JSON.stringify(graph.jsonSchema(), null, 2)}\n`);
}

/** A key's meaning, or (without a key) where each effective value of a file comes from. */
export async function configExplain(key: string | undefined, file: string | undefined): Promise<void> {
  const graph = await graphOf(file);
  if (key !== undefined) {
    const explanation = graph.explainKey(key);
    if (explanation === undefined) {
      throw new ArmatureError('CONFIG_UNKNOWN_KEY', `no key "${key}" in the configuration`, { hint: 'write it dotted from the top, for example models.workers.engine' });
    }
    process.stdout.write(`${key}\n${describe(explanation as unknown as Record<string, unknown>)}`);
    return;
  }
  if (file === undefined) throw new ArmatureError('USAGE_NOTHING_TO_EXPLAIN', 'name a key, or a file with -f', { hint: 'armature config explain models.router' });
  for (const entry of graph.entries()) {
    process.stdout.write(`${entry.path}: ${JSON.stringify(entry.value)}  # ${entry.origin}\n`);
  }
}

function describe(facts: Readonly<Record<string, unknown>>): string {
  return Object.entries(facts)
    .filter(([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0))
    .map(([name, value]) => `  ${`${name}:`.padEnd(14)} ${typeof value === 'string' ? value : JSON.stringify(value)}\n`)
    .join('');
}
