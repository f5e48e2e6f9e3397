/** Of one endpoint, for tests, benchmarks and logs; only grow. */
export class CudaCounters {
  /** Copies given to the driver. */
  copies = 0;
  bytes = 0;
  /** Calls of cuMemcpyBatchAsync. */
  batches = 0;
  /** Copies given one by one. */
  singles = 0;
  /** Turns in which copies were given to the driver. */
  turns = 0;
  /** Looks at events that were not ready yet. */
  waits = 0;
  /** Bytes between the GPU and host memory that is not pinned: staged by the driver, some of it on this thread. */
  stagedBytes = 0;
  /** Host segments that could not be pinned. */
  pinRefusals = 0;
  /** By name of the CUresult. */
  readonly errors = new Map<string, number>();

  failed(name: string): void {
    this.errors.set(name, (this.errors.get(name) ?? 0) + 1);
  }
}
