import { readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { ArmatureError, isPlugin } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';

/** The descriptors of a package or file. Throws `PLUGIN_NOT_FOUND`, `PLUGIN_LOAD_FAILED`, `PLUGIN_INVALID`. */
export async function loadPlugins(specifier: string, baseDir: string): Promise<PluginDescriptor[]> {
  const file = isPath(specifier) ? localFile(specifier, baseDir) : packageFile(specifier, baseDir);
  let module: Record<string, unknown>;
  try {
    module = (await import(/* @vite-ignore */ pathToFileURL(file).href)) as Record<string, unknown>;
  } catch (error) {
    throw new ArmatureError('PLUGIN_LOAD_FAILED', `"${specifier}" threw while it was loaded: ${error instanceof Error ? error.message : String(error)}`, {
      hint: `the fault is in ${file}, or in something it imports`,
      cause: error,
    });
  }
  return pluginsOf(module, specifier);
}

/** Default and named exports that are plug-ins, and arrays of them. */
function pluginsOf(module: Record<string, unknown>, specifier: string): PluginDescriptor[] {
  const found = new Set<PluginDescriptor>();
  const names = Object.keys(module);
  const values = Object.values(module);
  // A CommonJS module arrives as `default`, with its exports inside.
  const inner = module['default'];
  if (typeof inner === 'object' && inner !== null && !isPlugin(inner) && !Array.isArray(inner)) values.push(...Object.values(inner));
  for (const value of values.flat(1)) if (isPlugin(value)) found.add(value);
  if (found.size > 0) return [...found];
  throw new ArmatureError('PLUGIN_INVALID', `"${specifier}" exports no plug-in${names.length === 0 ? '' : ` (exports: ${names.slice(0, 8).join(', ')})`}`, {
    hint: 'export what definePlugin of @armature/contracts returns',
  });
}

function isPath(specifier: string): boolean {
  return /^(\.{1,2}\/|\/|file:|[A-Za-z]:[\\/])/.test(specifier);
}

function localFile(specifier: string, baseDir: string): string {
  const file = specifier.startsWith('file:') ? fileURLToPath(specifier) : resolve(baseDir, specifier);
  const stats = statSync(file, { throwIfNoEntry: false });
  if (stats?.isFile() === true) return file;
  if (stats?.isDirectory() === true) {
    const entry = packageEntry(file);
    if (entry !== undefined) return entry;
  }
  throw new ArmatureError('PLUGIN_NOT_FOUND', `there is no plug-in file "${specifier}" (looked for ${file})`, {
    hint: 'paths are relative to the configuration file and name a .js or .mjs file, or a package folder',
  });
}

/** First from the folder of the configuration file, then from the working folder, then from the host itself. */
function packageFile(specifier: string, baseDir: string): string {
  const from = [baseDir, process.cwd(), import.meta.dirname];
  for (const folder of from) {
    try {
      return createRequire(join(folder, 'resolve.js')).resolve(specifier);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      // A package with an `import` entry only: look at its package.json ourselves.
      if (code === 'ERR_PACKAGE_PATH_NOT_EXPORTED') {
        const entry = importEntry(specifier, folder);
        if (entry !== undefined) return entry;
      }
    }
  }
  throw new ArmatureError('PLUGIN_NOT_FOUND', `package "${specifier}" is not installed`, {
    hint: `run: npm install ${specifier} (in ${baseDir}), or write a path that begins with "./"`,
  });
}

function importEntry(specifier: string, folder: string): string | undefined {
  for (let at = resolve(folder); ; at = dirname(at)) {
    const candidate = join(at, 'node_modules', specifier);
    if (statSync(join(candidate, 'package.json'), { throwIfNoEntry: false }) !== undefined) return packageEntry(candidate);
    if (dirname(at) === at) return undefined;
  }
}

function packageEntry(folder: string): string | undefined {
  const manifest = join(folder, 'package.json');
  const text = statSync(manifest, { throwIfNoEntry: false }) === undefined ? '{}' : readFileSync(manifest, 'utf8');
  const { exports, main } = JSON.parse(text) as { exports?: unknown; main?: string };
  const entry = exportTarget(exports) ?? main ?? 'index.js';
  const file = resolve(folder, entry);
  return statSync(file, { throwIfNoEntry: false })?.isFile() === true ? file : undefined;
}

function exportTarget(exports: unknown): string | undefined {
  if (typeof exports === 'string') return exports;
  if (typeof exports !== 'object' || exports === null) return undefined;
  const conditions = exports as Record<string, unknown>;
  if ('.' in conditions) return exportTarget(conditions['.']);
  for (const [condition, target] of Object.entries(conditions)) {
    if (!['node', 'import', 'default'].includes(condition)) continue;
    const found = exportTarget(target);
    if (found !== undefined) return found;
  }
  return undefined;
}
