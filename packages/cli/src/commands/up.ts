import { ArmatureError } from '@armature/contracts';
import type { DeploymentSummary } from '@armature/contracts';
import { partName, partsOf } from '../only.ts';
import type { DeploymentParts, Part } from '../only.ts';
import { Supervisor } from '../supervisor.ts';
import type { ChildPlan } from '../supervisor.ts';

export interface UpOptions {
  readonly file: string;
  /** Frontend processes on the one port of the file. */
  readonly frontends: number;
}

/** Longer than a child's own drain. */
const STOP_MS = 15_000;

/** `armature up`: every part of the file as a child process of this host; what ends is started again. */
export async function up(options: UpOptions): Promise<void> {
  const { file, frontends } = options;
  if (!Number.isInteger(frontends) || frontends < 1 || frontends > 256) {
    throw new ArmatureError('USAGE_FRONTENDS_INVALID', `${frontends} frontend processes were asked for`, { hint: 'between 1 and 256' });
  }
  const parts = await partsOf(file);
  const supervisor = new Supervisor({ plans: plansOf(file, parts, frontends), stopMs: STOP_MS, ready: (summaries) => process.stdout.write(banner(summaries)) });
  const stop = (signal: NodeJS.Signals): void => {
    if (supervisor.isStopping) {
      process.stderr.write(`\n${signal} again: leaving at once.\n`);
      supervisor.kill();
      return;
    }
    process.stderr.write(`\n${signal}: stopping the parts, frontends first …\n`);
    supervisor.stop();
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  process.exitCode = await supervisor.run();
  process.stderr.write('stopped.\n');
}

/** Workers first, so that a frontend finds them; one process per worker. */
export function plansOf(file: string, parts: DeploymentParts, frontends: number): ChildPlan[] {
  const plans: ChildPlan[] = [];
  const add = (part: Part, name: string, more: readonly string[] = []): void => {
    const only = part.type === 'workers' ? `workers.${partName(part)}` : part.type;
    plans.push({ name, isFrontend: part.type === 'frontend', args: ['serve', '-f', file, '--only', only, ...more] });
  };
  for (const { name: pool, replicas, firstIndex, isPlanned } of parts.pools) {
    if (isPlanned === true) continue; // the planner starts them
    for (let index = firstIndex; index < firstIndex + replicas; index++) {
      const part: Part = { type: 'workers', pool, index };
      const name = partName(part);
      if (!plans.some((plan) => plan.name === name)) add(part, name, ['--admin-port', '0']);
    }
  }
  if (parts.hasPlanner) add({ type: 'planner' }, 'planner', ['--admin-port', '0']);
  if (parts.hasFrontend) {
    for (let i = 0; i < frontends; i++) {
      add({ type: 'frontend' }, frontends === 1 ? 'frontend' : `frontend/${i}`, [...(frontends > 1 ? ['--share-port'] : []), ...(i > 0 ? ['--admin-port', '0'] : [])]);
    }
  }
  if (plans.length === 0) throw new ArmatureError('CONFIG_NOTHING_TO_START', `${file} has neither a frontend nor workers`, { hint: 'add a frontend section or workers to a model' });
  return plans;
}

function banner(summaries: ReadonlyMap<string, DeploymentSummary>): string {
  const lines = ['', '  every part is ready'];
  for (const [name, summary] of summaries) {
    const admin = summary.adminUrl === undefined ? '' : `admin ${summary.adminUrl}`;
    lines.push(`    ${name.padEnd(16)}${(summary.url === undefined ? '' : `${summary.url}/v1`).padEnd(28)}${admin}`);
  }
  lines.push('', '  Ctrl-C stops all of them.', '');
  return `${lines.join('\n')}\n`;
}
