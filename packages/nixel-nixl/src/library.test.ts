import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { realClock } from '@armature/contracts/testing/real-clock';
import { FakeTransferHost } from '@armature/contracts/testing/transfer-transport';
import { activeRdmaPorts, requireFabric } from './fabric.ts';
import { FakeNixl, recordingLogger } from './fake-nixl.test.support.ts';
import { findLibrary } from './library.ts';
import type { LibrarySearch } from './library.ts';
import { NixlTransport } from './nixl-transport.ts';

const WHEEL = ['/site/.nixl_cu12.mesonpy.libs/libnixl_capi.so', '/site/nixl_cu12-1.5.1.dist-info/METADATA'];

function search(files: readonly string[], rest: Partial<LibrarySearch> = {}): LibrarySearch {
  return {
    configured: '',
    env: { HOME: '/home/u' },
    list: (folder) => [...new Set(files.filter((file) => file.startsWith(`${folder}/`)).map((file) => file.slice(folder.length + 1).split('/')[0]!))],
    isFile: (file) => files.includes(file),
    sitePackages: () => [],
    ...rest,
  };
}

describe('finding the library', () => {
  const found = { file: WHEEL[0], version: '1.5.1' };
  test.each([
    ['config: folder of the wheel', search(WHEEL, { configured: '/site' })],
    ['config: the file', search(WHEEL, { configured: WHEEL[0]! })],
    ['config: the folder of the file', search(WHEEL, { configured: '/site/.nixl_cu12.mesonpy.libs' })],
    ['environment', search(WHEEL, { env: { ARMATURE_NIXL_LIBRARY: '/site' } })],
    ['python', search(WHEEL, { sitePackages: () => ['/nowhere', '/site'] })],
  ])('%s', (_, where) => expect(findLibrary(where)).toEqual(found));

  test('a virtual environment, the cache of test:nixl, an install folder', () => {
    const at = (root: string) => WHEEL.map((file) => file.replace('/site', root));
    expect(findLibrary(search(at('/venv/lib/python3.11/site-packages'), { env: { VIRTUAL_ENV: '/venv' } }))).toMatchObject({ version: '1.5.1' });
    expect(findLibrary(search(at('/home/u/.cache/armature/nixl/1.5.1')))).toMatchObject({ version: '1.5.1' });
    expect(findLibrary(search(['/usr/local/nixl/lib/libnixl_capi.so']))).toEqual({ file: '/usr/local/nixl/lib/libnixl_capi.so', version: '' });
  });
  test('what is named and missing is not searched elsewhere', () => {
    expect(findLibrary(search(WHEEL, { configured: '/other', sitePackages: () => ['/site'] }))).toMatch(/no libnixl_capi\.so at "\/other".*pip install --no-deps nixl-cu12/);
  });
  test('absent: the package to install is named', () => {
    expect(findLibrary(search([]))).toMatchInlineSnapshot(
      `"libnixl_capi.so of NVIDIA NIXL is not installed; pip install --no-deps nixl-cu12, or unzip that wheel anywhere and name its folder in ARMATURE_NIXL_LIBRARY or config.library"`,
    );
  });
});

describe('unavailable', () => {
  const open = (options: ConstructorParameters<typeof NixlTransport>[0]) => new NixlTransport(options);
  const common = { clock: realClock, log: recordingLogger() };

  test('no library: says so, and does not throw before open', async () => {
    const transport = open({ ...common, library: '/nonexistent' });
    expect(transport.unavailable()).toMatch(/pip install --no-deps nixl-cu12/);
    await expect(transport.open(new FakeTransferHost('a'))).rejects.toMatchObject({ code: 'TRANSFER_NIXL_UNAVAILABLE' });
  });
  test('a file that is no library', () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'nixl-'));
    writeFileSync(path.join(folder, 'libnixl_capi.so'), 'not a library');
    expect(open({ ...common, library: folder }).unavailable()).toMatch(/cannot use .*libnixl_capi\.so/);
    rmSync(folder, { recursive: true });
  });
  test('too old', () => {
    expect(open({ ...common, load: () => new FakeNixl('1.2.9') }).unavailable()).toMatch(/1\.2\.9 is too old/);
    expect(open({ ...common, load: () => new FakeNixl('') }).unavailable()).toBeUndefined();
    expect(open({ ...common, load: () => new FakeNixl('2.0.0') }).unavailable()).toBeUndefined();
  });
  test('a plug-in that the library has not', async () => {
    const nixl = new FakeNixl();
    await expect(open({ ...common, load: () => nixl, backend: 'LIBFABRIC' }).open(new FakeTransferHost('a'))).rejects.toMatchObject({ code: 'TRANSFER_NIXL_FAILED', message: expect.stringContaining('has UCX, POSIX') as string });
    expect(nixl.agents.size).toBe(0);
  });
  test('peers of another release or backend are not reached', async () => {
    const [mine, theirs, other] = await Promise.all([
      open({ ...common, load: () => new FakeNixl('1.5.1') }).open(new FakeTransferHost('a')),
      open({ ...common, load: () => new FakeNixl('1.6.0') }).open(new FakeTransferHost('b')),
      open({ ...common, load: () => new FakeNixl('1.5.3') }).open(new FakeTransferHost('c')),
    ]);
    expect([mine.canReach(theirs.metadata()), mine.canReach(other.metadata()), mine.canReach({ ...other.metadata(), backend: 'LIBFABRIC' })]).toEqual([false, true, false]);
    await Promise.all([mine.close(), theirs.close(), other.close()]);
  });
});

describe('require: rdma', () => {
  test('no device: unavailable, with the way out', () => {
    expect(requireFabric('rdma', 'UCX', [], {})).toMatch(/no RDMA device with an active port.*require: any/);
    expect(requireFabric('any', 'UCX', [], {})).toBeUndefined();
  });
  test('UCX loses tcp, unless the environment says something that fits', () => {
    const env: Record<string, string | undefined> = {};
    expect(requireFabric('rdma', 'UCX', ['mlx5_0:1'], env)).toBeUndefined();
    expect(env['UCX_TLS']).toBe('^tcp');
    for (const tls of ['tcp', 'rc,tcp', 'all', '^sysv']) expect(requireFabric('rdma', 'UCX', ['mlx5_0:1'], { UCX_TLS: tls })).toMatch(/allows tcp/);
    for (const tls of ['rc,cuda', '^tcp', '^sysv,tcp']) expect(requireFabric('rdma', 'UCX', ['mlx5_0:1'], { UCX_TLS: tls })).toBeUndefined();
  });
  test('ports as the kernel shows them', () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'ib-'));
    for (const [device, state] of [['mlx5_0', '4: ACTIVE'], ['mlx5_1', '1: DOWN']] as const) {
      const port = path.join(folder, device, 'ports', '1');
      mkdirSync(port, { recursive: true });
      writeFileSync(path.join(port, 'state'), `${state}\n`);
      writeFileSync(path.join(port, 'link_layer'), 'InfiniBand\n');
    }
    expect(activeRdmaPorts(folder)).toEqual(['mlx5_0:1 (InfiniBand)']);
    expect(activeRdmaPorts(path.join(folder, 'none'))).toEqual([]);
    rmSync(folder, { recursive: true });
  });
});
