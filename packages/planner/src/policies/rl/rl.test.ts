import { describe, expect, it } from 'vitest';
import { FleetGround } from '../../ground/fleet-ground.ts';
import { PlannedGround, productionStages } from '../../ground/planned-ground.ts';
import { groundOf, priorOf, shiftScenario } from '../../ground/scenarios.ts';
import { inputSeen, poolSeen } from '../../observations.test.support.ts';
import { testRandom } from '../../random.test.support.ts';
import { actions, decodeAction, Encoding, features } from './encoding.ts';
import type { Encoded } from './encoding.ts';
import { Network } from './network.ts';
import type { NetworkWeights } from './network.ts';
import { shippedWeights } from './plugin.ts';
import { RlPolicy } from './rl-policy.ts';

const names = (list: readonly { readonly name: string }[]): string[] => list.map(({ name }) => name);

describe('Encoding', () => {
  it('shows finite numbers within its bounds whatever is missing, infinite or empty', () => {
    const seed = Math.floor(Math.random() * 1e9);
    console.log(`encoding seed ${seed}`);
    const random = testRandom(seed);
    const odd = (): number => [NaN, Infinity, 0, 1, 1e12, 3.5, 200][random.below(7)];
    let encoded = 0;
    for (let round = 0; round < 500; round++) {
      const pools = (['prefill', 'decode'] as const).map((role) => poolSeen(role, { ready: random.below(3), desired: random.below(3), starting: random.below(3), lent: random.below(2), prefillTokens: odd(), usedBlocks: odd(), totalBlocks: [0, 100][random.below(2)] }));
      const input = inputSeen(random.next() < 0.2 ? pools.slice(1) : pools, { traffic: { ttftMs: odd(), itlMs: odd(), attainment: odd(), requestsPerSecond: [0, 2, 50][random.below(3)] } });
      const values = new Encoding({}).encode(input)?.values;
      if (values === undefined) continue;
      encoded++;
      expect(values).toHaveLength(features.length);
      for (const [i, value] of values.entries()) {
        expect(value, features[i].name).toBeGreaterThanOrEqual(features[i].low);
        expect(value, features[i].name).toBeLessThanOrEqual(features[i].high);
      }
    }
    expect(encoded).toBeGreaterThan(100);
  });

  it('says nothing while the traffic is unknown', () => {
    const unknown = { mean: NaN, low: NaN, high: NaN };
    expect(new Encoding({}).encode(inputSeen([poolSeen('prefill'), poolSeen('decode')], { forecast: { outputTokens: unknown } }))).toBeUndefined();
  });
});

describe('decodeAction', () => {
  const encode = (pools: Parameters<typeof inputSeen>[0], rate: number): { encoded: Encoded; observation: ReturnType<typeof inputSeen>['observation'] } => {
    const input = inputSeen(pools, { traffic: { requestsPerSecond: rate } });
    return { encoded: new Encoding({}).encode(input) as Encoded, observation: input.observation };
  };

  it('orders more for more head room, within the limits of the pools', () => {
    const { encoded, observation } = encode([poolSeen('prefill', { roleChange: 'none' }), poolSeen('decode', { roleChange: 'none', maxReplicas: 5 })], 40);
    let before = 0;
    for (const headroom of [-1, -0.5, 0, 0.5, 1, 7]) {
      const { replicas, lent } = decodeAction([headroom, headroom], encoded, observation);
      expect(replicas['prefill']).toBeGreaterThanOrEqual(before);
      expect(replicas['decode']).toBeLessThanOrEqual(5);
      expect(lent).toEqual([]);
      before = replicas['prefill'];
    }
    expect(before).toBeGreaterThan(1);
  });

  it('lends what a side has too many of, where the engine can, and leaves its minimum', () => {
    const { encoded, observation } = encode([poolSeen('prefill', { desired: 8, ready: 8, minReplicas: 2 }), poolSeen('decode', { desired: 1, ready: 1 })], 40);
    const { replicas, lent } = decodeAction([-1, 1], encoded, observation);
    const workers = lent.reduce((sum, entry) => sum + entry.workers, 0);
    expect(workers).toBeGreaterThan(0);
    expect(replicas['prefill'] - workers).toBeGreaterThanOrEqual(2);
    const still = encode([poolSeen('prefill', { desired: 8, ready: 8, roleChange: 'restart' }), poolSeen('decode', { desired: 1, ready: 1 })], 40);
    expect(decodeAction([-1, 1], still.encoded, still.observation).lent).toEqual([]);
  });

  it('gives the work of a side to its cheapest pool first', () => {
    const { encoded, observation } = encode([poolSeen('prefill'), poolSeen('decode', { pool: 'dear', costPerHour: 4 }), poolSeen('decode', { pool: 'cheap' })], 60);
    const { replicas } = decodeAction([0, 0.5], encoded, observation);
    expect(replicas['dear']).toBe(1);
    expect(replicas['cheap']).toBeGreaterThan(1);
  });
});

describe('Network', () => {
  const random = testRandom(3);
  const file: NetworkWeights = {
    version: 1,
    inputs: ['a', 'b', 'c'],
    outputs: ['y', 'z'],
    layers: [
      { weights: Array.from({ length: 12 }, () => random.next() - 0.5), bias: [0.1, 0.2, 0.3, 0.4] },
      { weights: Array.from({ length: 8 }, () => random.next() - 0.5), bias: [0, 0.5] },
    ],
  };

  it('is a chain of tanh(Wx + b)', () => {
    let expected = [0.5, -1, 2];
    for (const { weights, bias } of file.layers) expected = bias.map((b, row) => Math.tanh(expected.reduce((sum, x, i) => sum + x * weights[row * expected.length + i], b)));
    expect([...new Network(file, file.inputs, file.outputs).run(Float64Array.of(0.5, -1, 2))]).toEqual(expected.map((value) => expect.closeTo(value, 12) as number));
  });

  it.each<[string, (weights: NetworkWeights) => unknown]>([
    ['other inputs', (weights) => ({ ...weights, inputs: ['a', 'c', 'b'] })],
    ['other outputs', (weights) => ({ ...weights, outputs: ['y'] })],
    ['a weight too few', (weights) => ({ ...weights, layers: [{ ...weights.layers[0], weights: weights.layers[0].weights.slice(1) }, weights.layers[1]] })],
    ['a weight that is no number', (weights) => ({ ...weights, layers: [{ ...weights.layers[0], bias: [NaN, 0, 0, 0] }, weights.layers[1]] })],
    ['a layer too few', (weights) => ({ ...weights, layers: weights.layers.slice(0, 1) })],
    ['another version', (weights) => ({ ...weights, version: 2 })],
  ])('refuses %s', (_, broken) => {
    expect(() => new Network(broken(file) as NetworkWeights, file.inputs, file.outputs)).toThrow(expect.objectContaining({ code: 'PLANNER_WEIGHTS_INVALID' }));
  });
});

describe('RlPolicy', () => {
  const scenario = { ...shiftScenario, durationMs: 2_700_000 };
  const play = (weights: NetworkWeights, replicas: { prefill: number; decode: number }): { goodputPerGpuHour: number; violations: number; moves: number } => {
    const ground = new PlannedGround(new FleetGround(groundOf(scenario, replicas), testRandom(9)), () => productionStages(15_000));
    const policy = new RlPolicy({ hardware: { default: priorOf(scenario) } }, weights);
    let input = ground.reset(77);
    let moves = 0;
    for (;;) {
      const proposal = policy.propose(input);
      if (proposal.action !== 'hold') moves++;
      const step = ground.step(proposal.state);
      if (step.done) return { ...ground.result(), moves };
      input = step.input;
    }
  };

  it('serves more within the objective per GPU-hour than the fleet it began with, by moves; with turned signs it does worse', () => {
    const fixed = new FleetGround(groundOf(scenario, { prefill: 3, decode: 11 }), testRandom(9));
    fixed.reset(77);
    while (!fixed.step({ replicas: {}, lent: [] }).done);
    const weights = shippedWeights();
    const trained = play(weights, { prefill: 3, decode: 11 });
    expect(trained.moves).toBeGreaterThan(5);
    expect(trained.goodputPerGpuHour).toBeGreaterThan(fixed.result().goodputPerGpuHour);
    const last = weights.layers.length - 1;
    const turned = weights.layers.map((layer, i) => (i === last ? { weights: layer.weights.map((value) => -value), bias: layer.bias.map((value) => -value) } : layer));
    expect(play({ ...weights, layers: turned }, { prefill: 3, decode: 11 }).goodputPerGpuHour).toBeLessThan(trained.goodputPerGpuHour);
  });

  it('holds, and says so, while nothing is known', () => {
    const policy = new RlPolicy({ hardware: {} }, shippedWeights());
    const unknown = { mean: NaN, low: NaN, high: NaN };
    const proposal = policy.propose(inputSeen([poolSeen('prefill'), poolSeen('decode')], { forecast: { requestsPerSecond: unknown } }));
    expect(proposal).toMatchObject({ action: 'hold_insufficient_data', state: { replicas: { prefill: 2, decode: 2 } } });
  });

  it('says how much room it leaves, and what it reacted to', () => {
    const { reason, outcome } = new RlPolicy({ hardware: {} }, shippedWeights()).propose(inputSeen([poolSeen('prefill'), poolSeen('decode')]));
    expect(reason).toMatch(/prefill for \d\.\d\d×.*decode for \d\.\d\d×.*requests\/s; saw /);
    expect(outcome.gpus).toBeGreaterThan(0);
    expect(names(actions)).toEqual(['prefill_headroom', 'decode_headroom']);
  });
});
