import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { discoveryContract } from '@armature/contracts/testing/discovery';
import { afterAll, describe, expect, it } from 'vitest';
import { PinoLogger } from '../leaves/logger.ts';
import { MsgpackCodec } from '../leaves/msgpack-codec.ts';
import { SystemClock } from '../leaves/system-clock.ts';
import { FileDiscovery } from './file-discovery.ts';
import { isProcessGone, processIdentity } from './process-identity.ts';

const folders: string[] = [];
const open: FileDiscovery[] = [];
const folder = (): string => {
  const path = mkdtempSync(join(tmpdir(), 'armature-discovery-'));
  folders.push(path);
  return path;
};
const discovery = (path: string): FileDiscovery => {
  const made = new FileDiscovery({ path, pollMs: 20, codec: new MsgpackCodec(), clock: new SystemClock(), log: new PinoLogger({ level: 'silent' }) });
  open.push(made);
  return made;
};
const places = new WeakMap<object, string>();
const create = (): FileDiscovery => {
  const path = folder();
  const made = discovery(path);
  places.set(made, path);
  return made;
};

async function until(what: string, check: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!check()) {
    if (Date.now() > deadline) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

class Known {
  readonly entries = new Map<string, unknown>();
  readonly removals: string[] = [];
  put({ key, value }: { readonly key: string; readonly value: unknown }): void {
    this.entries.set(key, value);
  }
  removed(key: string): void {
    this.entries.delete(key);
    this.removals.push(key);
  }
}

afterAll(async () => {
  for (const made of open) await made.close();
  for (const path of folders) rmSync(path, { recursive: true, force: true });
});

discoveryContract({ runner: { describe, it }, create, pace: { waitMs: 5_000, quietMs: 80 } });
describe('two clients of one folder', () => {
  discoveryContract({
    runner: { describe, it },
    create,
    connect: (first) => discovery(places.get(first) as string),
    pace: { waitMs: 5_000, quietMs: 80 },
    skip: [{ rule: 'watch: later changes arrive in order', reason: 'a client that looks seldom sees the last of several values; the rule with one client shows the order' }],
  });
});

describe('file discovery', () => {
  it('an owner that ended without a word is gone at once on the same host, and its key can be taken', async () => {
    const path = folder();
    const code = `
      import { FileDiscovery } from ${JSON.stringify(new URL('../../dist/planes/file-discovery.js', import.meta.url).href)};
      import { MsgpackCodec } from ${JSON.stringify(new URL('../../dist/leaves/msgpack-codec.js', import.meta.url).href)};
      import { SystemClock } from ${JSON.stringify(new URL('../../dist/leaves/system-clock.js', import.meta.url).href)};
      const log = { debug() {}, info() {}, warn() {}, error() {} };
      const d = new FileDiscovery({ path: ${JSON.stringify(path)}, pollMs: 20, codec: new MsgpackCodec(), clock: new SystemClock(), log });
      await d.register('w/a', 1, { ttlMs: 3_600_000 });
      console.log('registered');
    `;
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] });
    const here = discovery(path);
    const known = new Known();
    try {
      await new Promise<void>((resolve, reject) => {
        child.stdout.once('data', () => resolve());
        child.once('exit', () => reject(new Error('the child ended')));
      });
      await here.watch('w/', known);
      expect([...known.entries]).toEqual([['w/a', 1]]);
      await expect(here.register('w/a', 2)).rejects.toMatchObject({ code: 'DISCOVERY_KEY_TAKEN' });
    } finally {
      child.kill('SIGKILL');
    }
    await until('the killed owner is gone', () => known.removals.length === 1);
    await here.register('w/a', 2);
    expect([...known.entries]).toEqual([['w/a', 2]]);
  });

  it('an owner on another host lives by its time stamp', async () => {
    const path = folder();
    const owner = discovery(path);
    const reader = discovery(path);
    await owner.register('w/a', 1, { ttlMs: 30_000 });
    const known = new Known();
    await reader.watch('w/', known);
    // As if its host had been cut off for a minute; the renewal every second brings it back.
    const files = readdirSync(join(path, 'owners'));
    for (const file of files) utimesSync(join(path, 'owners', file), 0, statSync(join(path, 'owners', file)).mtimeMs / 1000 - 60);
    await until('the silent owner is gone', () => known.removals.length === 1);
    await until('it is back', () => known.entries.size === 1);
  });

  it('what is no entry in the folder harms nobody', async () => {
    const path = folder();
    const owner = discovery(path);
    const known = new Known();
    await owner.watch('', known);
    writeFileSync(join(path, 'entries', 'notes.txt'), 'hello');
    writeFileSync(join(path, 'entries', 'f'.repeat(40)), new Uint8Array([0xc1, 0, 0xff]));
    await owner.register('w/a', 1);
    expect([...known.entries]).toEqual([['w/a', 1]]);
  });

  it('says what is wrong with a folder that cannot be used', async () => {
    const path = folder();
    writeFileSync(join(path, 'file'), '');
    await expect(discovery(join(path, 'file')).start()).rejects.toMatchObject({ code: 'DISCOVERY_FOLDER_UNUSABLE' });
  });

  it('many owners and watchers end with the same view (seeded changes)', async () => {
    const path = folder();
    const clients = Array.from({ length: 4 }, () => discovery(path));
    const views = clients.map(() => new Known());
    for (let i = 0; i < clients.length; i++) await clients[i]!.watch('', views[i]!);
    let state = 12345;
    const below = (n: number): number => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) % n;
    const held = new Map<string, { value: number; close(): Promise<void>; update(value: number): Promise<void> }>();
    let refusals = 0;
    for (let step = 0; step < 120; step++) {
      const key = `w/${below(12)}`;
      const mine = held.get(key);
      if (mine === undefined) held.set(key, { ...(await clients[below(4)]!.register(key, step)), value: step });
      else if (below(3) === 0) {
        await mine.close();
        held.delete(key);
      } else if (below(2) === 0) {
        await mine.update(step);
        mine.value = step;
      } else await clients[below(4)]!.register(key, 0).catch(() => refusals++);
    }
    const expected = JSON.stringify([...held].map(([key, { value }]) => [key, value]).sort());
    for (const view of views) await until(`${expected} (seed 12345)`, () => JSON.stringify([...view.entries].sort()) === expected);
    expect(refusals).toBeGreaterThan(0);
  });
});

describe('process identity', () => {
  it('tells a process that has gone, and one that took its number, from one that lives', () => {
    const here = processIdentity();
    if (here.host === '') return void process.stdout.write('skipped: no /proc here\n');
    expect(isProcessGone(here, here)).toBe(false);
    expect(isProcessGone({ ...here, startTicks: here.startTicks - 1 }, here)).toBe(true);
    expect(isProcessGone({ ...here, pid: 4_194_303 }, here)).toBe(true);
    expect(isProcessGone({ ...here, pid: 4_194_303, host: 'elsewhere' }, here)).toBe(false);
  });
});
