import type { KvOperation } from '@armature/contracts';

/** A batch on its way: waits, runs, ends once. */
export interface DiskOperation {
  /** Once, when its turn has come; `ended` follows, possibly before return. */
  start(ended: () => void): void;
  /** Instead of `start`: it never began. */
  drop(reason: 'cancelled' | 'closed' | 'full'): void;
  /** Of one that runs; `ended` still follows. */
  stop(): void;
}

/** At most so many run, so many more wait; the rest is dropped as `full`. First come, first served. */
export class OperationQueue {
  readonly #maxRunning: number;
  readonly #maxWaiting: number;
  readonly #running = new Set<DiskOperation>();
  readonly #waiting: DiskOperation[] = [];
  #isHeld = false;
  #whenIdle: (() => void)[] = [];

  constructor(maxRunning: number, maxWaiting: number) {
    this.#maxRunning = maxRunning;
    this.#maxWaiting = maxWaiting;
  }

  get isFull(): boolean {
    return this.#waiting.length >= this.#maxWaiting;
  }

  get isIdle(): boolean {
    return this.#running.size === 0 && this.#waiting.length === 0;
  }

  add(operation: DiskOperation): KvOperation {
    if (this.#isHeld || (this.#running.size >= this.#maxRunning && this.isFull)) {
      operation.drop(this.#isHeld ? 'closed' : 'full');
      return ENDED;
    }
    this.#waiting.push(operation);
    this.#pump();
    return { cancel: () => this.#cancel(operation) };
  }

  /** Drops what waits, stops what runs; what comes until `resume` is dropped too. Calls back when nothing runs any more. */
  hold(idle: () => void): void {
    this.#isHeld = true;
    for (const operation of this.#waiting.splice(0)) operation.drop('closed');
    for (const operation of [...this.#running]) operation.stop();
    if (this.#running.size === 0) idle();
    else this.#whenIdle.push(idle);
  }

  resume(): void {
    this.#isHeld = false;
  }

  #pump(): void {
    while (this.#waiting.length > 0 && this.#running.size < this.#maxRunning) {
      const operation = this.#waiting.shift()!;
      this.#running.add(operation);
      operation.start(() => this.#ended(operation));
    }
  }

  #ended(operation: DiskOperation): void {
    this.#running.delete(operation);
    this.#pump();
    if (this.#running.size > 0) return;
    const idle = this.#whenIdle;
    this.#whenIdle = [];
    for (const callback of idle) callback();
  }

  #cancel(operation: DiskOperation): void {
    const at = this.#waiting.indexOf(operation);
    if (at >= 0) {
      this.#waiting.splice(at, 1);
      operation.drop('cancelled');
    } else if (this.#running.has(operation)) operation.stop();
  }
}

const ENDED: KvOperation = { cancel: () => undefined };
