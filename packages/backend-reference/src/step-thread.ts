import { ArmatureError } from '@armature/contracts';
import type { Kernels } from './kernels.ts';
import { LoadedModel } from './loaded-model.ts';
import { Sampler } from './sampling/sampler.ts';
import type { VocabularyMath } from './sampling/sampler.ts';
import { StepColumns } from './step-columns.ts';
import type { SamplingSetup } from '@armature/engine-core';
import type { ThreadData } from './thread-protocol.ts';

/** Arrays given to these are views on the kernels' memory, so their byte offset is their address. */
export function kernelVocabulary(kernels: Kernels): VocabularyMath {
  return {
    argmax: (values) => kernels.argmax(values.byteOffset, values.length),
    sumExponentials: (values, highest) => kernels.sumExponentials(values.byteOffset, values.length, highest),
    exponentials: (values, out) => kernels.exponentials(values.byteOffset, values.length, 0, out.byteOffset),
  };
}

/** The thread's side of a runner: forward pass and sampling, one step at a time. */
export class StepThread {
  readonly fingerprint: string;
  readonly #model: LoadedModel;
  readonly #sampler: Sampler;
  readonly #words: Int32Array;
  readonly #logits: readonly Float32Array[];

  constructor(data: ThreadData) {
    const { plan, memory, folder } = data;
    const { scratch, shape, limits } = plan;
    const model = new LoadedModel(folder, plan, memory);
    const vocabulary = (address: number): Float32Array => new Float32Array(memory.buffer, address, shape.vocabSize);
    this.#model = model;
    this.fingerprint = model.fingerprint;
    this.#sampler = new Sampler({
      math: kernelVocabulary(model.kernels),
      adjusted: vocabulary(scratch.adjusted),
      weights: vocabulary(scratch.weights),
      result: new StepColumns(plan, memory.buffer).result,
    });
    this.#words = new Int32Array(memory.buffer);
    this.#logits = Array.from({ length: limits.maxSequences }, (_, row) => vocabulary(model.forward.logitsRow(row)));
  }

  open(setup: SamplingSetup): void {
    this.#sampler.open(setup);
  }

  close(slot: number): void {
    this.#sampler.close(slot);
  }

  /** Computes the step in the columns and fills its result. */
  step(): void {
    const { columns } = this.#model.plan;
    const words = this.#words;
    this.#model.forward.run();
    const sequences = words[columns.header / 4]!;
    let row = 0;
    for (let i = 0; i < sequences; i++) {
      if (words[columns.samples / 4 + i] === 0) continue;
      const slot = words[columns.slots / 4 + i]!;
      if (!this.#sampler.sample(slot, this.#logits[row++]!, words[columns.outputIndexes / 4 + i]!, i)) {
        throw new ArmatureError('ENGINE_STEP_INVALID', `sequence ${i} samples in slot ${slot}, which is not open`, { hint: 'call openSequence before the first step that samples' });
      }
    }
  }
}
