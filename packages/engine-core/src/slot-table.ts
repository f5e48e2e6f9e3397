/** Numbers 0 .. count-1, handed out and taken back. */
export class SlotTable {
  readonly #free: number[];

  constructor(count: number) {
    this.#free = Array.from({ length: count }, (_, i) => count - 1 - i);
  }

  /** Never fails: the scheduler runs no more sequences than there are slots, and preempted ones give theirs back. */
  take(): number {
    return this.#free.pop() ?? -1;
  }

  free(slot: number): void {
    this.#free.push(slot);
  }
}
