// npm run bench -- NAME... [--json FILE] [--option value]...   Without a name: lists the benchmarks.
import { execFileSync } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { fileURLToPath } from 'node:url';
import { printTable } from './lib/table.mjs';

const here = new URL('./', import.meta.url);
const root = fileURLToPath(new URL('../../', here));

function parseArguments(words) {
  const names = [];
  const options = {};
  for (let i = 0; i < words.length; i++) {
    if (!words[i].startsWith('--')) names.push(words[i]);
    else if (i + 1 < words.length && !words[i + 1].startsWith('--')) options[words[i].slice(2)] = words[++i];
    else options[words[i].slice(2)] = 'true';
  }
  return { names, options };
}

async function discover() {
  const found = new Map();
  for (const file of readdirSync(here).sort()) {
    if (file.endsWith('.bench.mjs')) found.set(file.slice(0, -'.bench.mjs'.length), new URL(file, here).href);
  }
  return found;
}

const { names, options } = parseArguments(process.argv.slice(2));
const benchmarks = await discover();
if (names.length === 0) {
  console.log('usage: npm run bench -- NAME... [--json FILE] [--option value]...\n');
  for (const [name, url] of benchmarks) console.log(`  ${name.padEnd(12)} ${(await import(url)).description}`);
  process.exit(0);
}
const unknown = names.filter((name) => !benchmarks.has(name));
if (unknown.length > 0) {
  console.error(`no benchmark "${unknown.join('", "')}"; there are: ${[...benchmarks.keys()].join(', ')}`);
  process.exit(2);
}

const results = [];
for (const name of names) {
  const benchmark = await import(benchmarks.get(name));
  // Builds are measured, not sources; an up-to-date build takes a moment.
  if (options.build !== 'false' && benchmark.packages?.length > 0) {
    try {
      execFileSync('npx', ['--no-install', 'tsc', '-b', ...benchmark.packages.map((entry) => `packages/${entry}`)], { cwd: root, stdio: ['ignore', 'inherit', 'ignore'] });
    } catch {
      console.warn(`the build of ${benchmark.packages.join(', ')} failed: measuring the last build, if there is one`);
    }
  }
  console.log(`\n${name}: ${benchmark.description}\nNode ${process.version}, ${os.cpus().length} x ${os.cpus()[0]?.model.trim()}, load ${os.loadavg()[0].toFixed(1)}`);
  try {
    const rows = await benchmark.run({ options, root, log: (line) => console.log(`  ${line}`) });
    printTable(rows);
    results.push(...rows);
  } catch (error) {
    console.error(`${name}: ${options.trace === undefined ? (error?.message ?? error) : error.stack}`);
    process.exitCode = 1;
  }
}
if (options.json !== undefined) {
  writeFileSync(options.json, `${JSON.stringify(results, null, 2)}\n`);
  console.log(`\nwritten to ${options.json}`);
}
