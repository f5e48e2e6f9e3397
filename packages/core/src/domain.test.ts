import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

it('core knows no domain: no word of it is in its source', () => {
  const pattern = /pre(?:fill)|k(?:v[-_]?cache)|\bl(?:lm\b)/i;
  const files = readdirSync(import.meta.dirname, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'));
  expect(files.length).toBeGreaterThan(30);
  expect(files.filter((file) => pattern.test(readFileSync(join(import.meta.dirname, file), 'utf8')))).toEqual([]);
});
