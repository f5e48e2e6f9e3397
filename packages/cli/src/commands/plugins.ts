import { builtinPlanes, loadConfig } from '@armature/core';
import type { PluginDescriptor } from '@armature/contracts';
import { builtins } from '../builtins.ts';
import { configOptions } from '../boot.ts';

/** Plug-ins by kind; with a file, those that it names too. */
export async function listPlugins(file: string | undefined, asJson: boolean): Promise<void> {
  const known =
    file === undefined
      ? [...(builtinPlanes as readonly unknown[] as PluginDescriptor[]), ...(await builtins())]
      : (await loadConfig(await configOptions(file))).graph.registry.list().map((entry) => entry.descriptor);
  const rows = [...known].map(({ kind, name, contract, description }) => ({ kind, name, contract, description })).sort((a, b) => a.kind.localeCompare(b.kind) || a.name.localeCompare(b.name));
  if (asJson) {
    process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
    return;
  }
  for (const row of rows) process.stdout.write(`${row.kind.padEnd(22)}${row.name.padEnd(16)}${row.contract}  ${row.description}\n`);
}
