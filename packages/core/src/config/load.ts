import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import { builtinPlanes } from '../planes/plugins.ts';
import { loadPlugins } from '../plugins/loader.ts';
import { PluginRegistry } from '../plugins/registry.ts';
import { buildGraph } from './graph.ts';
import type { ConfigGraph } from './graph.ts';
import type { ConfigProblem } from './problems.ts';
import { readSource } from './source.ts';
import type { ConfigSource } from './source.ts';

export interface ConfigOptions {
  /** The YAML itself, or `configFile`. */
  readonly configText?: string;
  readonly configFile?: string;
  /** Relative paths in the configuration, and packages it names, are looked up from here. Default: the folder of `configFile`, else the working folder. */
  readonly baseDir?: string;
  /** Descriptor of the top level of the file. */
  readonly root: PluginDescriptor<'deployment', never>;
  /** Beside the memory planes, which are always there. */
  readonly builtins?: readonly PluginDescriptor[];
  /** Packages that are loaded, where installed, when the file says `use: NAME` and nothing else has that name. */
  readonly companions?: Readonly<Record<string, string>>;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Kinds that are given from outside. */
  readonly givenKinds?: ReadonlySet<string>;
}

export interface LoadedConfig {
  readonly graph: ConfigGraph;
  readonly baseDir: string;
}

/** Reads, loads plug-ins, validates. Creates nothing. Throws `CONFIG_INVALID` with every problem, or `CONFIG_FILE_UNREADABLE`. */
export async function loadConfig(options: ConfigOptions): Promise<LoadedConfig> {
  const file = options.configFile;
  const text = options.configText ?? readText(file);
  const baseDir = resolve(options.baseDir ?? (file === undefined ? process.cwd() : dirname(file)));
  const env = options.env ?? process.env;
  const source = readSource(text, file ?? 'config.yaml', env);
  const registry = builtinRegistry(options.builtins ?? []);
  const problems = await addForeign(source, registry, baseDir);
  problems.push(...(await addCompanions(source, registry, { baseDir, packages: options.companions ?? {} })));
  const root = options.root as unknown as PluginDescriptor<'deployment'>;
  const graph = buildGraph(source, problems, { root, registry, env, ...(options.givenKinds === undefined ? {} : { givenKinds: options.givenKinds }) });
  return { graph, baseDir };
}

function readText(file: string | undefined): string {
  if (file === undefined) throw new ArmatureError('CONFIG_FILE_UNREADABLE', 'neither configText nor configFile was given', { hint: 'pass one of them' });
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new ArmatureError('CONFIG_FILE_UNREADABLE', `cannot read ${file}: ${(error as Error).message}`, { hint: 'check the path given with -f', cause: error });
  }
}

function builtinRegistry(builtins: readonly PluginDescriptor[]): PluginRegistry {
  const registry = new PluginRegistry();
  for (const descriptor of builtinPlanes) registry.add(descriptor as PluginDescriptor, '@armature/core');
  for (const descriptor of builtins) registry.add(descriptor, 'the built-in plug-ins');
  return registry;
}

/** Packages of ours that bring dependencies of their own: found by the name the file uses. */
async function addCompanions(source: ConfigSource, registry: PluginRegistry, { baseDir, packages }: { readonly baseDir: string; readonly packages: Readonly<Record<string, string>> }): Promise<ConfigProblem[]> {
  const problems: ConfigProblem[] = [];
  for (const [path, use] of usesOf(source.value, '')) {
    const name = Object.hasOwn(packages, use) ? packages[use] : undefined;
    if (name === undefined || registry.list().some(({ descriptor }) => descriptor.name === use)) continue;
    try {
      for (const descriptor of await loadPlugins(name, baseDir)) registry.add(descriptor, `"${name}"`);
    } catch (error) {
      const known = ArmatureError.from(error, 'PLUGIN_LOAD_FAILED');
      const place = source.origins.get(path)?.value ?? { line: 0, column: 0 };
      problems.push({ code: known.code, path, message: `"${use}" comes with ${name}: ${known.message}`, file: source.file, ...place, ...(known.hint === undefined ? {} : { hint: known.hint }) });
    }
  }
  return problems;
}

/** Every `use: NAME`, with its path. */
function* usesOf(value: unknown, path: string): Generator<[string, string]> {
  if (typeof value !== 'object' || value === null) return;
  for (const [key, inner] of Object.entries(value)) {
    const at = Array.isArray(value) ? `${path}[${key}]` : path === '' ? key : `${path}.${key}`;
    if (key === 'use' && typeof inner === 'string') yield [at, inner];
    else yield* usesOf(inner, at);
  }
}

async function addForeign(source: ConfigSource, registry: PluginRegistry, baseDir: string): Promise<ConfigProblem[]> {
  const names = source.value['plugins'];
  const problems: ConfigProblem[] = [];
  if (!Array.isArray(names)) return problems;
  for (const [index, name] of names.entries()) {
    if (typeof name !== 'string' || name === '') continue; // the schema says so
    const report = (error: unknown): void => {
      const known = ArmatureError.from(error, 'PLUGIN_LOAD_FAILED');
      const path = `plugins[${index}]`;
      const place = source.origins.get(path)?.value ?? { line: 0, column: 0 };
      problems.push({ code: known.code, path, message: known.message, file: source.file, ...place, ...(known.hint === undefined ? {} : { hint: known.hint }) });
    };
    try {
      for (const descriptor of await loadPlugins(name, baseDir)) {
        try {
          registry.add(descriptor, `"${name}"`);
        } catch (error) {
          report(error);
        }
      }
    } catch (error) {
      report(error);
    }
  }
  return problems;
}
