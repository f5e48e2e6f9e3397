#!/usr/bin/env node
// Committed, so that npm can link it before anything is built.
import { existsSync } from 'node:fs';

const main = new URL('../dist/bin.js', import.meta.url);
if (existsSync(main)) {
  await import(main.href);
} else {
  console.error('armature is not built yet: run `npm run build` in the workspace first.');
  process.exitCode = 1;
}
