import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

/** What the search looks at; tests give their own. */
export interface LibrarySearch {
  /** From the configuration: a file, or a folder that holds it. Nothing else is tried then. */
  readonly configured: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  list(folder: string): readonly string[];
  isFile(file: string): boolean;
  /** Site-packages of `python3`; asked last, it starts a process. */
  sitePackages(): readonly string[];
}

export interface FoundLibrary {
  readonly file: string;
  readonly version: string;
}

const FILE = 'libnixl_capi.so';
const INSTALL = 'pip install --no-deps nixl-cu12, or unzip that wheel anywhere and name its folder in ARMATURE_NIXL_LIBRARY or config.library';
const FOLDERS = ['/opt/nvidia/nvda_nixl/lib/x86_64-linux-gnu', '/opt/nvidia/nvda_nixl/lib/aarch64-linux-gnu', '/opt/nvidia/nvda_nixl/lib64', '/usr/local/nixl/lib/x86_64-linux-gnu', '/usr/local/nixl/lib', '/usr/local/lib'];

/** Where the library is, or why there is none and what to install. */
export function findLibrary(search: LibrarySearch): FoundLibrary | string {
  const named = search.configured || search.env['ARMATURE_NIXL_LIBRARY'] || '';
  if (named !== '') return inFolder(search, named) ?? `there is no ${FILE} at "${named}"; ${INSTALL}`;
  for (const root of roots(search)) {
    const found = inFolder(search, root);
    if (found !== undefined) return found;
  }
  for (const root of search.sitePackages()) {
    const found = inFolder(search, root);
    if (found !== undefined) return found;
  }
  return `${FILE} of NVIDIA NIXL is not installed; ${INSTALL}`;
}

function roots({ env, list }: LibrarySearch): string[] {
  const venv = env['VIRTUAL_ENV'];
  const lib = venv === undefined ? '' : path.join(venv, 'lib');
  const inVenv = lib === '' ? [] : list(lib).map((python) => path.join(lib, python, 'site-packages'));
  const cache = path.join(env['XDG_CACHE_HOME'] || path.join(env['HOME'] ?? '/', '.cache'), 'armature', 'nixl');
  return [...inVenv, ...FOLDERS, ...[...list(cache)].sort().reverse().map((version) => path.join(cache, version))];
}

/** The file itself, a folder with it, or a folder into which a wheel was unpacked. */
function inFolder(search: LibrarySearch, root: string): FoundLibrary | undefined {
  if (search.isFile(root)) return { file: root, version: versionBeside(search, path.dirname(path.dirname(root))) };
  if (search.isFile(path.join(root, FILE))) return { file: path.join(root, FILE), version: versionBeside(search, path.dirname(root)) };
  const wheel = [...search.list(root)].sort().find((name) => /^\.nixl_cu\d+\.mesonpy\.libs$/.test(name) && search.isFile(path.join(root, name, FILE)));
  return wheel === undefined ? undefined : { file: path.join(root, wheel, FILE), version: versionBeside(search, root) };
}

/** The C API does not tell its version; the wheel's folder of facts does. */
function versionBeside(search: LibrarySearch, folder: string): string {
  for (const name of search.list(folder)) {
    const version = /^nixl_cu\d+-(\d+\.\d+\.\d+)[^/]*\.dist-info$/.exec(name)?.[1];
    if (version !== undefined) return version;
  }
  return '';
}

/** The real machine. */
export function machineSearch(configured: string): LibrarySearch {
  return {
    configured,
    env: { HOME: os.homedir(), ...process.env },
    list: (folder) => {
      try {
        return readdirSync(folder);
      } catch {
        return [];
      }
    },
    isFile: (file) => existsSync(file) && statSync(file).isFile(),
    sitePackages: () => {
      const script = 'import site,sysconfig; print("\\n".join([*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("platlib")]))';
      const { status, stdout } = spawnSync('python3', ['-c', script], { encoding: 'utf8', timeout: 5000, stdio: ['ignore', 'pipe', 'ignore'] });
      return status === 0 ? [...new Set(stdout.split('\n').filter((line) => line !== ''))] : [];
    },
  };
}
