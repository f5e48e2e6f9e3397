import { libc, libcMissing, mapPeerMemory } from '@armature/nixel/native';

/**
 * The limit: one libc memcpy per block, same blocks, same order, on one thread. With `remote` on the memory of the target process itself; otherwise on
 * a second private buffer of this process (no process can copy faster than that).
 */
export class CopyLimit {
  readonly isSameMemory: boolean;
  readonly #local: number;
  readonly #remote: number;
  /** Kept reachable: addresses do not keep memory alive. */
  readonly #held: unknown;

  private constructor(local: number, remote: number, held: unknown, isSameMemory: boolean) {
    this.#local = local;
    this.#remote = remote;
    this.#held = held;
    this.isSameMemory = isSameMemory;
  }

  /** Undefined where memcpy cannot be called. */
  static open(local: Uint8Array, remote: { readonly pid: number; readonly fd: number } | undefined): CopyLimit | undefined {
    if (libcMissing() !== undefined) return undefined;
    const { addressOf } = libc();
    if (remote !== undefined) {
      const mapping = mapPeerMemory(remote.pid, remote.fd, local.length, true);
      return new CopyLimit(addressOf(local), mapping.address, [local, mapping], true);
    }
    const other = new Uint8Array(local.length).fill(3);
    return new CopyLimit(addressOf(local), addressOf(other), [local, other], false);
  }

  /** Seconds for one batch. */
  run(direction: 'read' | 'write', blockBytes: number, localBlocks: Int32Array, remoteBlocks: Int32Array): number {
    const { memcpy } = libc();
    const started = process.hrtime.bigint();
    for (let i = 0; i < localBlocks.length; i++) {
      const local = this.#local + localBlocks[i]! * blockBytes;
      const remote = this.#remote + remoteBlocks[i]! * blockBytes;
      if (direction === 'read') memcpy(local, remote, blockBytes);
      else memcpy(remote, local, blockBytes);
    }
    const seconds = Number(process.hrtime.bigint() - started) / 1e9;
    return this.#held === undefined ? 0 : seconds;
  }
}
