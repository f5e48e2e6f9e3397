import { Checkpoint } from './checkpoint/checkpoint.ts';
import { ForwardPass } from './forward.ts';
import { kernelsFor } from './kernels.ts';
import type { Kernels, SharedMemory } from './kernels.ts';
import type { MemoryPlan } from './memory-plan.ts';
import { loadWeights } from './weights.ts';

/** A model ready to compute in this thread, over a memory that another thread may have made. */
export class LoadedModel {
  readonly plan: MemoryPlan;
  readonly memory: SharedMemory;
  /** Of rank 0: what needs no heads is the same in all. */
  readonly kernels: Kernels;
  readonly forward: ForwardPass;
  readonly fingerprint: string;

  constructor(folder: string, plan: MemoryPlan, memory: SharedMemory) {
    this.plan = plan;
    this.memory = memory;
    this.fingerprint = loadWeights(Checkpoint.open(folder), plan, memory.buffer);
    const kernels = kernelsFor(plan, memory);
    this.kernels = kernels[0]!;
    this.forward = new ForwardPass(plan, kernels, memory);
  }
}
