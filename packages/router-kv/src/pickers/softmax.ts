import type { Candidates, Random, RouterPicker, RoutingRequest } from '@armature/contracts';
import { pickLowest, pickSoftmax } from '../pick.ts';

/** Temperature 0: the lowest cost, ties uniformly at random. Above: softmax over costs normalised to [0, 1] (Dynamo 1.6.1). */
export class SoftmaxPicker implements RouterPicker {
  readonly name = 'softmax';
  readonly #temperature: number;
  readonly #random: Random;
  #weights: Float64Array;

  constructor(temperature: number, random: Random) {
    this.#temperature = temperature;
    this.#random = random;
    this.#weights = new Float64Array(64);
  }

  pick(request: RoutingRequest, candidates: Candidates, costs: Float64Array): number {
    const temperature = Number.isNaN(request.temperature) ? this.#temperature : request.temperature;
    if (!(temperature > 0)) return pickLowest(costs, candidates.count, this.#random);
    if (this.#weights.length < candidates.count) this.#weights = new Float64Array(candidates.count * 2);
    return pickSoftmax(costs, candidates.count, temperature, this.#random, this.#weights);
  }
}
