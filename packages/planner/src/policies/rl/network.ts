import { ArmatureError } from '@armature/contracts';

/** A layer: `bias.length` outputs; `weights` row by row, one row of inputs per output. */
export interface LayerWeights {
  readonly weights: readonly number[];
  readonly bias: readonly number[];
}

/** What `data/rl-weights.json` holds. */
export interface NetworkWeights {
  readonly version: 1;
  /** Names of the inputs and outputs, in order: a network is refused where they are not ours. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly layers: readonly LayerWeights[];
}

/** A small feed-forward network, tanh after each layer: outputs lie within -1 and 1. Allocates nothing per call. */
export class Network {
  readonly #layers: readonly { readonly weights: Float64Array; readonly bias: Float64Array; readonly out: Float64Array }[];

  /** Throws `PLANNER_WEIGHTS_INVALID`. */
  constructor(file: NetworkWeights, inputs: readonly string[], outputs: readonly string[]) {
    const refuse = (what: string): never => {
      throw new ArmatureError('PLANNER_WEIGHTS_INVALID', `the network's weights do not fit: ${what}`, { hint: 'train again with this version (tools/planner/train.mjs), or leave `weights` out for those that come with it' });
    };
    if (file?.version !== 1 || !Array.isArray(file.layers) || file.layers.length === 0) refuse('no weights of version 1');
    if (String(file.inputs) !== String(inputs)) refuse(`it sees ${String(file.inputs)}; this version shows ${inputs.join(',')}`);
    if (String(file.outputs) !== String(outputs)) refuse(`it says ${String(file.outputs)}; this version understands ${outputs.join(',')}`);
    let width = inputs.length;
    this.#layers = file.layers.map(({ weights, bias }, i) => {
      if (weights.length !== width * bias.length) refuse(`layer ${i} has ${weights.length} weights for ${width} inputs and ${bias.length} outputs`);
      if (![...weights, ...bias].every((value) => Number.isFinite(value))) refuse(`layer ${i} has a weight that is no number`);
      width = bias.length;
      return { weights: Float64Array.from(weights), bias: Float64Array.from(bias), out: new Float64Array(bias.length) };
    });
    if (width !== outputs.length) refuse(`${width} outputs instead of ${outputs.length}`);
  }

  /** The result is valid until the next call. */
  run(input: Float64Array): Float64Array {
    let values = input;
    for (const { weights, bias, out } of this.#layers) {
      for (let row = 0; row < out.length; row++) {
        let sum = bias[row];
        for (let i = 0; i < values.length; i++) sum += weights[row * values.length + i] * values[i];
        out[row] = Math.tanh(sum);
      }
      values = out;
    }
    return values;
  }
}
