import { writeFileSync } from 'node:fs';
import { policies, simplePolicies } from './quality/policies.mjs';
import { capacityJobs, loadJobs, mainSettings, unseenSettings } from './quality/settings.mjs';
import { mean, pairedRatio } from './quality/statistics.mjs';
import { sweep } from './quality/sweep.mjs';

export const description = 'where requests go: hit rate, time to first token, balance, by replays in virtual time [--full] [--unseen] [--only TEXT] [--seeds N] [--table FILE]';
export const packages = ['serving', 'router-kv', 'backend-mock', 'core'];

/** The policy that is judged. */
const OURS = 'expected-work';
const FULL = { settings: mainSettings, loads: [0.3, 0.6, 0.9], seeds: 5, policies: Object.keys(policies) };
const UNSEEN = { ...FULL, settings: unseenSettings, loads: [0.3, 0.9] };
const QUICK = { settings: mainSettings.slice(0, 2), loads: [0.6], seeds: 2, policies: [OURS, 'kv-cost', 'round-robin', 'least-loaded'] };

const METRICS = { hitRate: 'hit rate', ttftMeanMs: 'TTFT mean', ttftP50Ms: 'p50', ttftP99Ms: 'p99 ms', itlMeanMs: 'ITL ms', e2eMeanMs: 'E2E ms', busiest: 'busiest/mean', idle: 'idle', preemptions: 'preempted' };

/** The rows of one setting at one load. */
function judge(setting, load, results) {
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

function markdown(setting, load, capacity, results) {
  const head = `\n**${setting.name}**, load ${load} of ${capacity.toFixed(1)} requests/s\n\n| policy | ${Object.values(METRICS).join(' | ')} |\n|${'---|'.repeat(Object.keys(METRICS).length + 1)}`;
  const names = [...new Set(results.map((result) => result.job.policy))];
  const cell = (name, metric) => {
    const values = results.filter((result) => result.job.policy === name).map((result) => result[metric]);
    return (metric === 'busiest' ? Math.max(...values) : mean(values)).toFixed(digits[metric] ?? 0);
  };
  return [head, ...names.map((name) => `| ${name} | ${Object.keys(METRICS).map((metric) => cell(name, metric)).join(' | ')} |`)].join('\n');
}

export async function run({ options, log }) {
  const plan = options.full !== undefined ? FULL : options.unseen !== undefined ? UNSEEN : QUICK;
  const settings = plan.settings.filter((setting) => setting.name.includes(options.only ?? ''));
  const seeds = Number(options.seeds ?? plan.seeds);
  const rows = [];
  const tables = [];
  for (const setting of settings) {
    const capacities = (await sweep(capacityJobs(setting))).map((result) => result.requestsPerSecond);
    const capacity = Math.max(...capacities);
    rows.push({ name: `${setting.name}/capacity`, value: capacity, unit: 'requests/s' });
    const jobs = plan.loads.flatMap((load) => loadJobs(setting, { capacity, load, seeds, policies: plan.policies }));
    const results = (await sweep(jobs)).map((result, i) => ({ ...result, job: jobs[i] }));
    for (const load of plan.loads) {
      const here = results.filter((result) => result.job.load === load);
      rows.push(...judge(setting, load, here));
      tables.push(markdown(setting, load, capacity, here));
      log(tables[tables.length - 1]);
    }
    if (options.table !== undefined) writeFileSync(options.table, `${tables.join('\n')}\n`);
    log(`mean replay ${mean(results.map((result) => result.wallSeconds)).toFixed(1)} s`);
  }
  return rows;
}
