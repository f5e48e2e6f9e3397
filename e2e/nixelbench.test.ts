import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { armature } from './support/process.ts';

const folder = mkdtempSync(join(tmpdir(), 'armature-nixelbench-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const quick = ['--seconds', '0.05', '--pool', '4MiB'];

describe('armature nixelbench', () => {
  it('moves blocks between two processes and writes what it measured', async () => {
    const transport = process.platform === 'linux' ? 'shm' : 'tcp';
    if (transport === 'tcp') console.log('skipped shm: needs Linux');
    const json = join(folder, 'one.json');
    const { code, stdout } = await armature(['nixelbench', '--transport', transport, '--block', '64KiB', '--batch', '16', '--json', json, ...quick]);
    expect(code).toBe(0);
    expect(stdout).toContain('64 KiB');
    const report = JSON.parse(readFileSync(json, 'utf8')) as Record<string, unknown>;
    expect(report).toMatchObject({ transport, blockBytes: 65_536, batch: 16, direction: 'read', gbPerSecond: expect.any(Number), p50Us: expect.any(Number), p99Us: expect.any(Number) });
    if (transport === 'shm') expect(report['memcpyGbPerSecond']).toBeGreaterThan(0);
    expect(report['gbPerSecond']).toBeGreaterThan(0);
    expect(report['rounds']).toBeGreaterThanOrEqual(10);
  }, 60_000);

  it('sweeps transports, sizes, batches and directions, and draws them', async () => {
    const [json, plot] = [join(folder, 'all.json'), join(folder, 'all.svg')];
    const { code } = await armature(['nixelbench', '--transport', 'tcp,memory,file', '--folder', folder, '--block', '4KiB..16KiB', '--batch', '1,8', '--direction', 'both', '--json', json, '--plot', plot, ...quick]);
    expect(code).toBe(0);
    const { rows } = JSON.parse(readFileSync(json, 'utf8')) as { rows: { transport: string }[] };
    expect(rows).toHaveLength(3 * 3 * 2 * 2);
    expect(readFileSync(plot, 'utf8')).toMatch(/^<svg[\s\S]*<\/svg>\n$/);
    expect(readdirSync(folder).filter((name) => name.startsWith('nixelbench-')), 'left behind').toEqual([]);
  }, 60_000);

  it.each([
    [['--block', '64XB'], 'USAGE_SIZE_INVALID'],
    [['--transport', 'pigeon'], 'USAGE_TRANSPORT_UNKNOWN'],
    [['--direction', 'sideways'], 'USAGE_DIRECTION_UNKNOWN'],
    [['--block', '1GiB', '--batch', '64'], 'USAGE_SIZE_INVALID'],
  ])('%j is refused with a hint', async (args, code) => {
    const ended = await armature(['nixelbench', ...args, '--json', join(folder, 'none.json')]);
    expect(ended.code).toBe(2);
    expect(ended.stderr).toContain(code);
    expect(existsSync(join(folder, 'none.json'))).toBe(false);
  });

  it('a transport that is not there says what to install', async () => {
    const ended = await armature(['nixelbench', '--transport', 'nixl', ...quick], { ARMATURE_NIXL_LIBRARY: join(folder, 'nowhere.so'), PATH: '' });
    expect(ended.code).not.toBe(0);
    expect(ended.stderr).toMatch(/TRANSFER_NO_TRANSPORT/);
    expect(ended.stderr).toMatch(/nixl/);
  });
});
