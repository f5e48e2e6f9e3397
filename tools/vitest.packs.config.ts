import { defineConfig } from 'vitest/config';

// `npm run test:packs`: builds must exist; each package is packed, installed alone and imported.
export default defineConfig({
  root: import.meta.dirname,
  test: { environment: 'node', include: ['packs.packs.ts'], watch: false, testTimeout: 180_000, hookTimeout: 300_000, maxWorkers: 1 },
});
