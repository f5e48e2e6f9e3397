import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

// Every package must install alone: packed tarballs of itself and of the workspace packages it depends on, in an empty folder.
const root = fileURLToPath(new URL('..', import.meta.url));
interface Manifest {
  readonly name: string;
  readonly license?: string;
  readonly description?: string;
  readonly engines?: { readonly node?: string };
  readonly exports?: Readonly<Record<string, unknown>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly bin?: object;
}
const folders = readdirSync(join(root, 'packages'));
const manifests = new Map(folders.map((folder) => [folder, JSON.parse(readFileSync(join(root, 'packages', folder, 'package.json'), 'utf8')) as Manifest]));
const folderOf = (name: string): string => name.replace('@armature/', '');

function workspaceClosure(folder: string, seen = new Set<string>()): Set<string> {
  if (seen.has(folder)) return seen;
  seen.add(folder);
  const manifest = manifests.get(folder);
  for (const name of Object.keys({ ...manifest?.dependencies, ...manifest?.peerDependencies })) {
    if (name.startsWith('@armature/')) workspaceClosure(folderOf(name), seen);
  }
  return seen;
}

/** Entry points, a pattern such as `./testing/*` written out. */
function entriesOf(manifest: Manifest, installed: string): string[] {
  return Object.entries(manifest.exports ?? {}).flatMap(([entry, target]) => {
    if (entry === './package.json') return [];
    if (!entry.includes('*')) return [entry];
    const [folder] = (target as { default: string }).default.split('*');
    return readdirSync(join(installed, folder)).filter((file) => file.endsWith('.js')).map((file) => entry.replace('*', file.slice(0, -3)));
  });
}

describe('packages install alone', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'armature-packs-'));
  const tarballs = new Map<string, string>();
  const contents = new Map<string, readonly string[]>();

  beforeAll(() => {
    for (const folder of folders) {
      const out = execFileSync('npm', ['pack', '--json', '--pack-destination', scratch], { cwd: join(root, 'packages', folder), encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
      const [{ filename, files }] = JSON.parse(out) as [{ filename: string; files: { path: string }[] }];
      tarballs.set(folder, join(scratch, filename));
      contents.set(folder, files.map((file) => file.path));
    }
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  it.each(folders)('%s', (folder) => {
    const manifest = manifests.get(folder);
    if (manifest === undefined) throw new Error(folder);
    expect(manifest.license).toBe('Apache-2.0');
    expect(manifest.description?.length).toBeGreaterThan(10);
    expect(manifest.engines?.node).toBe('>=20.19');
    const paths = contents.get(folder) ?? [];
    expect(paths.filter((path) => /\.test\.|tsbuildinfo|test-support|^assembly/.test(path))).toEqual([]);
    expect(['LICENSE', 'README.md', 'package.json'].filter((paper) => !paths.includes(paper)), 'papers that are missing').toEqual([]);
    const dir = join(scratch, `install-${folder}`);
    mkdirSync(dir);
    writeFileSync(join(dir, 'package.json'), '{ "name": "alone", "private": true, "type": "module" }');
    const needed = [...workspaceClosure(folder)].map((name) => tarballs.get(name) as string);
    execFileSync('npm', ['install', '--no-audit', '--no-fund', '--omit=dev', '--prefer-offline', '--ignore-scripts', ...needed], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
    const installed = join(dir, 'node_modules', manifest.name);
    const entries = entriesOf(manifest, installed);
    for (const entry of entries) {
      const specifier = `${manifest.name}${entry.slice(1)}`;
      const attributes = entry.endsWith('.json') ? ", { with: { type: 'json' } }" : '';
      const script = `const m = await import(${JSON.stringify(specifier)}${attributes}); if (Object.keys(m).length === 0) throw new Error('exports nothing'); process.exit(0);`;
      execFileSync(process.execPath, ['--input-type=module', '-e', script], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
    }
    for (const types of Object.values(manifest.exports ?? {}).flatMap((target) => (target as { types?: string }).types ?? [])) {
      if (!types.includes('*')) expect(existsSync(join(installed, types)), `${manifest.name}: ${types}`).toBe(true);
    }
    expect(entries.length).toBeGreaterThan(0);
    if (folder === 'cli') {
      const version = execFileSync(process.execPath, [join(dir, 'node_modules/@armature/cli/bin/armature.js'), 'version'], { cwd: dir, encoding: 'utf8' });
      expect(version).toContain('armature 0.1.0');
    }
  });

  it('a third-party scorer, loaded by name from YAML, decides', async () => {
    const example = join(root, 'examples/router-cheapest');
    const dir = join(scratch, 'third-party');
    mkdirSync(dir);
    writeFileSync(join(dir, 'package.json'), '{ "name": "operator", "private": true, "type": "module" }');
    const [{ filename }] = JSON.parse(execFileSync('npm', ['pack', '--json', '--pack-destination', scratch], { cwd: example, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })) as [{ filename: string }];
    const needed = [...workspaceClosure('cli')].map((name) => tarballs.get(name) as string);
    execFileSync('npm', ['install', '--no-audit', '--no-fund', '--omit=dev', '--prefer-offline', '--ignore-scripts', ...needed, join(scratch, filename)], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
    writeFileSync(join(dir, 'contract.test.js'), readFileSync(join(example, 'contract.test.js'), 'utf8').replace("'./index.js'", "'@acme/router-cheapest'"));
    execFileSync(process.execPath, ['--test', 'contract.test.js'], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
    const file = join(dir, 'cluster.yaml');
    writeFileSync(file, readFileSync(join(example, 'cluster.yaml')));
    const server = spawn(process.execPath, [join(dir, 'node_modules/@armature/cli/bin/armature.js'), 'route', '-f', file, '--port', '0'], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
    try {
      const banner = await untilReady(server);
      const [url, admin] = [/http:\/\/[^/\s]+(?=\/v1)/.exec(banner)?.[0], /admin\s+(http:\/\/\S+)/.exec(banner)?.[1]];
      const body = JSON.stringify({ tokens: [1, 2, 3], track: false });
      const chosen = (await (await fetch(`${url}/v1/selections`, { method: 'POST', body })).json()) as { worker: { id: string } };
      expect(chosen.worker.id).toMatch(/^cheap\//);
      const [decision] = (await (await fetch(`${admin}/decisions`)).json()) as { candidates: { worker: string; parts: Record<string, number>; terms: Record<string, number> }[] }[];
      const parts = Object.fromEntries(decision.candidates.map(({ worker, parts }) => [worker.split('/')[0], parts['cheapest']]));
      expect(parts).toEqual({ dear: 12, cheap: 3 }); // price times weight
      expect(decision.candidates[0]?.terms).toHaveProperty(['cheapest.costPerHour']);
    } finally {
      server.kill('SIGTERM');
    }
  });

  it('nixel alone moves blocks between two processes: the example its README begins with', async () => {
    const example = join(root, 'examples/nixel-two-processes');
    const readme = readFileSync(join(root, 'packages/nixel/README.md'), 'utf8');
    const files = ['owner.js', 'reader.js'].map((file) => readFileSync(join(example, file), 'utf8'));
    expect([...readme.matchAll(/```js\n([\s\S]*?)```/g)].slice(0, 2).map(([, code]) => code)).toEqual(files);
    const dir = join(scratch, 'two-processes');
    mkdirSync(dir);
    writeFileSync(join(dir, 'package.json'), '{ "name": "newcomer", "private": true, "type": "module" }');
    const needed = [...workspaceClosure('nixel')].map((name) => tarballs.get(name) as string);
    execFileSync('npm', ['install', '--no-audit', '--no-fund', '--omit=dev', '--prefer-offline', '--ignore-scripts', ...needed], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
    const [ownerCode = '', readerCode = ''] = files;
    const run = async (owner: string): Promise<string> => {
      const port = await freePort();
      writeFileSync(join(dir, 'owner.js'), owner.replace('7300', String(port)));
      writeFileSync(join(dir, 'reader.js'), readerCode.replace('7300', String(port)));
      const server = spawn(process.execPath, ['owner.js'], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
      try {
        await untilReady(server);
        return execFileSync(process.execPath, ['reader.js'], { cwd: dir, encoding: 'utf8', timeout: 20_000 });
      } finally {
        server.kill('SIGTERM');
      }
    };
    expect(await run(ownerCode)).toMatch(/isDone: true, bytes: 196608, isEqual: true .* transfers: 1, bytes: 196608/);
    // Sabotage: other bytes at the owner are seen.
    expect(await run(ownerCode.replace('fill(block,', 'fill(block + 1,'))).toMatch(/isDone: true, bytes: 196608, isEqual: false/);
  });
});

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

/** Standard output up to the line that says how to stop. */
function untilReady(server: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    let failure = '';
    const timer = setTimeout(() => reject(new Error(`no banner within 30 s: ${text}${failure}`)), 30_000);
    server.stderr?.on('data', (chunk: Buffer) => (failure += String(chunk)));
    server.once('exit', (code) => reject(new Error(`ended with ${code}: ${text}${failure}`)));
    server.stdout?.on('data', (chunk: Buffer) => {
      text += String(chunk);
      if (!text.includes('Ctrl-C stops')) return;
      clearTimeout(timer);
      resolve(text);
    });
  });
}
