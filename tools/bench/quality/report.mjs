import { simplePolicies } from './policies.mjs';
import { mean, pairedRatio } from './statistics.mjs';

/** The policy that is judged. */
export const OURS = 'expected-work';

const METRICS = { hitRate: 'hit rate', ttftMeanMs: 'TTFT mean', ttftP50Ms: 'p50', ttftP99Ms: 'p99 ms', itlMeanMs: 'ITL ms', e2eMeanMs: 'E2E ms', busiest: 'busiest/mean', idle: 'idle', preemptions: 'preempted' };

/** The rows of one setting at one load. */
export function judge(setting, load, results) {
  const name = `${setting.name}/load-${load}`;
  const of = (policy, metric) => results.filter((result) => result.job.policy === policy).map((result) => result[metric]);
  const others = simplePolicies.filter((policy) => of(policy, 'hitRate').length > 0);
  const rows = [
    { name: `${name}/hit-rate`, value: mean(of(OURS, 'hitRate')), unit: 'share' },
    { name: `${name}/hit-rate-vs-round-robin`, value: pairedRatio(of(OURS, 'hitRate'), of('round-robin', 'hitRate')).ratio, unit: 'x', target: setting.hitTarget },
    { name: `${name}/busiest-worker`, value: mean(of(OURS, 'busiest')), unit: 'x mean', target: 1.15 },
  ];
  for (const [metric, label] of [['ttftMeanMs', 'ttft-mean'], ['ttftP99Ms', 'ttft-p99']]) {
    const best = others.reduce((a, b) => (mean(of(b, metric)) < mean(of(a, metric)) ? b : a));
    const { ratio, low, high } = pairedRatio(of(OURS, metric), of(best, metric));
    rows.push({ name: `${name}/${label}-vs-${best}`, value: ratio, unit: Number.isNaN(low) ? 'x' : `x [${low.toFixed(3)}, ${high.toFixed(3)}]`, target: 1.03 });
    rows.push({ name: `${name}/${label}-vs-kv-cost`, value: pairedRatio(of(OURS, metric), of('kv-cost', metric)).ratio, unit: 'x' });
  }
  return rows;
}

const digits = { hitRate: 3, busiest: 3, ttftMeanMs: 1, ttftP50Ms: 1, itlMeanMs: 2, preemptions: 1, idle: 1 };

export function markdown(setting, load, capacity, results) {
  const head = `\n**${setting.name}**, load ${load} of ${capacity.toFixed(1)} requests/s\n\n| policy | ${Object.values(METRICS).join(' | ')} |\n|${'---|'.repeat(Object.keys(METRICS).length + 1)}`;
  const names = [...new Set(results.map((result) => result.job.policy))];
  const cell = (name, metric) => {
    const values = results.filter((result) => result.job.policy === name).map((result) => result[metric]);
    return (metric === 'busiest' ? Math.max(...values) : mean(values)).toFixed(digits[metric] ?? 0);
  };
  return [head, ...names.map((name) => `| ${name} | ${Object.keys(METRICS).map((metric) => cell(name, metric)).join(' | ')} |`)].join('\n');
}
