import { ArmatureError } from '@armature/contracts';
import type { Random } from '@armature/contracts';
import { actions, features } from '../policies/rl/encoding.ts';
import { AgentGround } from './agent-ground.ts';
import type { AgentGroundOptions } from './agent-ground.ts';

/** Of the protocol: grows when a message changes so that an older client would misread it. */
export const groundProtocol = 1;
const MOST_ENVIRONMENTS = 1_024;

/**
 * Training grounds behind lines of JSON: one request per line, one answer per line, in order. Requests: `{"op":"hello"}`, `{"op":"make","count":8,"scenarios":"shift",
 * "hours":2}`, `{"op":"reset","env":0,"seed":7}`, `{"op":"step","actions":[[a,b],null,…]}` (one per environment; null leaves it as it is). A request that
 * cannot be answered gets `{"error":{"code","message","hint"}}`; the grounds stay as they are.
 */
export class GroundServer {
  readonly #random: Random;
  #grounds: AgentGround[];

  constructor(random: Random) {
    this.#random = random;
    this.#grounds = [];
  }

  /** One line to one line. Never throws. */
  answer(line: string): string {
    try {
      return JSON.stringify(this.#handle(JSON.parse(line) as Record<string, unknown>));
    } catch (error) {
      const { code, message, hint } = ArmatureError.from(error, 'PLANNER_GROUND_INVALID');
      return JSON.stringify({ error: { code, message, hint } });
    }
  }

  #handle(request: Record<string, unknown>): unknown {
    switch (request?.['op']) {
      case 'hello':
        return { protocol: groundProtocol, observation: features, action: actions };
      case 'make':
        return this.#make(request);
      case 'reset':
        return { observation: [...this.#ground(request['env']).reset(integer(request['seed'], 'seed', 0, Number.MAX_SAFE_INTEGER))] };
      case 'step':
        return this.#step(request['actions']);
      default:
        throw invalid(`unknown op ${JSON.stringify(request?.['op'])}`, 'hello, make, reset or step');
    }
  }

  #make({ count = 1, scenarios = 'shift', hours = 2 }: Record<string, unknown>): unknown {
    if (scenarios !== 'shift' && scenarios !== 'drawn') throw invalid(`unknown scenarios ${JSON.stringify(scenarios)}`, 'shift or drawn');
    if (typeof hours !== 'number' || !(hours > 0 && hours <= 168)) throw invalid(`hours must be a number above 0, at most 168; got ${JSON.stringify(hours)}`, 'hours of an episode');
    const options: AgentGroundOptions = { scenarios, durationMs: hours * 3_600_000 };
    this.#grounds = Array.from({ length: integer(count, 'count', 1, MOST_ENVIRONMENTS) }, () => new AgentGround(options, this.#random));
    return { count: this.#grounds.length };
  }

  #step(given: unknown): unknown {
    if (!Array.isArray(given) || given.length !== this.#grounds.length) throw invalid(`actions must be a list with one entry per environment (${this.#grounds.length})`, 'null leaves an environment as it is');
    return {
      steps: given.map((action: unknown, i) => {
        if (action === null) return null;
        if (!Array.isArray(action)) throw invalid(`the action of environment ${i} is no list`, 'a list of numbers, or null');
        const { observation, reward, truncated, info } = this.#grounds[i].step(action as number[]);
        return { observation: [...observation], reward, truncated, info };
      }),
    };
  }

  #ground(env: unknown): AgentGround {
    return this.#grounds[integer(env, 'env', 0, this.#grounds.length - 1)];
  }
}

function integer(value: unknown, name: string, low: number, high: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= low && value <= high) return value;
  throw invalid(`${name} must be an integer between ${low} and ${high}; got ${JSON.stringify(value)}`, 'make comes before reset and step');
}

function invalid(message: string, hint: string): ArmatureError {
  return new ArmatureError('PLANNER_GROUND_INVALID', message, { hint });
}
