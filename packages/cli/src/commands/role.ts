import { readFileSync } from 'node:fs';
import { boot } from '@armature/core';
import type { BootOptions } from '@armature/core';
import { ArmatureError } from '@armature/contracts';
import type { WorkerRole } from '@armature/contracts';
import { controlDeployment } from '@armature/serving';
import type { ClusterControl, ControlDeployment } from '@armature/serving';
import { parseDocument } from 'yaml';
import { configOptions } from '../boot.ts';
import { partsOf } from '../only.ts';

const CLOSE_MS = 2_000;
/** For another change of the same model to end. */
const WAIT_MS = 10_000;
const ROLES: readonly string[] = ['prefill', 'decode', 'both'];

export interface RoleOptions {
  readonly file: string;
  readonly model?: string;
  readonly deadlineMs: number;
  readonly json: boolean;
}

/** `armature role`: gives a running worker another role. */
export async function role(worker: string, wanted: string, options: RoleOptions): Promise<void> {
  if (!ROLES.includes(wanted)) throw new ArmatureError('USAGE_ROLE_UNKNOWN', `there is no role "${wanted}"`, { hint: `write ${ROLES.join(', ')}` });
  if (!/^[^/]+\/\d+$/.test(worker)) throw new ArmatureError('USAGE_WORKER_INVALID', `"${worker}" names no worker`, { hint: 'write POOL/INDEX, as `armature workers` lists them' });
  await withControl(options.file, async (control, models) => {
    const model = options.model ?? (models.length === 1 ? models[0] : undefined);
    if (model === undefined) throw new ArmatureError('USAGE_MODEL_MISSING', `${options.file} has several models`, { hint: `say which: --model ${models.join(' or ')}` });
    const { instanceId, moved } = await control.changeRole({
      model,
      worker,
      role: wanted as WorkerRole,
      drainMs: options.deadlineMs,
      waitMs: WAIT_MS,
      draining: (legs) => void process.stderr.write(`${worker} drains: ${legs} running, at most ${options.deadlineMs / 1000} s …\n`),
    });
    const text = `${instanceId} is ${wanted}${moved === 0 ? '' : `; ${moved} requests moved on`}`;
    process.stdout.write(`${options.json ? JSON.stringify({ instanceId, role: wanted, moved }) : text}\n`);
  });
}

/** `armature workers`: who is alive, in which role, how loaded; then those that are out because their engine failed. */
export async function workers(options: { readonly file: string; readonly json: boolean }): Promise<void> {
  await withControl(options.file, async (control) => {
    const rows = await Promise.all(
      (await control.list()).map(async (record) => {
        const { model, instanceId, role: has, engine, hardware, costPerHour, gpus = 1, prefillSpeed = 1, decodeSpeed = 1, adapters = [], address } = record;
        return { model, instanceId, role: has, engine, hardware, costPerHour, gpus, prefillSpeed, decodeSpeed, adapters, address, state: 'ready', load: await control.load(record) };
      }),
    );
    const unwell = await control.unwell();
    if (options.json) {
      process.stdout.write(`${JSON.stringify([...rows, ...unwell], null, 2)}\n`);
      return;
    }
    const lines = rows.map((row) => [row.model, row.instanceId, row.role, row.engine, `${row.gpus}x ${row.hardware}`, row.costPerHour.toFixed(2), row.adapters.length === 0 ? '-' : row.adapters.join(','), row.load === undefined ? 'no answer' : `${row.load.running}+${row.load.waiting}`, row.load === undefined ? '' : `${row.load.usedBlocks}/${row.load.totalBlocks}`, row.address]);
    const table = [['model', 'worker', 'role', 'engine', 'hardware', 'cost/h', 'adapters', 'run+wait', 'blocks', 'address'], ...lines];
    for (const { model, instanceId, role: had, engine, hardware, state, holdMs, code, address } of unwell) {
      table.push([model, instanceId, had, engine, hardware, '', '', state === 'failed' ? `failed: ${code}` : `well again, back after ${holdMs / 1000} s`, '', address]);
    }
    const widths = table[0]?.map((_title, i) => Math.max(...table.map((line) => line[i]?.length ?? 0))) ?? [];
    for (const line of table) process.stdout.write(`${line.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ').trimEnd()}\n`);
  });
}

/** The planes of a file, without anything that serves: no listener, no model is opened. Discovery and requests must reach beyond this process. */
async function withControl(file: string, use: (control: ClusterControl, models: readonly string[]) => Promise<void>): Promise<void> {
  await partsOf(file);
  const document = parseDocument(readFileSync(file, 'utf8'));
  for (const section of ['frontend', 'planner', 'admin', 'transports', 'events']) document.delete(section);
  // The fixed port belongs to a process of the cluster; this one is not called.
  if (document.hasIn(['requests', 'config', 'port'])) document.setIn(['requests', 'config', 'port'], 0);
  const models = ((document.toJS() as { models?: readonly { name: string }[] }).models ?? []).map(({ name }) => name);
  const env = { ARMATURE_LOG_LEVEL: 'warn', ...process.env };
  const options = { ...(await configOptions(file)), root: controlDeployment as BootOptions['root'] };
  const app = await boot({ ...options, configText: document.toString(), env, processMetrics: false });
  try {
    await app.start();
    await use((app.deployment as ControlDeployment).control, models);
  } finally {
    await app.close(CLOSE_MS);
  }
}
