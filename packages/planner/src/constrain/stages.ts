import type { Forecast, PlannedState, PlannerInput, PlannerObservation } from '@armature/contracts';
import { Forecaster } from '../predict/forecaster.ts';
import type { PredictorConfig } from '../predict/forecaster.ts';
import { Constraints } from './constraints.ts';
import type { ConstraintConfig } from './constraints.ts';

/** What the planner does before and after its policy, for training grounds: the very same code. New for each episode. */
export class ProductionStages {
  readonly #forecaster: Forecaster;
  readonly #constraints: Constraints;

  constructor(options: { readonly predictor: PredictorConfig; readonly constraints: ConstraintConfig; readonly intervalMs: number; readonly horizonMs: number }) {
    this.#forecaster = new Forecaster(options.predictor, options);
    this.#constraints = new Constraints(options.constraints);
  }

  forecast(observation: PlannerObservation): Forecast {
    return this.#forecaster.forecast(observation);
  }

  constrain(proposed: PlannedState, input: PlannerInput): PlannedState {
    const { state } = this.#constraints.constrain(proposed, input);
    this.#constraints.ordered(state, input.observation);
    return state;
  }
}
