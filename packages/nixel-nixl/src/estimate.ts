/** Running estimate of one link: fixed cost and bandwidth, from finished transfers. Starts as a fast fabric, so that it is tried and measured. */
export class LinkEstimate {
  #latencyMicros = 10;
  #bytesPerMicro = 10_000;

  /** Small transfers tell the fixed cost, large ones the bandwidth. Weight 1/8 each. */
  observe(bytes: number, micros: number): void {
    if (!(micros > 0)) return;
    if (bytes < 64 << 10) this.#latencyMicros += (micros - this.#latencyMicros) / 8;
    else {
      const rest = Math.max(micros - this.#latencyMicros, micros / 8);
      // Averages time per byte: one slow transfer must not hide behind a fast start.
      const perByte = 1 / this.#bytesPerMicro;
      this.#bytesPerMicro = 1 / (perByte + (rest / bytes - perByte) / 8);
    }
  }

  micros(bytes: number, count: number): number {
    return this.#latencyMicros + bytes / this.#bytesPerMicro + count * 0.1;
  }
}
