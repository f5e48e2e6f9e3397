// `npm run test:vllm [-- --only equality,streaming] [--logs FOLDER] [--list]`: the real vLLM, on this machine's CPU, under Armature. The first run installs it into a cache
// folder (tools/vllm/install.mjs). Prints `skipped vllm: reason` where it cannot be had.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Bench } from './vllm/bench.mjs';
import { Checks } from './vllm/check.mjs';
import { installVllm } from './vllm/install.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
/** In this order: those that share the pair of servers first. */
const PIECES = ['equality', 'streaming', 'disaggregation', 'structured', 'overhead', 'events', 'faults', 'ranks', 'connector-python', 'onboard', 'connector'];
const LIMIT_MS = 20 * 60_000;

const { values } = parseArgs({ options: { only: { type: 'string' }, logs: { type: 'string' }, list: { type: 'boolean', default: false } } });

async function runPieces(bench, checks, names) {
  for (const name of names) {
    const startedMs = performance.now();
    checks.begin(name);
    try {
      const { run } = await import(`./vllm/pieces/${name}.mjs`);
      await run({ bench, checks, pair: () => bench.pair() });
    } catch (error) {
      checks.check('runs to its end', false, error.stack);
    }
    console.log(`-- ${name}: ${((performance.now() - startedMs) / 1000).toFixed(0)} s`);
  }
}

async function main() {
  const names = values.only === undefined ? PIECES : values.only.split(',');
  const unknown = names.filter((name) => !PIECES.includes(name));
  if (values.list || unknown.length > 0) {
    console.log(`${unknown.length > 0 ? `no such piece: ${unknown.join(', ')}\n` : ''}pieces: ${PIECES.join(', ')}`);
    return unknown.length > 0 ? 1 : 0;
  }
  const startedMs = performance.now();
  const install = installVllm({ log: (line) => console.log(line) });
  if (install.reason !== undefined) {
    console.log(`skipped vllm: ${install.reason}`);
    return 0;
  }
  console.log(`vLLM ${install.version} in ${install.folder} (${((performance.now() - startedMs) / 1000).toFixed(0)} s)`);
  if (spawnSync(process.execPath, [join(root, 'tools/bootstrap.mjs')], { cwd: root, stdio: 'inherit' }).status !== 0) return 1;
  if (values.logs !== undefined) mkdirSync(values.logs, { recursive: true });
  const checks = new Checks();
  const bench = new Bench({ install, checks, logs: values.logs });
  const late = setTimeout(() => {
    console.error(`test:vllm: did not end within ${LIMIT_MS / 60_000} minutes`);
    process.exit(1);
  }, LIMIT_MS);
  try {
    await runPieces(bench, checks, names);
  } finally {
    clearTimeout(late);
    await bench.close();
  }
  for (const what of checks.failed) console.log(`failed: ${what}`);
  console.log(`test:vllm: ${checks.passed} passed, ${checks.failed.length} failed (${((performance.now() - startedMs) / 1000).toFixed(0)} s)`);
  return checks.failed.length === 0 ? 0 : 1;
}

process.exit(await main());
