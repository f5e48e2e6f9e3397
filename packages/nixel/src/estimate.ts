/** Running estimate of latency and bandwidth of one path, from finished transfers. */
export class PathEstimate {
  #latencyMicros: number;
  #bytesPerMicro: number;

  constructor(latencyMicros: number, bytesPerMicro: number) {
    this.#latencyMicros = latencyMicros;
    this.#bytesPerMicro = bytesPerMicro;
  }

  /** Small transfers tell latency, large ones bandwidth; weight 1/8 each. */
  observe(bytes: number, micros: number): void {
    if (!(micros > 0)) return;
    if (bytes < 64 << 10) this.#latencyMicros += (micros - this.#latencyMicros) / 8;
    else {
      const rest = Math.max(micros - this.#latencyMicros, micros / 8);
      this.#bytesPerMicro += (bytes / rest - this.#bytesPerMicro) / 8;
    }
  }

  /** `perPieceMicros`: fixed cost of each scattered piece. */
  micros(bytes: number, count: number, perPieceMicros: number): number {
    return this.#latencyMicros + bytes / this.#bytesPerMicro + count * perPieceMicros;
  }
}
