import type { Clock } from '@armature/contracts';

/** One way between two places. */
export interface LinkModel {
  readonly latencyMs: number;
  /** Of 10^9 bytes; Infinity: size does not matter. */
  readonly gigabytesPerSecond: number;
}

export const freeLink: LinkModel = { latencyMs: 0, gigabytesPerSecond: Infinity };

/** One direction of a link: messages one after the other at its bandwidth, each arriving its latency later; order is kept. */
export class Wire {
  readonly #clock: Clock;
  readonly #latencyMs: number;
  readonly #msPerByte: number;
  #freeAtMs = 0;

  constructor(clock: Clock, { latencyMs, gigabytesPerSecond }: LinkModel) {
    this.#clock = clock;
    this.#latencyMs = latencyMs;
    this.#msPerByte = Number.isFinite(gigabytesPerSecond) ? 1 / (gigabytesPerSecond * 1e6) : 0;
  }

  /** Milliseconds from now until the last of `bytes` has arrived. */
  takes(bytes: number): number {
    const nowMs = this.#clock.nowMs();
    this.#freeAtMs = Math.max(nowMs, this.#freeAtMs) + bytes * this.#msPerByte;
    return this.#freeAtMs - nowMs + this.#latencyMs;
  }
}

/** Bytes of a message on the wire, near enough: columns as they are, the rest by the field. */
export function messageBytes(message: { readonly [key: string]: unknown }): number {
  let bytes = 64;
  for (const key in message) {
    const value = message[key];
    if (ArrayBuffer.isView(value)) bytes += value.byteLength;
    else if (typeof value === 'string') bytes += value.length;
    else bytes += 16;
  }
  return bytes;
}
