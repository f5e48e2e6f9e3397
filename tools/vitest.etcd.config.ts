import { defineConfig, mergeConfig } from 'vitest/config';
import base from '../vitest.config.ts';

// `npm run test:etcd`: tests against a real etcd, named by ARMATURE_ETCD. One file at a time: they share two cores with the servers they start.
const config = mergeConfig(base, defineConfig({ test: { testTimeout: 180_000, hookTimeout: 120_000, maxWorkers: 1 } }));
config.test!.include = ['packages/discovery-etcd/src/**/*.test.etcd.ts'];
export default config;
