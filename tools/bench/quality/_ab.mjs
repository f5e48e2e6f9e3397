import { fileURLToPath } from 'node:url';
import { loadJobs, mainSettings, unseenSettings } from './settings.mjs';
import { sweep } from './sweep.mjs';
const cap = { 'mooncake/4-workers/quarter': 14.5, 'mooncake/16-workers/quarter': 39, 'mooncake/4-workers/roomy': 23.8, 'mooncake/16-workers/roomy': 82.1 };
const only = process.argv[2] ?? ''; const loads = (process.argv[3] ?? '0.6').split(',').map(Number); const names = (process.argv[4] ?? 't15,t10').split(',');
for (const setting of [...mainSettings, ...unseenSettings].filter((s) => s.name.includes(only))) {
  for (const load of loads) {
    const jobs = loadJobs(setting, { capacity: cap[setting.name] ?? Number(process.argv[5]), load, seeds: 2, policies: names });
    const results = await sweep(jobs, { extra: fileURLToPath(new URL('./_ab-policies.mjs', import.meta.url)) });
    for (const name of names) {
      const mine = results.filter((_, i) => jobs[i].policy === name);
      const mean = (f) => mine.reduce((s, r) => s + f(r), 0) / mine.length;
      if (process.env.KEYS) console.log(Object.keys(mine[0]));
      console.log(setting.name, load, name, 'hit', mean((r) => r.hitRate).toFixed(3), 'ttft', mean((r) => r.ttftMeanMs ?? r.ttft?.mean).toFixed(1), 'p99', mean((r) => r.ttftP99Ms ?? r.ttft?.p99).toFixed(0), 'busiest', Math.max(...mine.map((r) => r.busiest ?? r.busiestToMean)).toFixed(3), mean((r) => r.busiest ?? r.busiestToMean).toFixed(3));
    }
  }
}
