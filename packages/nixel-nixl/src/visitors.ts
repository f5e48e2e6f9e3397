import type { NixlAgent } from './binding.ts';
import { agentOf } from './frames.ts';

const MAX_VISITORS = 4096;

/** Agents that read here without being peers: known only so far that they can be told what is gone. */
export class Visitors {
  readonly #agent: NixlAgent;
  /** NIXL names. */
  readonly #names = new Set<string>();

  constructor(agent: NixlAgent) {
    this.#agent = agent;
  }

  /** `connection` must be of the sender itself. An earlier life of the same agent leaves. */
  add(name: string, connection: Uint8Array): void {
    for (const other of this.#names) if (other !== name && agentOf(other) === agentOf(name)) this.remove(other);
    if (this.#names.has(name) || this.#names.size >= MAX_VISITORS) return;
    const loaded = this.#agent.load(connection);
    if (loaded === name) this.#names.add(name);
    else if (typeof loaded === 'string') this.#agent.invalidate(loaded);
  }

  /** Those that cannot be told are forgotten. */
  tell(frame: Uint8Array): void {
    for (const name of [...this.#names]) if (this.#agent.notify(name, frame) < 0) this.remove(name);
  }

  remove(name: string): void {
    if (this.#names.delete(name)) this.#agent.invalidate(name);
  }

  removeAll(): void {
    for (const name of [...this.#names]) this.remove(name);
  }

  /** It has become a peer: its metadata is the link's now. */
  promote(name: string): void {
    this.#names.delete(name);
  }
}
