import { writeFileSync } from 'node:fs';
import { policies } from './quality/policies.mjs';
import { OURS, judge, markdown } from './quality/report.mjs';
import { capacityJobs, loadJobs, mainSettings, unseenSettings } from './quality/settings.mjs';
import { mean } from './quality/statistics.mjs';
import { sweep } from './quality/sweep.mjs';

export const description = 'where requests go: hit rate, time to first token, balance, by replays in virtual time [--full] [--unseen] [--only TEXT] [--seeds N] [--table FILE]';
export const packages = ['serving', 'router-kv', 'backend-mock', 'core'];

const FULL = { settings: mainSettings, loads: [0.3, 0.6, 0.9], seeds: 5, policies: Object.keys(policies) };
const UNSEEN = { ...FULL, settings: unseenSettings, loads: [0.3, 0.9] };
const QUICK = { settings: mainSettings.slice(0, 2), loads: [0.6], seeds: 2, policies: [OURS, 'kv-cost', 'round-robin', 'least-loaded'] };

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
