import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { Supervisor } from './supervisor.ts';
import type { ChildPlan } from './supervisor.ts';

const folder = mkdtempSync(join(tmpdir(), 'armature-up-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

// Stands for `armature serve`: says what it is told, ends when it is told.
const bin = join(folder, 'child.mjs');
writeFileSync(
  bin,
  `const [name, how] = process.argv.slice(2);
   if (how === 'bad-config') { console.error('config.yaml:1:1 wrong'); process.exit(3); }
   let isTold = false;
   process.on('SIGTERM', () => { if (isTold) process.exit(130); isTold = true; console.log('draining'); setTimeout(() => process.exit(0), name === 'decode/0' ? 150 : 30); });
   process.once('disconnect', () => process.exit(9));
   console.log('hello from ' + name);
   process.send({ type: 'ready', summary: { models: [] } });
   if (how === 'dies') setTimeout(() => process.kill(process.pid, 'SIGKILL'), 50);
   setInterval(() => {}, 1000);`,
);

async function until(what: string, check: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!check()) {
    if (Date.now() > deadline) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function supervised(plans: readonly [string, string][]): { lines: string[]; supervisor: Supervisor; isReady: () => boolean } {
  const lines: string[] = [];
  let ready = 0;
  const children: ChildPlan[] = plans.map(([name, how]) => ({ name, isFrontend: name.startsWith('frontend'), args: [name, how] }));
  const supervisor = new Supervisor({ plans: children, stopMs: 10_000, bin, ready: () => ready++, out: (line) => void lines.push(line) });
  return { lines, supervisor, isReady: () => ready === 1 };
}

describe('armature up', () => {
  it('prefixes output, tells once that all are ready, stops frontends before workers', async () => {
    const { lines, supervisor, isReady } = supervised([['decode/0', ''], ['decode/1', ''], ['frontend/0', ''], ['frontend/1', '']]);
    const code = supervisor.run();
    await until('ready', isReady);
    await until('their words', () => lines.filter((line) => line.includes('hello from')).length === 4);
    expect(lines).toContain('decode/0   | hello from decode/0');
    expect(lines).toContain('frontend/1 | hello from frontend/1');
    supervisor.stop();
    expect(await code).toBe(0);
    const ends = lines.filter((line) => line.includes('ended')).map((line) => line.split(' ')[0]);
    expect(ends.slice(0, 2).sort()).toEqual(['frontend/0', 'frontend/1']);
    expect(ends.slice(2)).toEqual(['decode/1', 'decode/0']);
    expect(lines.filter((line) => line.includes('draining'))).toHaveLength(4);
    // Each was told once: a second SIGTERM makes a child leave at once.
    expect(lines.filter((line) => line.includes('(exit code 0)'))).toHaveLength(4);
  });

  it('starts a child that died again, with growing delays', async () => {
    const { lines, supervisor } = supervised([['decode/0', 'dies'], ['decode/1', '']]);
    const code = supervisor.run();
    await until('two restarts', () => lines.filter((line) => line.includes('decode/0 | hello')).length >= 3);
    expect(lines.filter((line) => line.includes('starts again')).slice(0, 2)).toEqual([
      'decode/0 | ended (signal SIGKILL); starts again in 0.5 s (restart 1)',
      'decode/0 | ended (signal SIGKILL); starts again in 1 s (restart 2)',
    ]);
    expect(lines.filter((line) => line.includes('decode/1 | started'))).toHaveLength(1);
    supervisor.stop();
    expect(await code).toBe(0);
  });

  it('a child whose configuration is wrong ends everything, with its exit code', async () => {
    const { lines, supervisor } = supervised([['decode/0', ''], ['decode/1', 'bad-config']]);
    expect(await supervisor.run()).toBe(3);
    expect(lines.some((line) => line.includes('no restart mends that'))).toBe(true);
    expect(lines).toContain('decode/1 | config.yaml:1:1 wrong');
  });
});
