import type { IntervalRow, LatencySummary } from './outcomes.ts';
import type { SimulationResult } from './simulate.ts';

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [720, 220, 64, 16, 12, 32];
const COLOURS = ['#1f5fa8', '#c2571a', '#3c7d3c', '#7a4b9a', '#8a6d1a'];
/** Points of a line; longer series are thinned by means. */
const MOST_POINTS = 360;

interface Line {
  readonly name: string;
  readonly values: readonly (number | null)[];
}

/** One file, no script, nothing fetched: numbers and plots of a simulation. The same result gives the same bytes. */
export function htmlReport(result: SimulationResult, title: string): string {
  const { outcome, intervals, pools, objective } = result;
  const minutes = intervals.map(({ atMs }) => atMs / 60_000);
  const plot = (name: string, unit: string, lines: readonly Line[], limit?: number): string => `<figure><figcaption>${escaped(name)} <small>${escaped(unit)}</small></figcaption>${chart(minutes, lines, limit)}</figure>`;
  const perSecond = (of: (row: IntervalRow) => number): (number | null)[] => intervals.map((row, i) => (1000 * of(row)) / Math.max(1, row.atMs - (intervals[i - 1]?.atMs ?? 0)));
  const body = [
    `<h1>${escaped(title)}</h1>`,
    `<p>${number(outcome.requests)} requests over ${number(result.durationMs / 60_000)} minutes of virtual time; seed ${result.seed}; model ${escaped(result.model)}.</p>`,
    table(['', 'value'], [
      ['finished / failed', `${number(outcome.finished)} / ${number(outcome.failed)}${outcome.failed > 0 ? ` (${Object.entries(outcome.failures).map(([code, count]) => `${code} ${count}`).join(', ')})` : ''}`],
      [`in time (TTFT ≤ ${number(objective.ttftMs)} ms, ITL ≤ ${number(objective.itlMs)} ms)`, `${number(outcome.inTime)} (${number((100 * outcome.inTime) / Math.max(1, outcome.requests))} %)`],
      ['goodput', `${number(outcome.goodputPerSecond)} requests/s, ${number(result.goodputPerGpuHour)} per GPU-hour`],
      ['KV hit rate', outcome.hitRate === null ? 'none' : `${number(100 * outcome.hitRate)} % of prompt tokens`],
      ['GPU-hours, cost', `${number(result.gpuHours)}, ${number(result.cost)}`],
      ['tokens', `${number(outcome.promptTokens)} prompt, ${number(outcome.outputTokens)} output`],
    ]),
    '<h2>Latency</h2>',
    table(['ms', 'mean', 'p50', 'p90', 'p95', 'p99', 'max'], [latencyRow('time to first token', outcome.ttftMs), latencyRow('inter-token', outcome.itlMs), latencyRow('end to end', outcome.e2eMs)]),
    plot('Time to first token', 'ms', [{ name: 'mean', values: intervals.map((row) => row.ttftMs) }, { name: 'p99', values: intervals.map((row) => row.ttftP99Ms) }], objective.ttftMs),
    plot('Inter-token latency', 'ms', [{ name: 'mean', values: intervals.map((row) => row.itlMs) }], objective.itlMs),
    plot('Requests', 'per second', [{ name: 'arrived', values: perSecond((row) => row.arrived) }, { name: 'in time', values: perSecond((row) => row.inTime) }]),
    plot('In flight', 'requests', [{ name: 'in flight', values: intervals.map((row) => row.inFlight) }]),
    plot('KV hit rate', 'share of prompt tokens', [{ name: 'hit rate', values: intervals.map((row) => row.hitRate) }]),
    plot('Workers', 'ordered', pools.map(({ pool }) => ({ name: pool, values: intervals.map((row) => row.workers[pool] ?? 0) }))),
    '<h2>Pools</h2>',
    table(['pool', 'hardware', 'worker-hours', 'GPU-hours', 'cost', 'workers started'], pools.map((pool) => [pool.pool, pool.hardware, number(pool.workerHours), number(pool.gpuHours), number(pool.cost), number(pool.started)])),
    ...(result.tiers.length === 0 ? [] : ['<h2>KV tiers</h2>', table(['tier', 'blocks held', 'of', 'stored', 'loaded', 'evicted', 'failed'], result.tiers.map((tier) => [tier.tier, ...[tier.heldBlocks, tier.capacityBlocks, tier.stores, tier.loads, tier.evictions, tier.failures].map(number)]))]),
    ...(result.faults.length === 0 ? [] : ['<h2>Faults</h2>', table(['minute', 'fault', 'worker'], result.faults.map(({ atMs, kind, worker }) => [number(atMs / 60_000), kind, worker]))]),
    '<h2>What ran</h2>',
    table(['counter', 'value'], [...Object.entries(result.counters).map(([name, value]) => [name, number(value)]), ['KV bytes between workers', number(result.movedBytes)], ['events', number(result.events)]]),
    ...(result.assumptions.length === 0 ? [] : ['<h2>Assumed</h2>', `<ul>${result.assumptions.map((text) => `<li>${escaped(text)}</li>`).join('')}</ul>`]),
  ];
  return `<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escaped(title)}</title><style>
body{font:14px/1.45 system-ui,sans-serif;max-width:760px;margin:2em auto;padding:0 1em;color:#222}h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}
table{border-collapse:collapse;margin:.5em 0}td,th{padding:.25em .8em .25em 0;text-align:left;border-bottom:1px solid #e4e4e4;font-variant-numeric:tabular-nums}
figure{margin:1.5em 0}figcaption{font-weight:600}small{font-weight:400;color:#666}svg{width:100%;height:auto}</style></head><body>\n${body.join('\n')}\n</body></html>\n`;
}

function latencyRow(name: string, { mean, p50, p90, p95, p99, max }: LatencySummary): string[] {
  return [name, ...[mean, p50, p90, p95, p99, max].map(number)];
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (tag: string, row: readonly string[]): string => `<tr>${row.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join('')}</tr>`;
  return `<table>${cells('th', head)}${rows.map((row) => cells('td', row)).join('')}</table>`;
}

/** Lines over time; gaps where there is no value. `limit`: a dashed line, where it is not far above everything. */
function chart(minutes: readonly number[], lines: readonly Line[], limit?: number): string {
  const thin = Math.max(1, Math.ceil(minutes.length / MOST_POINTS));
  const xs = thinned(minutes, thin);
  const thinLines = lines.map(({ name, values }) => ({ name, values: thinned(values, thin) }));
  const highest = Math.max(1e-9, ...thinLines.flatMap(({ values }) => values.filter((value) => value !== null)));
  const isLimitSeen = limit !== undefined && limit < 3 * highest;
  const top = nice(Math.max(highest, isLimitSeen ? limit : 0));
  const last = Math.max(1e-9, xs.at(-1) ?? 1);
  const x = (minute: number): number => LEFT + ((WIDTH - LEFT - RIGHT) * minute) / last;
  const y = (value: number): number => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * value) / top;
  const parts = [0, 0.25, 0.5, 0.75, 1].map((share) => `<path d="M${LEFT} ${point(y(share * top))}H${WIDTH - RIGHT}" stroke="#e4e4e4"/><text x="${LEFT - 8}" y="${point(y(share * top) + 4)}" text-anchor="end">${number(share * top)}</text>`);
  for (const share of [0, 0.25, 0.5, 0.75, 1]) parts.push(`<text x="${point(x(share * last))}" y="${HEIGHT - 12}" text-anchor="${share === 1 ? 'end' : 'middle'}">${number(share * last)} min</text>`);
  if (isLimitSeen) parts.push(`<path d="M${LEFT} ${point(y(limit))}H${WIDTH - RIGHT}" stroke="#b00020" stroke-dasharray="5 4"/>`);
  thinLines.forEach(({ name, values }, i) => {
    const path = values.map((value, k) => (value === null ? '' : `${k === 0 || values[k - 1] === null ? 'M' : 'L'}${point(x(xs[k] ?? 0))} ${point(y(value))}`)).join('');
    parts.push(`<path d="${path}" fill="none" stroke="${COLOURS[i % COLOURS.length]}" stroke-width="1.5"/>`);
    if (lines.length > 1) parts.push(`<text x="${LEFT + 8 + 110 * i}" y="${TOP + 12}" fill="${COLOURS[i % COLOURS.length]}">${escaped(name)}</text>`);
  });
  return `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="system-ui,sans-serif" font-size="11" fill="#444">${parts.join('')}</svg>`;
}

function thinned(values: readonly (number | null)[], by: number): (number | null)[] {
  if (by === 1) return [...values];
  return Array.from({ length: Math.ceil(values.length / by) }, (_, i) => {
    const some = values.slice(i * by, (i + 1) * by).filter((value) => value !== null);
    return some.length === 0 ? null : some.reduce((sum, value) => sum + value, 0) / some.length;
  });
}

/** 1, 2 or 5 times a power of ten. */
function nice(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 2.5, 5, 10].find((step) => step * power >= value) ?? 10) * power;
}

function point(value: number): string {
  return value.toFixed(1);
}

function number(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return '–';
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en-US') : Number(value.toPrecision(3)).toString();
}

function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (letter) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[letter] as string);
}
