import { boot } from '@armature/core';
import type { App, BootOptions } from '@armature/core';
import { deployment } from '@armature/serving';
import { builtins, companions } from './builtins.ts';

/** Everything that `armature` knows about a file: the root of the configuration and the built-in plug-ins. */
export async function configOptions(file: string): Promise<Pick<BootOptions, 'configFile' | 'root' | 'builtins' | 'companions'>> {
  return { configFile: file, root: deployment as BootOptions['root'], builtins: await builtins(file), companions };
}

/** Boots a configuration file (or `text` in its place) with the built-in plug-ins. Creates everything, starts nothing. */
export async function bootFile(file: string, options: { readonly logLevel?: string; readonly text?: string }): Promise<App> {
  const isTerminal = process.stderr.isTTY;
  const env = {
    ...(isTerminal ? { ARMATURE_LOG_FORMAT: 'pretty' } : {}),
    ...(options.logLevel === undefined ? {} : { ARMATURE_LOG_LEVEL: options.logLevel }),
    ...process.env,
  };
  return boot({ ...(await configOptions(file)), ...(options.text === undefined ? {} : { configText: options.text }), env });
}
