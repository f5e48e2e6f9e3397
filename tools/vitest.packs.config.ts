import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

// `npm run test:packs`: builds must exist; each package is packed, installed alone and imported.
export default defineConfig({
  root: fileURLToPath(new URL('..', import.meta.url)), // as in vitest.config.ts, so that --outputFile means the same
  test: { environment: 'node', include: ['tools/packs.packs.ts'], watch: false, testTimeout: 180_000, hookTimeout: 300_000, maxWorkers: 1 },
});
