import type { Clock, KvMemory } from '@armature/contracts';

/** 64-bit checksums of blocks' content, bound to their sequence hashes and to the layout, whatever memory they lie in (`BlockVerifier`). */
export interface BlockChecksums {
  checksums(memory: KvMemory, blocks: Int32Array, count: number, hashes: Int32Array, out: Int32Array): void;
}

interface Task {
  readonly memory: KvMemory;
  readonly blocks: Int32Array;
  readonly hashes: Int32Array;
  readonly out: Int32Array;
  readonly done: () => void;
  row: number;
}

/**
 * Checksums of many blocks, at most `turnBytes` of them in one turn of the event loop over all tasks together (always at least one block). Those that a request
 * waits for go first. What fits in the rest of the turn is done before return.
 */
export class TurnChecks {
  readonly #clock: Clock;
  readonly #checksums: BlockChecksums;
  /** Blocks of one turn. */
  readonly #turnBlocks: number;
  readonly #urgent: Task[] = [];
  readonly #background: Task[] = [];
  #left: number;
  #isDeferred = false;
  #isRunning = false;

  constructor(clock: Clock, checksums: BlockChecksums, blockBytes: number, turnBytes = 1 << 20) {
    this.#clock = clock;
    this.#checksums = checksums;
    this.#turnBlocks = Math.max(1, Math.floor(turnBytes / blockBytes));
    this.#left = this.#turnBlocks;
  }

  /** Writes the checksums of `blocks`, whose sequence hashes are `hashes`, to `out`. The blocks stay pinned by the caller, the columns untouched, until `done`. */
  compute(memory: KvMemory, blocks: Int32Array, hashes: Int32Array, out: Int32Array, urgency: 'request' | 'background', done: () => void): void {
    (urgency === 'request' ? this.#urgent : this.#background).push({ memory, blocks, hashes, out, done, row: 0 });
    this.#run();
  }

  /** `done` may add tasks: they wait for this loop, so that their order holds and the stack stays flat. */
  #run(): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    while (this.#left > 0) {
      const queue = this.#urgent.length > 0 ? this.#urgent : this.#background;
      if (queue.length === 0) break;
      const task = queue[0];
      this.#advance(task);
      if (task.row < task.blocks.length) break;
      queue.shift();
      task.done();
    }
    this.#isRunning = false;
  }

  #advance(task: Task): void {
    const { memory, blocks, hashes, out, row } = task;
    const count = Math.min(blocks.length - row, this.#left);
    this.#checksums.checksums(memory, blocks.subarray(row), count, hashes.subarray(2 * row), out.subarray(2 * row));
    task.row += count;
    this.#left -= count;
    if (this.#isDeferred) return;
    this.#isDeferred = true;
    this.#clock.defer(() => {
      this.#isDeferred = false;
      this.#left = this.#turnBlocks;
      this.#run();
    });
  }
}
