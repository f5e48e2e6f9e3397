import { defineConfig } from 'vitest/config';

// One runner for the whole workspace; `npx vitest run packages/NAME` narrows it. Sources are tested, not builds.
const conditions = ['@armature/source', 'node', 'import', 'default'];
export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    environment: 'node',
    include: ['packages/*/src/**/*.test.ts', 'e2e/**/*.test.ts', 'tools/**/*.test.ts'],
    watch: false,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    maxWorkers: 2,
  },
});
