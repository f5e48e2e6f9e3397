import { defineConfig, mergeConfig } from 'vitest/config';
import base from '../vitest.config.ts';

// `npm run test:nixl`: tests against the real library, named by ARMATURE_NIXL_LIBRARY. One file at a time: they share two cores with NIXL's threads.
const config = mergeConfig(base, defineConfig({ test: { testTimeout: 120_000, maxWorkers: 1 } }));
config.test!.include = ['packages/nixel-nixl/src/**/*.test.nixl.ts'];
export default config;
