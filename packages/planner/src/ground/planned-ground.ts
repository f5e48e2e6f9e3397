import type { Forecast, PlannedState, PlannerInput, PlannerObservation } from '@armature/contracts';
import { constraintDefaults } from '../constrain/constraints.ts';
import type { ConstraintConfig } from '../constrain/constraints.ts';
import { ProductionStages } from '../constrain/stages.ts';
import { predictorDefaults } from '../predict/forecaster.ts';
import type { EpisodeResult, FleetGround } from './fleet-ground.ts';

const FORECAST_TICKS = 4;

/** What stands before and after a policy in the planner: the same code in the ground as in production. New for each episode. */
export interface PlannerStages {
  forecast(observation: PlannerObservation): Forecast;
  constrain(proposed: PlannedState, input: PlannerInput): PlannedState;
}

export interface PlannedStep {
  readonly input: PlannerInput;
  readonly reward: number;
  readonly done: boolean;
}

/** The fleet with the planner's stages around whoever decides: a policy, an agent that learns, a person. */
export class PlannedGround {
  readonly #ground: FleetGround;
  readonly #newStages: () => PlannerStages;
  #stages: PlannerStages;
  #input: PlannerInput | undefined;

  constructor(ground: FleetGround, newStages: () => PlannerStages) {
    this.#ground = ground;
    this.#newStages = newStages;
    this.#stages = newStages();
    this.#input = undefined;
  }

  reset(seed: number): PlannerInput {
    this.#stages = this.#newStages();
    return this.#look(this.#ground.reset(seed));
  }

  step(proposed: PlannedState): PlannedStep {
    const { observation, reward, done } = this.#ground.step(this.#stages.constrain(proposed, this.#input as PlannerInput));
    return { input: this.#look(observation), reward, done };
  }

  result(): EpisodeResult {
    return this.#ground.result();
  }

  #look(observation: PlannerObservation): PlannerInput {
    const { objective } = this.#ground.options;
    this.#input = { observation, forecast: this.#stages.forecast(observation), objective };
    return this.#input;
  }
}

/** The planner's own stages as an empty `planner:` section gives them, for a ground with such ticks. */
export function productionStages(intervalMs: number, constraints: Partial<ConstraintConfig> = {}): PlannerStages {
  return new ProductionStages({ predictor: predictorDefaults, constraints: { ...constraintDefaults, ...constraints }, intervalMs, horizonMs: FORECAST_TICKS * intervalMs });
}
