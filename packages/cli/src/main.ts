import { readFileSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { chat } from './commands/chat.ts';
import type { ChatCommandOptions } from './commands/chat.ts';
import { configCheck, configExplain, configSchema } from './commands/config.ts';
import { explain } from './commands/explain-request.ts';
import { nixelbench } from './commands/nixelbench/command.ts';
import type { NixelbenchOptions } from './commands/nixelbench/command.ts';
import { kvGc, kvLs, kvStats, kvVerify } from './commands/kv.ts';
import { hash } from './commands/hash.ts';
import type { HashCommandOptions } from './commands/hash.ts';
import { plannerGround } from './commands/ground.ts';
import { plannerExplain } from './commands/planner.ts';
import type { PlannerExplainOptions } from './commands/planner.ts';
import { listPlugins } from './commands/plugins.ts';
import { rescore } from './commands/rescore.ts';
import { role, workers } from './commands/role.ts';
import { route } from './commands/route.ts';
import { serve } from './commands/serve.ts';
import type { ServeOptions } from './commands/serve.ts';
import type { SimulateCommandOptions } from './commands/simulate.ts';
import type { TuneCommandOptions } from './commands/tune.ts';
import { up } from './commands/up.ts';
import type { UpOptions } from './commands/up.ts';
import { ExitCode, describeError, exitCodeOf } from './exit-codes.ts';

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string };

function number(value: string): number {
  const parsed = Number(value);
  if (!Number.isFinite(parsed)) throw new InvalidArgumentError('not a number');
  return parsed;
}

function fileOf(argument: string | undefined, options: { file?: string }): string {
  const file = argument ?? options.file;
  if (file === undefined) throw new CommanderError(ExitCode.Usage, 'armature.file', 'name a configuration file: FILE or -f FILE');
  return file;
}

function build(): Command {
  const program = new Command('armature')
    .description('Serves large language models across many GPUs and machines, from one YAML.')
    .version(version, '-V, --version')
    .showHelpAfterError('(run with --help for usage)')
    .addHelpText(
      'after',
      `
Examples:
  armature serve -f deploy/quickstart.yaml            serve a model; Ctrl-C stops
  armature chat --explain                             talk to it and see why each worker was chosen
  armature chat -f deploy/aggregated.yaml "Hello!"    start a deployment, ask once, stop
  armature config check cluster.yaml                  every problem at once, with line and column
  armature config explain models.router               what a key means

Exit codes: 0 ok, 1 internal, 2 usage, 3 configuration, 4 plug-in, 5 model, 6 cannot listen, 7 server not reachable.`,
    );

  program
    .command('serve')
    .description('start everything in a configuration file, in the foreground')
    .requiredOption('-f, --file <file>', 'configuration file (YAML)')
    .option('--only <part>', 'one part of it: frontend, planner, workers.NAME or workers.NAME/INDEX')
    .option('--admin-port <n>', 'port of the admin listener instead of the one in the file; 0 = any free one', number)
    .addOption(new Option('--share-port').hideHelp())
    .addHelpText('after', '\nThe file is checked as a whole first; nothing listens before every worker is ready. A second Ctrl-C leaves at once.')
    .action((options: ServeOptions) => serve(options));

  program
    .command('up')
    .description('start every part of a configuration file as a process of its own on this host, and keep them running')
    .requiredOption('-f, --file <file>', 'configuration file (YAML)')
    .option('--frontends <n>', 'frontend processes that share the port of the file', number, 1)
    .addHelpText('after', '\nThe planes must reach beyond a process: requests: tcp, discovery: file or etcd, events: zmq or nats.')
    .action((options: UpOptions) => up(options));

  program
    .command('chat')
    .description('talk to a model; streams the answer')
    .argument('[messages...]', 'turns to send one after the other; without any, read from the keyboard')
    .option('-f, --file <file>', 'start this deployment for the chat, and stop it afterwards')
    .option('--url <url>', 'server to talk to', 'http://127.0.0.1:8000')
    .option('--admin <url>', 'its admin listener, for --explain', 'http://127.0.0.1:8001')
    .option('-m, --model <name>', 'model; default: the first one served')
    .option('-s, --system <text>', 'system message')
    .option('--max-tokens <n>', 'longest answer', number)
    .option('--temperature <t>', 'sampling temperature', number)
    .option('-e, --explain', 'after each turn: workers chosen and why, overlap, blocks moved, TTFT, ITL', false)
    .action((messages: string[], options: ChatCommandOptions) => chat(messages, options));

  addCluster(program);
  addRouting(program);
  addSimulate(program);
  addPlanner(program);
  addKv(program);
  addBenchmarks(program);

  program
    .command('hash')
    .description('block and sequence hashes of token ids (a JSON array on standard input), as Dynamo computes them')
    .requiredOption('--block-size <n>', 'tokens per block; an incomplete last block is not hashed')
    .option('--salt <text>', 'cache salt')
    .option('--lora <name>', 'LoRA adapter')
    .action((options: HashCommandOptions) => hash(options));

  program
    .command('plugins')
    .description('list the plug-ins that are known: built-in ones and those a file names')
    .option('-f, --file <file>', 'configuration file')
    .option('--json', 'as JSON', false)
    .action((options: { file?: string; json: boolean }) => listPlugins(options.file, options.json));

  addConfig(program);
  program
    .command('version')
    .description('print versions of armature, Node and the platform')
    .action(() => void process.stdout.write(`armature ${version}\nnode ${process.versions.node}\nplatform ${process.platform}-${process.arch}\n`));
  return program;
}

function addConfig(program: Command): void {
  const config = program.command('config').description('check and explain configuration files');
  config
    .command('check')
    .description('report every problem of a file, with line and column')
    .argument('[file]', 'configuration file')
    .option('-f, --file <file>', 'the same')
    .option('--print', 'print the effective configuration: defaults filled in, secrets masked', false)
    .action((file: string | undefined, options: { file?: string; print: boolean }) => configCheck(fileOf(file, options), options.print));
  config
    .command('schema')
    .description('print the JSON Schema of configuration files, for editors')
    .option('-f, --file <file>', 'include the plug-ins that this file names')
    .action((options: { file?: string }) => configSchema(options.file));
  config
    .command('explain')
    .description('explain a key (models.router), or, with a file, where each effective value comes from')
    .argument('[key]', 'dotted key')
    .option('-f, --file <file>', 'configuration file')
    .action((key: string | undefined, options: { file?: string }) => configExplain(key, options.file));
}

function addCluster(program: Command): void {
  program
    .command('workers')
    .description('live workers of a running cluster: role, load, address')
    .requiredOption('-f, --file <file>', 'its configuration file; only its planes are opened')
    .option('--json', 'as JSON', false)
    .action((options: { file: string; json: boolean }) => workers(options));

  program
    .command('role')
    .description('give a running worker of a cluster another role; what it runs ends or moves on')
    .argument('<pool/index>', 'the worker')
    .argument('<role>', 'prefill, decode or both')
    .requiredOption('-f, --file <file>', 'configuration file of the cluster; only its planes are opened')
    .option('-m, --model <name>', 'its model; default: the only one')
    .option('--deadline-ms <n>', 'for running requests to end before they move on', number, 30_000)
    .option('--json', 'the result as JSON', false)
    .action((worker: string, wanted: string, options: { file: string; model?: string; deadlineMs: number; json: boolean }) => role(worker, wanted, options));
}

function addRouting(program: Command): void {
  program
    .command('explain')
    .description('why a request went where it went, and what came of it')
    .argument('<request-id>', 'the x-request-id header of its answer')
    .option('--admin <url>', 'admin listener of the server', 'http://127.0.0.1:8001')
    .option('--json', 'the whole record as JSON', false)
    .action((requestId: string, options: { admin: string; json: boolean }) => explain(requestId, options));

  program
    .command('rescore')
    .description('score recorded decisions again with other weights, and say what would have changed')
    .argument('<file>', 'export of GET /decisions.jsonl on the admin listener; - reads it from standard input')
    .option('--set <weight=value>', 'a weight of the kv policy to change; may be repeated', (value: string, all: string[]) => [...all, value], [])
    .option('--json', 'as JSON', false)
    .action((file: string, options: { set: string[]; json: boolean }) => rescore(file, options));

  program
    .command('route')
    .description('serve placement alone, for other gateways: tokens or text in; worker, overlap, cost out')
    .requiredOption('-f, --file <file>', 'configuration file; its frontend section is replaced')
    .option('--host <address>', 'address to listen on')
    .option('--port <n>', 'port, default 8002', number)
    .action((options: { file: string; host?: string; port?: number }) => route(options));
}

function replicasOf(text: string, before: Readonly<Record<string, number>> = {}): Record<string, number> {
  const [pool, count] = text.split('=');
  if (pool === '' || !/^\d+$/.test(count ?? '')) throw new InvalidArgumentError('write POOL=COUNT');
  return { ...before, [pool]: Number(count) };
}

/** What `simulate` and `tune` share: a file, its traffic, what is wanted. */
function simulation(program: Command, name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .requiredOption('-f, --file <file>', 'configuration file (YAML), for example deploy/simulation.yaml')
    .option('--trace <file>', 'requests, in the format of the Mooncake traces (JSON lines)')
    .addOption(new Option('--synthetic <kind>', 'generated traffic instead: shift exchanges lengths and triples the load every 10 to 20 minutes').choices(['shift', 'steady']))
    .option('--settings <file>', 'hardware, network, tiers and faults of the simulation (YAML)')
    .option('--requests <n>', 'so many requests: a trace is cut, or played again', number)
    .option('--rate <x>', 'multiplies the request rate', number, 1)
    .option('--hours <n>', 'synthetic: length', number, 2)
    .option('--requests-per-second <n>', 'synthetic: rate, of the quiet phases', number, 3)
    .option('--prompt-tokens <n>', 'synthetic: mean', number, 3_000)
    .option('--output-tokens <n>', 'synthetic: mean', number, 200)
    .option('--replicas <pool=count>', 'other numbers of workers than in the file; may be repeated', replicasOf)
    .option('--ttft <ms>', 'objective for the time to first token', number, 2_000)
    .option('--itl <ms>', 'objective for the inter-token latency', number, 50);
}

function addSimulate(program: Command): void {
  simulation(program, 'simulate', 'run a trace through the cluster of a configuration file in virtual time: real router, serving and queues over simulated engines')
    .option('--seed <n>', 'the same seed gives the same result, to the byte', number, 1)
    .addOption(new Option('--speed <speed>', 'how fast').choices(['max']).default('max'))
    .option('--json <file>', 'the whole result; holds no wall times')
    .option('--html <file>', 'a report with plots')
    .action(async (options: SimulateCommandOptions) => (await import('./commands/simulate.ts')).simulateCommand(options));
  simulation(program, 'tune', 'try router weights and the disaggregation threshold on a trace in simulation, and propose what is better beyond doubt')
    .option('--seed <n>', 'first seed', number, 1)
    .option('--seeds <n>', 'so many: each is the trace with other arrival times', number, 5)
    .addOption(new Option('--goal <goal>', 'what is to become better').choices(['ttft', 'e2e', 'goodput']).default('ttft'))
    .option('--out <file>', 'write the file with the changes')
    .action(async (options: TuneCommandOptions) => (await import('./commands/tune.ts')).tuneCommand(options));
}

function addPlanner(program: Command): void {
  const planner = program.command('planner').description('what the planner decides, and why');
  planner
    .command('explain')
    .description('one plan: what was seen and expected, what was compared, what bound it, what was decided, what came of it')
    .option('--admin <url>', 'admin listener of the process that plans', 'http://127.0.0.1:8001')
    .option('-m, --model <name>', 'its model; default: all')
    .option('--tick <n>', 'this one; default: the newest', number)
    .option('--last <n>', 'so many of the newest', number, 1)
    .option('--json', 'whole records as JSON', false)
    .action((options: PlannerExplainOptions) => plannerExplain(options));
  addGround(planner);
}

function addGround(planner: Command): void {
  planner
    .command('ground')
    .description('the training ground on standard input and output, one JSON object per line: for agents that learn (Python: armature-gym)')
    .addHelpText('after', '\nRequests: {"op":"hello"}, {"op":"make","count":8,"scenarios":"shift","hours":2}, {"op":"reset","env":0,"seed":7}, {"op":"step","actions":[[0,0]]}. See docs/training.md.')
    .action(() => plannerGround());
}

function addKv(program: Command): void {
  const kv = program.command('kv').description('KV blocks below the engines: what is held, where, and whether it is sound');
  const onServer = (name: string, description: string): Command =>
    kv
      .command(name)
      .description(description)
      .option('--admin <url>', 'admin listener of the server', 'http://127.0.0.1:8001')
      .option('--worker <pool/index>', 'one worker; default all of the process')
      .option('--path <folder>', 'instead of a server: the path of a disk tier, or one store below it')
      .option('--json', 'as JSON', false);
  onServer('stats', 'blocks, hits, evictions and problems per worker and tier').action((options: { admin: string; worker?: string; path?: string; json: boolean }) => kvStats(options));
  onServer('ls', 'blocks held, parents first')
    .option('--limit <n>', 'how many', number, 50)
    .action((options: { admin: string; worker?: string; path?: string; json: boolean; limit: number }) => kvLs(options));
  onServer('verify', 'read every block held and check it. Exit code 1 when some were corrupt')
    .option('--repair', 'with --path: strike corrupt blocks out; a running server drops them when they are used', false)
    .option('--deadline-ms <n>', 'give up after so many milliseconds', number, 60_000)
    .action((options: { admin: string; worker?: string; path?: string; json: boolean; repair: boolean; deadlineMs: number }) => kvVerify(options));
  addKvGc(kv);
}

function addKvGc(kv: Command): void {
  kv.command('gc')
    .description('remove stores on disk that nobody can use, and torn records of the others; running stores collect by themselves')
    .requiredOption('--path <folder>', 'the path of a disk tier, or one store below it')
    .option('--dry-run', 'only say what would be done', false)
    .option('--json', 'as JSON', false)
    .action((options: { path: string; dryRun: boolean; json: boolean }) => kvGc(options));
}

function addBenchmarks(program: Command): void {
  program
    .command('nixelbench')
    .description('move blocks and say how fast, beside memcpy: between two processes, or to a file')
    .option('--transport <names>', 'shm, cma, tcp, nixl (two processes), memory, file (one); several with commas', 'shm')
    .option('--block <sizes>', 'block sizes: 64KiB, 16KiB,64KiB or 4KiB..1MiB', '64KiB')
    .option('--batch <counts>', 'blocks per transfer: 256, 1,16,256 or 1..1024', '256')
    .option('--direction <op>', 'read, write or both', 'read')
    .option('--seconds <n>', 'how long to measure each row', number, 1)
    .option('--pool <size>', 'memory of each process, random blocks of which are moved; default 256MiB')
    .option('--folder <path>', 'where the file transport writes; default the temporary folder')
    .option('--json <file>', 'write the rows as JSON')
    .option('--plot <file>', 'write GB/s against block size as SVG')
    .addOption(new Option('--role <role>').hideHelp())
    .action((options: NixelbenchOptions) => nixelbench(options));
}

/** Runs a command line; returns the exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  const program = build();
  const prepare = (command: Command): void => {
    command.exitOverride();
    command.commands.forEach(prepare);
  };
  prepare(program);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return typeof process.exitCode === 'number' ? process.exitCode : ExitCode.Ok;
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.code === 'armature.file') process.stderr.write(`${error.message}\n`);
      return error.exitCode === 0 ? ExitCode.Ok : ExitCode.Usage;
    }
    process.stderr.write(`${describeError(error)}\n`);
    return exitCodeOf(error);
  }
}
