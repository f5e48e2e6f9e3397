// `node tools/planner/train.mjs [--generations 80] [--population 20] [--seed 1] [--minutes 60]`: trains the network of the `rl` policy in the training ground and writes
// packages/planner/data/rl-weights.json and its learning curve. Policy search by a separable covariance matrix adaptation (sep-CMA-ES: Ros and Hansen 2008):
// no gradient, no library, the same result for the same seed. Every candidate of a generation plays the same episodes.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { SeededRandom } from '../../packages/core/dist/index.js';
import { actions, decodeAction, drawScenario, Encoding, features, FleetGround, groundOf, Network, PlannedGround, priorOf, productionStages, shiftScenario } from '../../packages/planner/dist/index.js';
import { plotCurve } from './plot.mjs';
import { SepCma } from './sep-cma.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const { values } = parseArgs({
  options: {
    generations: { type: 'string', default: '80' },
    population: { type: 'string', default: '24' },
    episodes: { type: 'string', default: '5' },
    hidden: { type: 'string', default: '8' },
    seed: { type: 'string', default: '1' },
    minutes: { type: 'string', default: '60' },
  },
});
const [generations, population, episodes, hidden, minutes] = ['generations', 'population', 'episodes', 'hidden', 'minutes'].map((name) => Number(values[name]));
const EPISODE_MS = 3_600_000;
/** Episodes that no generation is ranked by: they choose among the means of the generations. Seeds below 1,000 are left to the benchmark. */
const VALIDATION = 8;
const random = new SeededRandom(Number(values.seed));

const shape = [features.length, hidden, actions.length];
const dimensions = shape.slice(1).reduce((sum, outputs, i) => sum + outputs * (shape[i] + 1), 0);

function weightsOf(vector) {
  let at = 0;
  const take = (count) => Array.from(vector.slice(at, (at += count)));
  const layers = shape.slice(1).map((outputs, i) => ({ weights: take(outputs * shape[i]), bias: take(outputs) }));
  return { version: 1, inputs: features.map(({ name }) => name), outputs: actions.map(({ name }) => name), layers };
}

/** Reward per request that arrived: between about -5 and 1 less the cost. */
function play(decide, scenario, seed) {
  const ground = new PlannedGround(new FleetGround(groundOf(scenario, { prefill: 3, decode: 6 }), new SeededRandom(seed)), () => productionStages(15_000));
  const encoding = new Encoding({ default: priorOf(scenario) });
  let input = ground.reset(seed);
  for (;;) {
    const encoded = encoding.encode(input);
    const { observation } = input;
    const state = encoded === undefined ? { replicas: {}, lent: [] } : decodeAction(decide(encoded.values), encoded, observation);
    const step = ground.step(state);
    if (step.done) return ground.result();
    input = step.input;
  }
}

const rewardOf = ({ reward, arrived }) => reward / arrived;

function rewardsOf(vector, cases) {
  const network = new Network(weightsOf(vector), features.map(({ name }) => name), actions.map(({ name }) => name));
  return cases.map(({ scenario, seed }) => rewardOf(play((input) => network.run(input), scenario, seed)));
}

const mean = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;

function cases(label, count) {
  const drawn = random.fork(label);
  return Array.from({ length: count }, (_, i) => ({ scenario: i === 0 ? { ...shiftScenario, durationMs: EPISODE_MS } : drawScenario(drawn, EPISODE_MS), seed: 1_000 + drawn.below(1_000_000) }));
}

const validation = cases('validation', VALIDATION);
const start = mean(rewardsOf(new Float64Array(dimensions), validation));
const rule = mean(validation.map(({ scenario, seed }) => rewardOf(play(() => [-0.5, -0.5], scenario, seed))));
console.log(`${dimensions} weights; validation reward per request: untrained (1.41 times what rates need) ${start.toFixed(4)}, exactly what rates need ${rule.toFixed(4)}`);
const search = new SepCma(dimensions, population, 0.2, random);
const curve = [{ generation: 0, episodes: 0, training: NaN, validation: start }];
let kept = { validation: start, vector: new Float64Array(dimensions) };
const untilMs = performance.now() + minutes * 60_000;
for (let generation = 1; generation <= generations && performance.now() < untilMs; generation++) {
  const now = cases(`generation ${generation}`, episodes);
  const rewards = search.ask().map((vector) => mean(rewardsOf(vector, now)));
  search.tell(rewards);
  if (generation % 4 !== 0 && generation !== generations) continue;
  const held = mean(rewardsOf(search.mean, validation));
  if (held > kept.validation) kept = { validation: held, vector: search.mean };
  curve.push({ generation, episodes: generation * population * episodes, training: mean(rewards), validation: held });
  console.log(`generation ${generation}: training ${mean(rewards).toFixed(4)}, validation ${held.toFixed(4)} (best ${kept.validation.toFixed(4)}), sigma ${search.sigma.toFixed(3)}`);
  write();
}

function write() {
  const folder = join(root, 'packages/planner/data');
  mkdirSync(folder, { recursive: true });
  const rounded = kept.vector.map((value) => Math.round(value * 1e5) / 1e5);
  writeFileSync(join(folder, 'rl-weights.json'), `${JSON.stringify(weightsOf(rounded))}\n`);
  const rows = curve.map((row) => [row.generation, row.episodes, row.training.toFixed(4), row.validation.toFixed(4)].join(','));
  writeFileSync(join(folder, 'rl-training.csv'), `generation,episodes,training_reward_per_request,validation_reward_per_request\n${rows.join('\n')}\n`);
  plotCurve(root);
}
