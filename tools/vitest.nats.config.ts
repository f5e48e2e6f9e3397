import { defineConfig, mergeConfig } from 'vitest/config';
import base from '../vitest.config.ts';

// `npm run test:nats`: tests against a real nats-server, named by ARMATURE_NATS_SERVER. One file at a time: they stop and kill servers.
const config = mergeConfig(base, defineConfig({ test: { testTimeout: 120_000, maxWorkers: 1 } }));
config.test!.include = ['packages/events-nats/src/**/*.test.nats.ts'];
export default config;
