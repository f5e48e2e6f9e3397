import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { armature } from './support/process.ts';

const folder = mkdtempSync(join(tmpdir(), 'armature-simulate-'));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);
const small = ['--synthetic', 'steady', '--hours', '0.02', '--prompt-tokens', '2000', '--output-tokens', '50', '--requests-per-second', '5', '--replicas', 'prefill=3', '--replicas', 'decode=2'];

describe('armature simulate', () => {
  it('writes the same result twice, to the byte, and a report', async () => {
    for (const name of ['a', 'b']) {
      const { code, stdout } = await armature(['simulate', '-f', 'deploy/simulation.yaml', ...small, '--json', at(`${name}.json`), '--html', at(`${name}.html`)]);
      expect(code, stdout).toBe(0);
      expect(stdout).toMatch(/\d+ requests in .* 0 failed/);
    }
    const result = readFileSync(at('a.json'), 'utf8');
    expect(readFileSync(at('b.json'), 'utf8')).toBe(result);
    const { outcome, counters } = JSON.parse(result) as { outcome: { finished: number }; counters: Record<string, number> };
    expect(outcome.finished).toBeGreaterThan(200);
    expect(counters['armature_remote_prefills_total']).toBe(outcome.finished);
    expect(readFileSync(at('a.html'), 'utf8')).toContain('<svg');
  }, 60_000);

  it.each<[string, readonly string[], RegExp]>([
    ['a trace out of order', ['--trace', at('bad.jsonl')], /line 2: timestamp 3 comes after 5[\s\S]*TRACE_INVALID/],
    ['no trace', [], /USAGE_TRACE_MISSING/],
    ['replicas without a count', ['--synthetic', 'steady', '--replicas', 'prefill'], /POOL=COUNT/],
  ])('refuses %s with exit code 2', async (_, args, message) => {
    const row = (timestamp: number): string => JSON.stringify({ timestamp, input_length: 10, output_length: 1, hash_ids: [1] });
    writeFileSync(at('bad.jsonl'), `${row(5)}\n${row(3)}\n`);
    const { code, stderr } = await armature(['simulate', '-f', 'deploy/simulation.yaml', ...args]);
    expect(stderr).toMatch(message);
    expect(code).toBe(2);
  }, 30_000);
});
