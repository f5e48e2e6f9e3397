// Planner policies against the best static fleet that hindsight finds, in the training ground (fleet model; GPU-hours include start-up and drain). `shift`: load times
// three and lengths exchanged every 10 to 20 minutes for two hours. `flat`: Mooncake's synthetic trace, over and over for an hour. Options: --seeds 1,2,3,4,5
// --policies optimize,rl --cases shift,flat --grid false
import { SeededRandom } from '../../packages/core/dist/index.js';
import { FleetGround, groundOf, LoadPolicy, OptimizePolicy, PlannedGround, priorOf, productionStages, RlPolicy, shiftScenario, shippedWeights, SlaPolicy } from '../../packages/planner/dist/index.js';
import { mooncake } from './quality/traces.mjs';

export const description = 'policies of the planner against the best static fleet, goodput per GPU-hour';
export const packages = ['core', 'planner'];

const HOUR_MS = 3_600_000;
const COPIES = 4;

/** Four copies of the trace, a quarter of its length apart, each with its own prefixes. What any worker holds already is cached: the same for all fleets compared. */
function flatTrace() {
  const { rows } = mooncake();
  const lengthMs = rows.at(-1).atMs + 1_000;
  const requests = [];
  for (let copy = 0; copy < COPIES; copy++) {
    for (let round = -1; round * lengthMs < HOUR_MS; round++) {
      const seen = new Set();
      for (const { atMs, promptTokens, outputTokens, blocks } of rows) {
        let cached = 0;
        while (cached < blocks.length - 1 && seen.has(blocks[cached])) cached++;
        for (const block of blocks) seen.add(block);
        requests.push({ atMs: (round + copy / COPIES) * lengthMs + atMs, promptTokens, cachedTokens: cached * 512, outputTokens });
      }
    }
  }
  return requests.filter(({ atMs }) => atMs >= 0 && atMs < HOUR_MS).sort((a, b) => a.atMs - b.atMs);
}

const trace = flatTrace();
/** As Mooncake's paper (FAST '25): 30 s to the first token of prompts of up to 120,000 tokens. Per token 300 ms: answers of two tokens wait for their KV. */
const flatScenario = { ...shiftScenario, durationMs: HOUR_MS, ttftMs: 30_000, itlMs: 300 };

const cases = {
  shift: { scenario: shiftScenario, requests: undefined, aim: 1.25, start: { prefill: 4, decode: 6 }, grid: { prefill: [1, 6], decode: [4, 16] } },
  flat: { scenario: flatScenario, requests: () => trace, aim: 0.97, start: { prefill: 12, decode: 6 }, grid: { prefill: [6, 18], decode: [1, 8] } },
};

const policies = {
  load: () => new LoadPolicy({ prefill: { up: 1, down: 0.1 }, decode: { up: 0.85, down: 0.5 }, step: 0 }),
  sla: ({ scenario }) => new SlaPolicy({ caution: 0, downShare: 0.8, hardware: { default: priorOf(scenario) }, tables: {} }),
  optimize: ({ scenario }, seed) => new OptimizePolicy({ horizonMs: 120_000, caution: 0, evaluations: 48, maxRequests: 5_000, margin: 0.02, transferMs: 2, transferMsPerToken: 0.005, drainMs: 180_000, hardware: { default: priorOf(scenario) } }, new SeededRandom(seed)),
  rl: ({ scenario }) => new RlPolicy({ hardware: { default: priorOf(scenario) } }, shippedWeights()),
};

function playStatic({ scenario, requests }, replicas, seed) {
  const ground = new FleetGround(groundOf(scenario, replicas, requests), new SeededRandom(1));
  ground.reset(seed);
  while (!ground.step({ replicas: {}, lent: [] }).done);
  return ground.result();
}

function play(which, name, seed) {
  const ground = new PlannedGround(new FleetGround(groundOf(which.scenario, which.start, which.requests), new SeededRandom(1)), () => productionStages(15_000));
  const policy = policies[name](which, seed);
  let input = ground.reset(seed);
  const cpu = process.cpuUsage();
  for (let ticks = 1; ; ticks++) {
    const step = ground.step(policy.propose(input).state);
    if (step.done) {
      const { user, system } = process.cpuUsage(cpu);
      return { ...ground.result(), cpuMsPerTick: (user + system) / 1000 / ticks };
    }
    input = step.input;
  }
}

const mean = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;
const over = (results, of) => mean(results.map(of));

/** Every fleet of the grid on every seed: the best of all seeds together, and each seed's own. */
function bestStatic(which, seeds, log) {
  const rows = [];
  const { prefill, decode } = which.grid;
  for (let p = prefill[0]; p <= prefill[1]; p++) {
    for (let d = decode[0]; d <= decode[1]; d++) rows.push({ p, d, results: seeds.map((seed) => playStatic(which, { prefill: p, decode: d }, seed)) });
  }
  rows.sort((a, b) => over(b.results, (result) => result.goodputPerGpuHour) - over(a.results, (result) => result.goodputPerGpuHour));
  const own = seeds.map((_, i) => Math.max(...rows.map(({ results }) => results[i].goodputPerGpuHour)));
  log(`best static of ${rows.length}: ${rows[0].p} prefill, ${rows[0].d} decode; ${rows[0].p === prefill[1] || rows[0].d === decode[1] ? 'AT THE EDGE OF THE GRID' : 'inside the grid'}`);
  return { name: `static ${rows[0].p}+${rows[0].d}`, results: rows[0].results, own };
}

export async function run({ options, log }) {
  const seeds = (options.seeds ?? '1,2,3,4,5').split(',').map(Number);
  const names = (options.policies ?? Object.keys(policies).join(',')).split(',');
  const table = [];
  for (const kind of (options.cases ?? Object.keys(cases).join(',')).split(',')) {
    const which = cases[kind];
    const isRandom = which.requests === undefined;
    const used = isRandom ? seeds : seeds.slice(0, 1);
    const best = options.grid === 'false' ? undefined : bestStatic(which, used, log);
    const rows = [...(best === undefined ? [] : [best]), ...names.map((name) => ({ name, results: used.map((seed) => play(which, name, seed)) }))];
    const reference = best === undefined ? NaN : over(best.results, (result) => result.goodputPerGpuHour);
    for (const { name, results } of rows) {
      const goodput = over(results, (result) => result.goodputPerGpuHour);
      const ownBest = best === undefined ? NaN : Math.min(...results.map((result, i) => result.goodputPerGpuHour / best.own[i]));
      const cpu = results[0].cpuMsPerTick === undefined ? '' : `, ${over(results, (result) => result.cpuMsPerTick).toFixed(1)} ms CPU per tick`;
      log(
        `${kind} ${name.padEnd(12)} ${goodput.toFixed(0)} requests in time per GPU-hour, ${(goodput / reference).toFixed(3)} x best static (worst seed against its own best: ${ownBest.toFixed(3)}), ` +
          `${(100 * over(results, (result) => result.violations)).toFixed(2)} % late, ${over(results, (result) => result.gpuHours).toFixed(1)} GPU-hours${cpu}`,
      );
      const row = `${kind}/${name}`;
      table.push({ name: row, value: goodput, unit: 'requests/GPU-h', peer: reference, target: which.aim * reference }, { name: `${row}/late`, value: 100 * over(results, (result) => result.violations), unit: '%' });
    }
  }
  return table;
}
