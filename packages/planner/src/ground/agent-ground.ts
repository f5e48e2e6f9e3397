import { ArmatureError } from '@armature/contracts';
import type { PlainData, PlannerInput, Random } from '@armature/contracts';
import { actions, decodeAction, Encoding, features } from '../policies/rl/encoding.ts';
import type { Encoded } from '../policies/rl/encoding.ts';
import { FleetGround } from './fleet-ground.ts';
import type { EpisodeResult } from './fleet-ground.ts';
import { PlannedGround, productionStages } from './planned-ground.ts';
import { drawScenario, groundOf, priorOf, shiftScenario } from './scenarios.ts';
import type { Scenario } from './scenarios.ts';

export interface AgentGroundOptions {
  /** `shift`: always the fleet of the planner's claims. `drawn`: another fleet and traffic in each episode, by its seed. */
  readonly scenarios: 'shift' | 'drawn';
  readonly durationMs: number;
}

export interface AgentStep {
  readonly observation: Float64Array;
  /** Requests within the objective less what was late and what it cost, by `requestsPerTick`: about -5 to 1. */
  readonly reward: number;
  /** Fleets do not end by themselves: an episode is cut off when its time is up. */
  readonly truncated: boolean;
  readonly info: { readonly [key: string]: PlainData };
}

const [INITIAL, TICK_MS] = [{ prefill: 3, decode: 6 }, 15_000];

/** The training ground as an agent sees it: numbers in, numbers out, in the order of `features` and `actions`. */
export class AgentGround {
  readonly #options: AgentGroundOptions;
  readonly #random: Random;
  #ground: PlannedGround | undefined;
  #encoding: Encoding;
  #input: PlannerInput | undefined;
  #encoded: Encoded | undefined;
  /** Requests of a busy tick: rewards are told in them, so that fleets of any size teach alike. */
  #requestsPerTick: number;

  constructor(options: AgentGroundOptions, random: Random) {
    this.#options = options;
    this.#random = random;
    this.#ground = undefined;
    this.#encoding = new Encoding({});
    this.#input = undefined;
    this.#encoded = undefined;
    this.#requestsPerTick = 1;
  }

  /** The first observation; all zero where nothing was seen yet. */
  reset(seed: number): Float64Array {
    const { scenarios, durationMs } = this.#options;
    const scenario: Scenario = scenarios === 'drawn' ? drawScenario(this.#random.fork(`scenario ${seed}`), durationMs) : { ...shiftScenario, durationMs };
    this.#requestsPerTick = (scenario.requestsPerSecond * TICK_MS) / 1000;
    this.#ground = new PlannedGround(new FleetGround(groundOf(scenario, INITIAL), this.#random), () => productionStages(TICK_MS));
    this.#encoding = new Encoding({ default: priorOf(scenario) });
    return this.#look(this.#ground.reset(seed));
  }

  /** One tick under this action. Throws `PLANNER_GROUND_INVALID` before the first `reset` and for an action that is none. */
  step(action: ArrayLike<number>): AgentStep {
    const [ground, input] = [this.#ground, this.#input];
    if (ground === undefined || input === undefined) throw new ArmatureError('PLANNER_GROUND_INVALID', 'an episode begins with a reset', { hint: 'call reset with a seed first' });
    if (action.length !== actions.length || !Array.from(action).every((value) => Number.isFinite(value))) {
      throw new ArmatureError('PLANNER_GROUND_INVALID', `an action is ${actions.length} finite numbers; got ${Array.from(action).join(', ')}`, { hint: actions.map(({ name }) => name).join(', ') });
    }
    const state = this.#encoded === undefined ? { replicas: {}, lent: [] } : decodeAction(action, this.#encoded, input.observation);
    const step = ground.step(state);
    const { traffic, pools } = step.input.observation;
    const info: AgentStep['info'] = { replicas: Object.fromEntries(pools.map(({ pool, desired }) => [pool, desired])), attainment: Number.isFinite(traffic.attainment) ? traffic.attainment : null };
    return { observation: this.#look(step.input), reward: step.reward / this.#requestsPerTick, truncated: step.done, info: step.done ? { ...info, episode: { ...(ground.result() satisfies EpisodeResult) } } : info };
  }

  #look(input: PlannerInput): Float64Array {
    this.#input = input;
    this.#encoded = this.#encoding.encode(input);
    return this.#encoded?.values ?? new Float64Array(features.length);
  }
}
