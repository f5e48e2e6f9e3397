import type { Forecast, Interval, PlannedState, PlannerInput, PlannerObservation } from '@armature/contracts';
import type { PlannerStages } from './planned-ground.ts';

const [RATE_GAIN, RATE_JUMP, LENGTH_GAIN, MOST_OUTPUT, DOUBT, HOLD_TICKS] = [0.3, 0.4, 0.4, 8_192, 0.15, 6];

export class GroundStages implements PlannerStages {
  #rate = NaN;
  #output = NaN;
  #prompt = NaN;
  #hit = NaN;
  readonly #proposed: PlannedState[] = [];

  forecast({ traffic, intervalMs }: PlannerObservation): Forecast {
    const { requestsPerSecond, promptTokens, outputTokens, hitRate } = traffic;
    this.#rate = level(this.#rate, requestsPerSecond);
    if (Number.isFinite(outputTokens)) {
      const seen = Math.log(Math.min(MOST_OUTPUT, Math.max(1, outputTokens)));
      this.#output = Number.isNaN(this.#output) ? Math.exp(seen) : Math.exp(Math.log(this.#output) + LENGTH_GAIN * (seen - Math.log(this.#output)));
    }
    this.#prompt = level(this.#prompt, promptTokens);
    this.#hit = level(this.#hit, hitRate);
    const around = (mean: number): Interval => ({ mean, low: mean * (1 - DOUBT), high: mean * (1 + DOUBT) });
    return { horizonMs: 4 * intervalMs, requestsPerSecond: around(this.#rate), promptTokens: around(this.#prompt), outputTokens: around(this.#output), hitRate: around(this.#hit) };
  }

  constrain(state: PlannedState, { observation }: PlannerInput): PlannedState {
    this.#proposed.push(state);
    if (this.#proposed.length > HOLD_TICKS) this.#proposed.shift();
    const replicas = Object.fromEntries(
      observation.pools.map(({ pool, desired }) => {
        const wanted = state.replicas[pool] ?? desired;
        const recent = Math.max(...this.#proposed.map((proposal) => proposal.replicas[pool] ?? desired));
        return [pool, Math.max(wanted, Math.min(desired, recent))];
      }),
    );
    return { ...state, replicas };
  }
}

/** Follows slowly, and at once where what is seen is far off. */
function level(before: number, seen: number): number {
  if (!Number.isFinite(seen)) return before;
  const isJump = !(Math.abs(seen - before) <= RATE_JUMP * before);
  return isJump ? seen : before + RATE_GAIN * (seen - before);
}
