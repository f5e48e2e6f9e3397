import { CudaResult } from './binding.ts';
import type { CompiledCopies } from './copies.ts';

/** Copies on their way through a lane. */
export class LaneJob {
  readonly copies: CompiledCopies;
  /** Before each chunk: false when nothing more of it may begin. */
  readonly mayBegin: () => boolean;
  /** Once, when nothing of it is on the stream any more and nothing more will be. */
  readonly settled: (result: number) => void;
  next: number;
  fences: number;
  result: number;
  isStopped: boolean;

  constructor(copies: CompiledCopies, mayBegin: () => boolean, settled: (result: number) => void) {
    this.copies = copies;
    this.mayBegin = mayBegin;
    this.settled = settled;
    this.next = 0;
    this.fences = 0;
    this.result = CudaResult.Success;
    this.isStopped = false;
  }
}
