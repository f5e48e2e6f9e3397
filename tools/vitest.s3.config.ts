import { defineConfig, mergeConfig } from 'vitest/config';
import base from '../vitest.config.ts';

// `npm run test:s3`: tests against a real S3 server, named by ARMATURE_S3_PROGRAM. One file at a time: they share two cores with it.
const config = mergeConfig(base, defineConfig({ test: { testTimeout: 120_000, maxWorkers: 1 } }));
config.test!.include = ['packages/kvbm-s3/src/**/*.test.s3.ts'];
export default config;
