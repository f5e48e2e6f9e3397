import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { BlockManagerStats } from '@armature/kvbm';
import { afterEach, expect, test, vi } from 'vitest';
import { main } from '../main.ts';
import { blocksText, statsText, verifyText } from './kv.ts';

const tier = (name: 'host' | 'disk', held: number): BlockManagerStats['tiers'][number] => ({
  tier: name,
  capacityBlocks: 1000,
  heldBlocks: held,
  pinnedBlocks: 1,
  stores: 20,
  duplicates: 2,
  refusals: 3,
  loads: 40,
  misses: 5,
  evictions: 6,
  failures: 7,
  dropped: 8,
});
const stats: BlockManagerStats = {
  worker: 'demo/w/0',
  tiers: [tier('host', 900), { ...tier('disk', 12_345), problem: { code: 'KVBM_DISK_FULL', message: 'no room on the disk' } }],
  queuedOffloads: 4,
  droppedOffloads: 5,
  offloadedBlocks: 600,
  onboardedBlocks: 70,
  corruptBlocks: 1,
  loans: 2,
  pinnedDeviceBlocks: 3,
};

test('stats: a table per worker, what is wrong, and what moved', () => {
  expect(statsText([stats])).toBe(
    [
      'demo/w/0',
      '  tier   held    of  pinned  stored  loaded  missed  evicted  refused  dropped  failed',
      '  host    900  1000       1      20      40       5        6        3        8       7',
      '  disk  12345  1000       1      20      40       5        6        3        8       7',
      '  disk works with less: no room on the disk [KVBM_DISK_FULL]',
      '  600 blocks went down, 70 came up; 4 wait, 5 were dropped; 1 were corrupt; 2 lent, 3 pinned on the device',
      '',
    ].join('\n'),
  );
  expect(statsText([])).toContain('no worker of this process');
});

test('ls and verify: one line each', () => {
  expect(blocksText([{ worker: 'w/0@ab', tier: 'host', hash: '00ff', parent: null }, { worker: 'w/0@ab', tier: 'disk', hash: '11ff', parent: '00ff' }])).toBe(
    '  worker  tier  hash  parent\n  w/0@ab  host  00ff  –\n  w/0@ab  disk  11ff  00ff\n',
  );
  expect(blocksText([])).toBe('no blocks\n');
  expect(verifyText([{ worker: 'w/0', checked: 9, corrupt: 0, unchecked: 0 }, { worker: 'w/1', checked: 8, corrupt: 2, unchecked: 3 }])).toBe(
    'w/0: 9 blocks checked, 0 corrupt\nw/1: 8 blocks checked, 2 corrupt, 3 not reached in time\n',
  );
});

const servers: { close(): void }[] = [];
afterEach(() => {
  servers.splice(0).forEach((server) => server.close());
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

/** The command line against a listener that answers `body`; what it printed, its exit code, and what it asked for. */
async function kv(args: readonly string[], body: unknown): Promise<{ out: string; code: number; asked: string[] }> {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? '');
    response.end(JSON.stringify(body));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  servers.push(server);
  let out = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += String(text);
    return true;
  });
  const code = await main(['kv', ...args, '--admin', `http://127.0.0.1:${(server.address() as AddressInfo).port}`]);
  return { out, code, asked };
}

test('the commands ask the admin listener', async () => {
  expect(await kv(['stats'], [])).toMatchObject({ code: 0, asked: ['/kv'] });
  expect(await kv(['ls', '--worker', 'w/0', '--limit', '7'], [])).toMatchObject({ code: 0, asked: ['/kv/ls?limit=7&worker=w%2F0'] });
});

test('--json prints what the server said; corrupt blocks are an exit code', async () => {
  const rows = [{ worker: 'w/0', checked: 8, corrupt: 2, unchecked: 0 }];
  const { out, code, asked } = await kv(['verify', '--json', '--deadline-ms', '100'], rows);
  expect([JSON.parse(out), code, asked]).toEqual([rows, 1, ['/kv/verify?deadlineMs=100']]);
  vi.restoreAllMocks();
  vi.spyOn(process.stderr, 'write').mockImplementation(() => true);
  const repair = await kv(['verify', '--repair'], rows);
  expect([repair.code === 0, repair.asked]).toEqual([false, []]); // not of a running server
});
