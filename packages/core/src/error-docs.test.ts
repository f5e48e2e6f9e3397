import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

const root = join(import.meta.dirname, '../../..');

it('every error code of core is in docs/reference/errors.md, and the page names no other for core', async () => {
  const tool = (await import(/* @vite-ignore */ join(root, 'tools/error-docs.mjs'))) as { collectErrors(packages: string[]): { code: string; message: string }[] };
  const errors = tool.collectErrors(['core']);
  const page = readFileSync(join(root, 'docs/reference/errors.md'), 'utf8');
  const documented = [...page.matchAll(/^\| `([A-Z_0-9]+)` \| ([^|]+) \|/gm)].filter(([, , packages]) => packages.split(', ').includes('core')).map(([, code]) => code);
  expect(errors.length).toBeGreaterThan(40);
  expect(documented.toSorted()).toEqual([...new Set(errors.map(({ code }) => code))].toSorted());
});
