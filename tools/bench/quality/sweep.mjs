// Runs replays over processes. A job is plain data: {trace: {name, seed?, ...}, policy: name, workers, blocksPerWorker, seed, timeScale | concurrency}.
import { fork } from 'node:child_process';
import os from 'node:os';
import { fileURLToPath } from 'node:url';
import { policies } from './policies.mjs';
import { replay } from './replay.mjs';
import { generators, rearranged } from './traces.mjs';

const loaded = new Map();

/** A named generator's trace with its parameters; the arrangement (arrival times) follows `arrangement`. */
export function traceOf({ name, arrangement = 0, ...parameters }) {
  const key = JSON.stringify([name, parameters]);
  if (!loaded.has(key)) {
    loaded.clear(); // one at a time: the prompts of a trace take 250 MB
    loaded.set(key, generators[name](name === 'mooncake' ? parameters.limit : parameters));
  }
  return rearranged(loaded.get(key), arrangement);
}

async function runJob({ trace, policy, ...job }, extra) {
  const factory = policies[policy] ?? extra?.[policy];
  if (factory === undefined) throw new Error(`no policy "${policy}"`);
  return { ...(await replay({ ...job, trace: traceOf(trace), policy: factory })), perWorker: undefined };
}

/** Results in the order of the jobs. Jobs of one trace stay together. `extra`: a module that exports more `policies`. */
export async function sweep(jobs, { processes = Math.min(os.availableParallelism(), jobs.length), extra, onDone } = {}) {
  const results = Array.from({ length: jobs.length });
  let next = 0;
  let done = 0;
  await Promise.all(
    Array.from({ length: processes }, async () => {
      const child = fork(fileURLToPath(import.meta.url), ['--child', ...(extra === undefined ? [] : [extra])], { execArgv: ['--max-old-space-size=3000'] });
      const exited = new Promise((_resolve, reject) => child.once('exit', (code) => reject(new Error(`a replay process ended with code ${code}`))));
      exited.catch(() => {});
      while (next < jobs.length) {
        const at = next++;
        child.send(jobs[at]);
        const answer = await Promise.race([exited, new Promise((resolve) => child.once('message', resolve))]);
        if (answer.error !== undefined) throw new Error(answer.error);
        results[at] = answer;
        onDone?.(++done, jobs.length, jobs[at], answer);
      }
      child.disconnect();
    }),
  );
  return results;
}

if (process.argv.includes('--child') && process.send !== undefined) {
  const module = process.argv[3];
  const extra = module === undefined ? undefined : (await import(module)).policies;
  process.on('message', async (job) => {
    try {
      process.send(await runJob(job, extra));
    } catch (error) {
      process.send({ error: `${error.stack}` });
    }
  });
}
