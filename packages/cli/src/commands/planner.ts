import { ArmatureError } from '@armature/contracts';
import type { Interval, PlannedOutcome } from '@armature/contracts';
import type { TickRecord } from '@armature/planner';
import { adminGet } from './admin-client.ts';

export interface PlannerExplainOptions {
  readonly admin: string;
  readonly model?: string;
  readonly tick?: number;
  /** Ticks of the list. */
  readonly last?: number;
  readonly json: boolean;
}

/** `armature planner explain`: what the planner saw, expected, compared and decided, what bound it, and what came of it. */
export async function plannerExplain(options: PlannerExplainOptions): Promise<void> {
  const ticks = await ticksOf(options);
  if (options.json) {
    process.stdout.write(`${JSON.stringify(options.tick === undefined ? ticks : ticks[0], null, 2)}\n`);
    return;
  }
  process.stdout.write(`${ticks.map(explainTick).join('\n\n')}\n`);
}

async function ticksOf({ admin, model, tick, last = 1 }: PlannerExplainOptions): Promise<readonly TickRecord[]> {
  const query = new URLSearchParams({ ...(model === undefined ? {} : { model }), ...(tick === undefined ? { limit: String(last) } : {}) });
  const body = await adminGet(admin, `/planner/ticks${tick === undefined ? '' : `/${tick}`}?${query.toString()}`);
  if (body === undefined) {
    throw tick === undefined
      ? new ArmatureError('PLANNER_ABSENT', `the process at ${admin} plans nothing`, { hint: 'name the admin listener of the process with the planner section: --admin URL' })
      : new ArmatureError('PLANNER_TICK_UNKNOWN', `the planner at ${admin} has no tick ${tick}`, { hint: '`armature planner explain --last 20` lists the newest; `ticks` of the planner section says how many are kept' });
  }
  const ticks = tick === undefined ? (JSON.parse(body) as readonly TickRecord[]) : [JSON.parse(body) as TickRecord];
  if (ticks.length === 0) throw new ArmatureError('PLANNER_TICK_UNKNOWN', `the planner at ${admin} has not planned yet${model === undefined ? '' : ` for model "${model}"`}`, { hint: 'wait one interval; check --model' });
  return ticks;
}

/** JSON has no NaN: what is not known is null. */
const isKnown = (value: number | null | undefined): value is number => typeof value === 'number' && Number.isFinite(value);
const count = (value: number | null): string => (isKnown(value) ? (value < 10 ? value.toFixed(2) : value.toFixed(0)) : '?');
const ms = (value: number | null): string => (isKnown(value) ? `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms` : '?');
const percent = (value: number | null): string => (isKnown(value) ? `${(100 * value).toFixed(1)} %` : '?');
const interval = ({ mean, low, high }: Interval): string => (isKnown(mean) ? `${count(mean)} (${count(low)}–${count(high)})` : '?');

function outcome({ ttftMs, itlMs, attainment, goodputPerSecond, gpus, costPerHour }: PlannedOutcome): string {
  return `TTFT ${ms(ttftMs)}, ITL ${ms(itlMs)}, ${percent(attainment)} within, ${count(goodputPerSecond)} good/s, ${count(gpus)} GPUs, ${count(costPerHour)} per hour`;
}

const line = (label: string, text: string): string => `  ${label.padEnd(10)}${text}`;

/** One tick for people. */
export function explainTick(record: TickRecord): string {
  const { model, tick, wallMs, inputs, forecast, proposal, candidates, bound, decision, execution, actual, problems } = record;
  const { traffic, pools } = inputs;
  const lines = [`${model} · tick ${tick} · ${new Date(wallMs).toISOString()}`];
  const seen = isKnown(traffic.requestsPerSecond) ? `${traffic.requestsPerSecond.toFixed(2)} requests/s` : 'no traffic report';
  lines.push(line('saw', `${seen} of ${count(traffic.promptTokens)} prompt (${percent(traffic.hitRate)} cached) and ${count(traffic.outputTokens)} output tokens; TTFT ${ms(traffic.ttftMs)}, ITL ${ms(traffic.itlMs)}, ${percent(traffic.attainment)} within the objective`));
  for (const pool of pools) {
    const states = [[pool.starting, 'starting'], [pool.draining, 'draining'], [pool.lent, 'in another role']] as const;
    const rest = states.filter(([workers]) => workers > 0).map(([workers, state]) => `, ${workers} ${state}`);
    lines.push(line('', `${pool.pool}: ${pool.ready} of ${pool.desired} ready${rest.join('')}; ${count(pool.running)} running, ${count(pool.waiting)} waiting, ${count(pool.prefillTokens)} prompt tokens to do, KV ${percent(pool.totalBlocks > 0 ? pool.usedBlocks / pool.totalBlocks : null)}`));
  }
  lines.push(...problems.map((problem, i) => line(i === 0 ? 'problems' : '', problem)));
  lines.push(line('expects', `${interval(forecast.requestsPerSecond)} requests/s over ${(forecast.horizonMs / 1000).toFixed(0)} s, ${interval(forecast.promptTokens)} prompt and ${interval(forecast.outputTokens)} output tokens`));
  lines.push(line('proposed', `${proposal.action}: ${proposal.reason}`));
  for (const [i, candidate] of candidates.slice(0, 4).entries()) lines.push(line(i === 0 ? 'compared' : '', `${replicas(candidate.state.replicas)}: ${outcome(candidate.outcome)}`));
  lines.push(...bound.map(({ name, detail }, i) => line(i === 0 ? 'bound' : '', `${name}: ${detail}`)));
  const order = execution.order === 'unchanged' ? 'nothing to order' : `order ${execution.revision} ${execution.order}`;
  lines.push(line('decided', `${pools.map(({ pool, desired }) => change(pool, desired, decision.state.replicas[pool] ?? desired)).join(', ')} (${order}${execution.status.reason === undefined ? '' : `; the connector says: ${execution.status.reason}`})`));
  for (const moved of execution.roleChanges) lines.push(line('', `role: ${moved}`));
  if (decision.unreachable !== undefined) lines.push(line('', decision.unreachable));
  if (actual !== undefined) lines.push(line('came', `${outcome(actual)}; ${count(actual.requestsPerSecond)} requests/s${actual.isComplete ? '' : ` (${(actual.coveredMs / 1000).toFixed(0)} s of ${(forecast.horizonMs / 1000).toFixed(0)} so far)`}`));
  return lines.join('\n');
}

function change(pool: string, from: number, to: number): string {
  return from === to ? `${pool} stays at ${to}` : `${pool} ${from} → ${to}`;
}

function replicas(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts).map(([pool, workers]) => `${pool} ${workers}`).join(', ');
}
